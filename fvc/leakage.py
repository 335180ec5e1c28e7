"""The audit of a split: nothing that two parts of a fold must not share is in both."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

KEYS = ("video_id", "group", "source_id", "sha256", "cascade_ids")
"""Videos that agree in one of these belong together."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Two videos that share what their parts must not share."""

    key: str
    """One of `KEYS`."""
    value: str
    one: str
    """A video, with its place in the split."""
    other: str

    def __str__(self) -> str:
        return f"{self.one} and {self.other} share {self.key} {self.value}"


def find_leaks(folds: pl.DataFrame, index: pl.DataFrame) -> list[Leak]:
    """Compare the places of all videos that belong together; in a clean split they are equal.

    Equal places (locked or not, the fold that tests, the folds that validate)
    put videos into the same part of every fold.

    Args:
        folds: A `FOLDS` table.
        index: The `INDEX` table that it divides.

    Raises:
        ValueError: The tables are not about the same videos, or the place of
            one video puts it into two parts of a fold.
    """
    if sorted(folds["video_id"]) != sorted(index["video_id"]):
        raise ValueError("the split and the index hold different videos")
    places = folds.select("video_id", place=_place())
    _check_places(folds)
    leaks = []
    for key in KEYS:
        shared = index.select("video_id", value=pl.col(key))
        if key == "cascade_ids":
            shared = shared.explode("value").drop_nulls()
        # A maintained order keeps the message the same from run to run.
        joined = shared.join(places, on="video_id").sort("value", "place", "video_id")
        for (value,), rows in joined.group_by("value", maintain_order=True):
            first, last = rows.row(0, named=True), rows.row(-1, named=True)
            if first["place"] != last["place"]:
                named = [f"{row['video_id']} ({row['place']})" for row in (first, last)]
                leaks.append(Leak(key, str(value), *named))
    return leaks


def _place() -> pl.Expr:
    validates = pl.col("validates").list.sort().cast(pl.List(pl.String)).list.join(",")
    fold = pl.col("fold").cast(pl.String).fill_null("-")
    return pl.format("{} {}, validates [{}]", "part", fold, validates)


def _check_places(folds: pl.DataFrame) -> None:
    locked = pl.col("part") == "locked"
    twice = pl.col("validates").list.contains(pl.col("fold"))
    wrong = folds.filter(
        pl.when(locked)
        .then(pl.col("fold").is_not_null() | (pl.col("validates").list.len() > 0))
        .otherwise(pl.col("fold").is_null() | twice)
    )
    if len(wrong):
        raise ValueError(f"video {wrong['video_id'][0]} is in two parts of a fold, or in none")


def cascade_lookup_accuracy(folds: pl.DataFrame, index: pl.DataFrame) -> float:
    """Balanced accuracy of guessing each label from the cascades of the training videos.

    It sees no pixels: a test video gets the commonest label of its cascades
    among the fold's training videos, or of all of them where its cascades are
    unknown. Above one half, the split leaks; there is no result for a
    class without videos.

    Args:
        folds: A `FOLDS` table with both labels.
        index: The `INDEX` table that it divides.
    """
    videos = folds.join(index.select("video_id", "cascade_ids"), on="video_id")
    open_videos = videos.filter(part="fold").sort("video_id")
    hits: dict[str, list[bool]] = defaultdict(list)
    for fold in open_videos["fold"].unique().sort():
        rows = list(open_videos.iter_rows(named=True))
        training = [row for row in rows if fold not in (row["fold"], *row["validates"])]
        table = defaultdict(list)
        for row in training:
            for cascade in row["cascade_ids"]:
                table[cascade].append(row["label"])
        fallback = [row["label"] for row in training]
        for row in (row for row in rows if row["fold"] == fold):
            known = [label for cascade in row["cascade_ids"] for label in table.get(cascade, [])]
            hits[row["label"]].append(_commonest(known or fallback) == row["label"])
    recalls = [sum(found) / len(found) for found in hits.values()]
    return sum(recalls) / len(recalls)


def _commonest(labels: Iterable[str]) -> str:
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))
