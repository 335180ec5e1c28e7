"""The audit of a split: nothing that two parts of a fold must not share is in both."""

from collections import Counter, defaultdict
from collections.abc import Mapping
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
    if sorted(folds["video_id"]) != sorted(index["video_id"]):
        raise ValueError("the split and the index hold different videos")
    for video_id in folds.filter(pl.col("video_id").is_duplicated())["video_id"]:
        raise ValueError(f"video {video_id} has two rows")
    _check_places(folds)
    places = dict(folds.select("video_id", _place()).iter_rows())
    return [leak for key in KEYS for leak in _shared(key, index, places)] + [
        Leak("fingerprint", f"within {config.fingerprint_distance} bits", *named)
        for named in _lookalikes(index, places, config, matches)
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


def _shared(key: str, index: pl.DataFrame, places: Mapping[str, str]) -> list[Leak]:
    rows = index.select("video_id", value=pl.col(key))
    if key == "cascade_ids":
        rows = rows.explode("value").drop_nulls()
    rows = rows.with_columns(place=pl.col("video_id").replace_strict(places))
    divided = rows.filter(pl.col("place").n_unique().over("value") > 1)
    first_in_place = divided.sort("value", "place", "video_id").unique(
        ["value", "place"], keep="first", maintain_order=True
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
    index: pl.DataFrame, places: Mapping[str, str], config: IndexConfig, matches: Path | None
) -> list[tuple[str, str]]:
    names, fingerprints = index["video_id"].to_list(), index["fingerprint"].to_list()
    found = near_duplicates(
        fingerprints,
        max_distance=config.fingerprint_distance,
        min_share=config.fingerprint_share,
        known=matches,
    )
    named = [sorted((names[match.one], names[match.other])) for match in found]
    return sorted(
        (f"{one} ({places[one]})", f"{other} ({places[other]})")
        for one, other in named
        if places[one] != places[other]
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
    videos = folds.join(index.select("video_id", "cascade_ids"), on="video_id").sort("video_id")
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
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for cascades, label in training.select("cascade_ids", "label").iter_rows():
        for cascade in cascades:
            table[cascade][label] += 1
    everything = Counter(training["label"])
    guesses = []
    for cascades in asked["cascade_ids"].to_list():
        known = sum((table[name] for name in cascades if name in table), Counter[str]())
        guesses.append(commonest(known or everything))
    return guesses
