from pathlib import Path

import polars as pl
import pytest

from fvc.errors import FvcError
from fvc.evidence.locked import count_unlocked, digest_of, kept_logits, locked_videos

FOLDS = pl.DataFrame(
    {
        "video_id": ["c", "a", "b"],
        "label": ["fake", "real", "real"],
        "group": ["g1", "g0", "g0"],
        "part": ["locked", "locked", "fold"],
    }
)
INDEX = pl.DataFrame({"video_id": ["a", "b", "c"], "sha256": ["of a", "of b", "of c"]})


@pytest.fixture
def videos(tmp_path: Path) -> pl.DataFrame:
    return locked_videos(FOLDS, INDEX, tmp_path)


def scores(names: str, **changes: str) -> pl.DataFrame:
    """As a version keeps them; `changes` are of contents, by id."""
    contents = [changes.get(name, f"of {name}") for name in names]
    logits = [float(ord(name)) for name in names]
    return pl.DataFrame({"video_id": list(names), "sha256": contents, "logit": logits})


def test_the_locked_videos_are_those_by_id(videos: pl.DataFrame) -> None:
    rows = videos.select("video_id", "label", "sha256").rows()
    assert rows == [("a", "real", "of a"), ("c", "fake", "of c")]


def test_a_locked_video_that_is_not_indexed_is_named(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match="c: is in the locked test, not in the index"):
        locked_videos(FOLDS, INDEX.head(2), tmp_path)


def test_kept_scores_of_the_same_videos_are_given_in_their_order(videos: pl.DataFrame) -> None:
    kept = kept_logits(scores("ca"), videos)
    assert kept is not None
    assert kept.tolist() == [ord("a"), ord("c")]
    relabelled = videos.with_columns(label=pl.lit("fake"), group=pl.lit("g"))
    assert kept_logits(scores("ca"), relabelled) is not None, "a logit knows no label"


@pytest.mark.parametrize(
    "kept",
    [
        scores("a"),
        scores("ab"),
        scores("abc"),
        scores("ac", c="other bytes"),
        scores("ac").drop("sha256"),
    ],
    ids=["one less", "another", "one more", "other bytes", "of older code"],
)
def test_kept_scores_of_other_videos_are_not_used(kept: pl.DataFrame, videos: pl.DataFrame) -> None:
    assert kept_logits(kept, videos) is None


def test_videos_that_may_have_been_trained_on_are_counted(videos: pl.DataFrame) -> None:
    assert count_unlocked(scores("abc"), videos) == 0
    assert count_unlocked(scores("bc"), videos) == 1


def test_a_locked_test_is_named_by_its_videos(videos: pl.DataFrame) -> None:
    assert digest_of(videos) == digest_of(videos.reverse().with_columns(label=pl.lit("fake")))
    assert digest_of(videos) != digest_of(videos.head(1))
