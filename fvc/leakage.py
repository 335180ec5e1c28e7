"""The audit of a split: nothing that two parts of a fold must not share is in both."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fvc.config import IndexConfig
from fvc.groups import commonest
from fvc.near_duplicates import near_duplicates
from fvc.records import part_in

KEYS = ("group", "source_id", "sha256", "cascade_ids")
"""Videos that agree in one of these belong together; so do near-duplicates."""

CHANCE = 0.5
"""Balanced accuracy of guesses that know nothing."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Two videos that share what their parts must not share."""

    key: str
    """One of `KEYS`, or `fingerprint`."""
    value: str
    one: str
    """A video, with its place in the split."""
    other: str

    def __str__(self) -> str:
        return f"{self.one} and {self.other} share {self.key} {self.value}"


@dataclass(frozen=True, slots=True)
class Lookup:
    """How far the cascades of the training videos tell the labels of one test."""

    test: str
    """`fold k`, or `locked`."""
    balanced_accuracy: float
    known: tuple[Leak, ...]
    """The test videos of known cascades, each with a training video."""


def find_leaks(
    folds: pl.DataFrame, index: pl.DataFrame, config: IndexConfig, *, matches: Path | None = None
) -> list[Leak]:
    """Compare the places of all videos that belong together; in a clean split they are equal.

    Equal places (locked or not, the fold that tests, the folds that validate)
    put videos into the same part of every fold.

    Args:
        folds: A `FOLDS` table.
        index: The `INDEX` table that it divides.
        config: Which fingerprints are near-duplicates.
        matches: Folder in which searches for near-duplicates keep what they found.

    Returns:
        One leak for each key, value and place but the first, and one for each
        pair of near-duplicates in different places.

    Raises:
        ValueError: The tables are not about the same videos, a video has two
            rows, or its place puts it into two parts of a fold, or into none.
    """
    if not folds["video_id"].sort().equals(index["video_id"].sort()):
        raise ValueError("the split and the index hold different videos")
    for video_id in folds.filter(pl.col("video_id").is_duplicated())["video_id"]:
        raise ValueError(f"video {video_id} has two rows")
    _check_places(folds)
    places = folds.select("video_id", place=_place())
    # From here on numbers, in the order of the names: of millions of texts, half the memory.
    places = places.with_columns(pl.col("place").cast(pl.Enum(places["place"].unique().sort())))
    places = index.select("video_id").join(places, on="video_id", maintain_order="left")
    placed = index.select("video_id", *KEYS, "fingerprint", place=places["place"])
    return [leak for key in KEYS for leak in _shared(key, placed)] + [
        Leak("fingerprint", f"within {config.fingerprint_distance} bits", *named)
        for named in _lookalikes(placed, config, matches)
    ]


def _place() -> pl.Expr:
    validates = pl.col("validates").list.sort().cast(pl.List(pl.String)).list.join(",")
    fold = pl.col("fold").cast(pl.String).fill_null("-")
    return pl.format("{} {}, validates [{}]", "part", fold, validates)


def _check_places(folds: pl.DataFrame) -> None:
    locked, fold = pl.col("part") == "locked", pl.col("fold")
    tests = folds["fold"].drop_nulls().unique().to_list()
    twice = pl.col("validates").list.contains(fold).fill_null(value=False)
    # Of a single division, most videos are tested by no fold.
    nowhere = fold.is_null() & pl.lit(tests != [0])
    wrong = folds.filter(
        pl.when(locked)
        .then(fold.is_not_null() | (pl.col("validates").list.len() > 0))
        .otherwise(nowhere | twice)
    )
    if len(wrong):
        raise ValueError(f"video {wrong['video_id'][0]} is in two parts of a fold, or in none")


def _shared(key: str, placed: pl.DataFrame) -> list[Leak]:
    rows = placed.select("video_id", "place", value=pl.col(key))
    if key == "cascade_ids":
        rows = rows.explode("value").drop_nulls()
    place = pl.col("place").to_physical()
    divided = rows.group_by("value").agg(divided=place.min() != place.max()).filter("divided")
    first_in_place = (
        rows.join(divided, on="value", how="semi", nulls_equal=True)
        .sort("value", "place", "video_id")
        .unique(["value", "place"], keep="first", maintain_order=True)
        .select("video_id", "value", "place")
    )
    homes: dict[str, str] = {}
    leaks = []
    for video_id, value, place in first_in_place.iter_rows():
        named = f"{video_id} ({place})"
        if value in homes:
            leaks.append(Leak(key, str(value), homes[value], named))
        else:
            homes[value] = named
    return leaks


