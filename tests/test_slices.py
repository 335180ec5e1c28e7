import numpy as np
import polars as pl
import pytest
from outcomes import CONFIG

from fvc.evidence.metrics import Outcomes
from fvc.evidence.slices import UNKNOWN, slice_all, slice_names
from fvc.report import sections


def videos_of(num_videos: int = 40) -> pl.DataFrame:
    """Videos in groups of two; the first ten are of another platform and all fake."""
    rows = range(num_videos)
    return pl.DataFrame(
        {
            "group": [f"g{row // 2}" for row in rows],
            "platform": ["twitter" if row < 10 else "youtube" for row in rows],
            "subset": ["FVC1"] * num_videos,
            "width": [640 if row % 2 else 240 for row in rows],
            "height": [360 if row % 2 else 426 for row in rows],
            "duration_s": [float(1 + 10 * row) for row in rows],
            "codec": ["h264"] * num_videos,
            "bitrate_bps": [300e3 * (1 + row % 12) for row in rows],
            "raw_label": ["fake" if row // 12 % 2 else "real" for row in rows],
        }
    )


def outcomes_of(videos: pl.DataFrame) -> Outcomes:
    """Calls that have nothing to do with the labels."""
    is_fake = np.array([row < 10 or row % 4 < 2 for row in range(videos.height)])
    probability = np.random.default_rng(0).random(videos.height)
    return Outcomes(
        is_fake=is_fake,
        probability=probability,
        called_fake=probability >= 0.5,
        decided=np.ones(videos.height, dtype=bool),
        groups=videos["group"].to_numpy(),
    )


def test_every_property_divides_all_videos() -> None:
    videos = videos_of()
    found = slice_all(videos, outcomes_of(videos), config=CONFIG, seed=0)
    assert {part.by for part in found} == set(sections.PROPERTIES)
    for by in sections.PROPERTIES:
        assert sum(part.num_videos for part in found if part.by == by) == videos.height, by
        assert all(part.num_fake <= part.num_videos for part in found)


def test_a_slice_of_one_class_says_so() -> None:
    videos = videos_of()
    found = slice_all(videos, outcomes_of(videos), config=CONFIG, seed=0)
    twitter = next(part for part in found if part.name == "twitter")
    assert (twitter.num_videos, twitter.num_groups, twitter.num_fake) == (10, 5, 10)
    assert twitter.roc_auc.value is None
    assert twitter.roc_auc.reason == "all videos are fake"
    assert twitter.accuracy.low is not None
    assert twitter.as_dict()["roc_auc"] == twitter.roc_auc.as_dict()


def test_a_slice_depends_on_its_own_videos_alone() -> None:
    videos, fewer = videos_of(), videos_of().tail(30)
    outcomes = outcomes_of(videos)
    every = slice_all(videos, outcomes, config=CONFIG, seed=0)
    chosen = np.arange(40) >= 10
    rest = slice_all(fewer, outcomes.select(chosen), config=CONFIG, seed=0)
    whole, alone = (
        next(part for part in found if part.name == "youtube") for found in (every, rest)
    )
    assert (whole.roc_auc, whole.accuracy) == (alone.roc_auc, alone.accuracy), (
        "one slice's interval moved with another slice's videos"
    )


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(240, 9999, "up to 240 px"), (241, 500, "241 to 360 px"), (1280, 720, "481 to 720 px")],
)
def test_resolution_is_the_shorter_side(width: int, height: int, expected: str) -> None:
    videos = videos_of(2).with_columns(width=pl.lit(width), height=pl.lit(height))
    assert slice_names(videos)["resolution"].to_list() == [expected] * 2


def test_cascade_size_counts_the_group() -> None:
    videos = videos_of(12).with_columns(group=pl.Series(["a"] * 10 + ["b", "c"]))
    names = slice_names(videos)["cascade_size"].to_list()
    assert names == ["10 or more"] * 10 + ["1"] * 2


def test_what_is_not_known_has_its_own_slice() -> None:
    videos = videos_of(4).with_columns(
        duration_s=pl.Series([1.0, None, 20.0, None]), codec=pl.lit(None, dtype=pl.String)
    )
    assert slice_names(videos)["duration"].to_list() == [
        "up to 10 s",
        UNKNOWN,
        "10 to 30 s",
        UNKNOWN,
    ]
    found = slice_all(videos, outcomes_of(videos), config=CONFIG, seed=0)
    names = [part.name for part in found if part.by == "duration"]
    assert names == ["up to 10 s", "10 to 30 s", UNKNOWN], (
        "bins are not in order, or unknown is not last"
    )


def test_bitrates_are_binned_in_kilobits() -> None:
    rates = [300e3, 300_001.0, 1.2e6, 3e6, 9e6, None]
    videos = videos_of(6).with_columns(bitrate_bps=pl.Series(rates))
    assert slice_names(videos)["bitrate"].to_list() == [
        "up to 300 kbit/s",
        "300 to 700 kbit/s",
        "700 to 1500 kbit/s",
        "1500 to 3000 kbit/s",
        "over 3000 kbit/s",
        UNKNOWN,
    ]


def spoilt(videos: pl.DataFrame) -> Outcomes:
    """Calls that are right but for one in ten, and for four in five of low bitrates."""
    generator = np.random.default_rng(0)
    is_fake = (videos["raw_label"] == "fake").to_numpy()
    error = np.where(videos["bitrate_bps"] <= 900e3, 0.8, 0.1)
    called = is_fake ^ (generator.random(videos.height) < error)
    return Outcomes(
        is_fake=is_fake,
        probability=np.where(called, 0.9, 0.1),
        called_fake=called,
        decided=np.ones(videos.height, dtype=bool),
        groups=videos["group"].to_numpy(),
    )


def test_a_slice_that_is_worse_is_flagged_and_named_on_top() -> None:
    videos = videos_of(400)
    found = slice_all(videos, spoilt(videos), config=CONFIG, seed=0)
    worse = {part.name for part in found if part.excess.worse}
    assert worse == {"up to 300 kbit/s", "300 to 700 kbit/s"}
    assert all(part.as_dict()["excess_error"] == part.excess.as_dict() for part in found)
    section = sections.slices_section(found)
    assert section.text[0].startswith("The model is wrong more often than elsewhere on: bitrate")
    assert "300 to 700 kbit/s (+0." in section.text[0]
    marked = [
        row[0] for grid in section.grids for row in grid.rows if row[-1].startswith("worse: +0.")
    ]
    assert set(marked) == worse


def test_where_no_slice_is_worse_the_section_says_so() -> None:
    videos = videos_of(400)
    found = slice_all(videos, outcomes_of(videos), config=CONFIG, seed=0)
    assert not [part for part in found if part.excess.worse]
    tested = sum(part.excess.corrected is not None for part in found)
    opening = sections.slices_section(found).text[0]
    assert opening == (
        f"No slice is shown to be worse than the rest; {tested} of {len(found)} slices could be "
        "tested."
    )
    assert tested >= 8


def test_slices_of_a_small_corpus_are_not_tested_and_the_section_says_so() -> None:
    videos = videos_of(12)
    section = sections.slices_section(slice_all(videos, outcomes_of(videos), config=CONFIG, seed=0))
    assert section.text[0].startswith("No slice could be tested")
    assert section.grids[0].rows[0][-1] == "too few cascades"
