import numpy as np
import polars as pl
import pytest

from fvc.config import EvaluateConfig
from fvc.evidence.metrics import Outcomes
from fvc.evidence.slices import UNKNOWN, slice_all, slice_names

CONFIG = EvaluateConfig(
    bootstrap_samples=100,
    confidence=0.95,
    ece_bins=10,
    target_error_rate=0.1,
    robustness_videos=0,
)


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
        }
    )


def outcomes_of(videos: pl.DataFrame) -> Outcomes:
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
    for by in ("platform", "subset", "resolution", "duration", "codec", "cascade_size"):
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
    youtube = [part for part in (*every, *rest) if part.name == "youtube"]
    assert youtube[0] == youtube[1], "one slice's interval moved with another slice's videos"


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