def _lookalikes(
    placed: pl.DataFrame, config: IndexConfig, matches: Path | None
) -> list[tuple[str, str]]:
    found = near_duplicates(
        placed["fingerprint"].to_list(),
        max_distance=config.fingerprint_distance,
        min_share=config.fingerprint_share,
        known=matches,
    )
    named = placed.select("video_id", pl.col("place").cast(pl.String))
    ones, others = (
        named[[getattr(match, side) for match in found]].rows() for side in ("one", "other")
    )
    pairs = [sorted(pair) for pair in zip(ones, others, strict=True)]
    return sorted(
        (f"{one} ({place})", f"{other} ({other_place})")
        for (one, place), (other, other_place) in pairs
        if place != other_place
    )


def look_up_cascades(folds: pl.DataFrame, index: pl.DataFrame) -> list[Lookup]:
    """Guess the labels of every test from the cascades of what is trained on, without pixels.

    The tests are those of the folds, and the locked one, for which all other
    videos are training. In a clean split no cascade is known, every guess
    about one test is the same, and the balanced accuracy is `CHANCE`.

    Args:
        folds: A `FOLDS` table with videos of both labels in every test.
        index: The `INDEX` table that it divides.
    """
    videos = folds.drop("group").join(index.select("video_id", "cascade_ids"), on="video_id")
    found = []
    for fold in folds["fold"].drop_nulls().unique().sort():
        training, test = (videos.filter(part_in(fold) == part) for part in ("train", "test"))
        found.append(_look_up(training, test, f"fold {fold}"))
    locked = pl.col("part") == "locked"
    return [*found, _look_up(videos.filter(~locked), videos.filter(locked), "locked")]


def _look_up(training: pl.DataFrame, test: pl.DataFrame, name: str) -> Lookup:
    hits = pl.Series(guess_labels(training, test)) == test["label"]
    recalls = test.select("label", hit=hits).group_by("label").agg(pl.col("hit").mean())
    known, told = (
        rows.select("video_id", value="cascade_ids").explode("value").drop_nulls()
        for rows in (test, training)
    )
    pairs = known.join(told, on="value", suffix="_told").sort("video_id", "value", "video_id_told")
    return Lookup(
        test=name,
        balanced_accuracy=float(recalls["hit"].sum() / len(recalls)),
        known=tuple(
            Leak("cascade_ids", value, f"{one} (tested)", f"{other} (trained on)")
            for one, value, other in pairs.unique("video_id", keep="first", maintain_order=True)
            .select("video_id", "value", "video_id_told")
            .iter_rows()
        ),
    )


def guess_labels(training: pl.DataFrame, asked: pl.DataFrame) -> list[str]:
    """The commonest label of each video's cascades in training, else that of all training.

    Args:
        training: `cascade_ids` and `label`; at least one row.
        asked: `cascade_ids`.
    """
    totals = training.group_by("label").len()
    told = _by_cascade(training, "label").group_by("cascade_ids", "label").len()
    rows = asked.select("cascade_ids").with_row_index("row")
    votes = (
        _by_cascade(rows, "row")
        .join(told, on="cascade_ids")
        .group_by("row", "label")
        .agg(pl.col("len").sum())
    )
    known = votes.sort("len", "label", descending=[True, False]).unique(
        "row", keep="first", maintain_order=True
    )
    guesses = rows.select("row").join(
        known.select("row", "label"), on="row", how="left", maintain_order="left"
    )
    return guesses["label"].fill_null(commonest(dict(totals.iter_rows()))).to_list()


def _by_cascade(videos: pl.DataFrame, column: str) -> pl.DataFrame:
    """One row for each cascade of each video."""
    return videos.select("cascade_ids", column).explode("cascade_ids").drop_nulls("cascade_ids")
