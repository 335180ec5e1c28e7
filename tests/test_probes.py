from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import CONFIG

from fvc.evidence.metrics import Estimate
from fvc.evidence.probes import PROBES, Probe, beats_probes, best_probe, probe_all, score_probes


def videos_of(num_groups: int, copies: int = 3, seed: int = 0) -> pl.DataFrame:
    """Videos whose properties say nothing about their label; five folds by group."""
    generator = np.random.default_rng(seed)
    rows = num_groups * copies
    fakes = generator.permutation(np.arange(num_groups) % 2 == 0)
    group = np.repeat(np.arange(num_groups), copies)
    return pl.DataFrame(
        {
            "video_id": [f"v{row:04}" for row in range(rows)],
            "group": [f"g{number}" for number in group],
            "cascade_ids": [[f"c{number}"] for number in group],
            "fold": [number % 5 for number in group],
            "is_fake": fakes[group],
            "platform": generator.choice(["youtube", "twitter", "facebook"], rows),
            "path": generator.choice(["a/video.mp4", "a/video.webm"], rows),
            "codec": generator.choice(["h264", "vp9"], rows),
            "width": generator.integers(200, 2000, rows),
            "height": generator.integers(200, 2000, rows),
            "fps": generator.uniform(10, 60, rows),
            "bitrate_bps": generator.uniform(1e5, 1e7, rows),
            "duration_s": generator.uniform(1, 100, rows),
            "size_bytes": generator.integers(10_000, 10_000_000, rows),
            "frame": generator.random((rows, 259)),
            "bars": generator.random((rows, 8)),
        }
    )


def training_of(videos: pl.DataFrame) -> dict[int, pl.DataFrame]:
    return {fold: videos.filter(pl.col("fold") != fold) for fold in range(5)}


def run(videos: pl.DataFrame) -> Mapping[str, Probe]:
    return probe_all(videos, training_of(videos), config=CONFIG, seed=0)


def area(probe: Probe) -> float:
    assert probe.roc_auc.value is not None
    return probe.roc_auc.value


def test_every_probe_is_at_chance_where_nothing_gives_the_label_away() -> None:
    found = run(videos_of(200, copies=1))
    assert set(found) == set(PROBES)
    for name, probe in found.items():
        assert 0.38 < area(probe) < 0.62, name
    assert area(found["majority"]) == area(found["cascade"]) == 0.5


def test_a_platform_that_tells_the_label_is_found() -> None:
    videos = videos_of(40).with_columns(
        platform=pl.when("is_fake").then(pl.lit("twitter")).otherwise(pl.lit("youtube"))
    )
    assert area(run(videos)["platform"]) == 1.0


@pytest.mark.parametrize("column", ["width", "fps", "codec", "path"])
def test_a_header_that_tells_the_label_is_found(column: str) -> None:
    videos = videos_of(40)
    low, high = videos[column].unique().sort()[0], videos[column].unique().sort()[-1]
    videos = videos.with_columns(
        pl.when("is_fake").then(pl.lit(high)).otherwise(pl.lit(low)).alias(column)
    )
    found = run(videos)
    assert area(found["container"]) == 1.0
    assert area(found["shuffle"]) < 0.8, "shuffled labels were learned"


@pytest.mark.parametrize("name", ["frame", "bars"])
def test_pixels_that_tell_the_label_are_found_by_their_probe_alone(name: str) -> None:
    videos = videos_of(60)
    pixels = videos[name].to_numpy().copy()
    pixels[:, 3] += videos["is_fake"].to_numpy()
    found = run(videos.with_columns(pl.Series(name, pixels)))
    others = {other: area(probe) for other, probe in found.items() if other != name}
    assert area(found[name]) > max(others.values()) + 0.2


def test_a_cascade_in_two_folds_is_found() -> None:
    videos = videos_of(40)
    leaking = videos.with_columns(fold=pl.int_range(pl.len()) % 5)
    assert area(run(leaking)["cascade"]) > 0.95, "the lookup does not see a leaking split"


def test_half_known_cascades_give_their_own_label_only() -> None:
    train = videos_of(2, copies=1).with_columns(
        is_fake=pl.Series([True, False]), cascade_ids=pl.Series([["a", "b"], ["b"]])
    )
    test = videos_of(4, copies=1).with_columns(
        cascade_ids=pl.Series([["a"], ["b"], ["a", "c"], ["d"]])
    )
    assert score_probes(train, test, 0)["cascade"].tolist() == [1.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize("seed", range(3))
def test_thirty_videos_are_enough(seed: int) -> None:
    videos = videos_of(10, seed=seed).with_columns(
        bitrate_bps=pl.lit(None, dtype=pl.Float64), codec=pl.lit(None, dtype=pl.String)
    )
    for probe in run(videos).values():
        assert 0 <= area(probe) <= 1


def test_training_of_one_class_teaches_nothing() -> None:
    videos = videos_of(20)
    scores = score_probes(videos.filter("is_fake"), videos, 0)
    for name in ("container", "frame", "bars", "shuffle"):
        assert set(scores[name].tolist()) == {0.5}, name
    assert set(scores["majority"].tolist()) == {1.0}


def test_a_fold_without_training_videos_is_refused() -> None:
    with pytest.raises(ValueError, match="no training video"):
        score_probes(videos_of(4).head(0), videos_of(4), 0)


def test_probes_are_the_same_every_time() -> None:
    assert run(videos_of(20)) == run(videos_of(20))


def test_no_probe_sees_the_labels_it_is_tested_on() -> None:
    videos = videos_of(20)
    tests = videos.filter(pl.col("fold") == 0)
    train = videos.filter(pl.col("fold") != 0)
    alone = score_probes(train, tests, 0)
    swapped = score_probes(train, tests.with_columns(is_fake=~pl.col("is_fake")), 0)
    for name, scores in alone.items():
        assert (scores == swapped[name]).all(), f"{name} saw the labels it is tested on"


def probes_of(**values: float | None) -> dict[str, Probe]:
    accuracy = Estimate(value=0.5)
    return {
        name: Probe(roc_auc=Estimate(value=value), accuracy=accuracy)
        for name, value in values.items()
    }


@given(st.floats(0, 1), st.floats(0, 1))
def test_only_an_interval_above_the_best_probe_beats_it(low: float, best: float) -> None:
    probes = probes_of(majority=0.0, container=best)
    found = beats_probes(Estimate(value=1.0, low=low, high=1.0), probes)
    assert found == (round(low, 6) > round(best, 6))


def test_what_is_not_known_beats_nothing() -> None:
    assert not beats_probes(Estimate(value=0.9), probes_of(majority=0.5))
    assert not beats_probes(Estimate(value=0.9, low=0.8, high=1.0), probes_of(majority=None))
    assert best_probe(probes_of(majority=None)) is None
    assert best_probe(probes_of(majority=0.5, container=0.7)) == "container"
