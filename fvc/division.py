"""Choosing groups: a draw that hardly moves when the corpus grows, and parts that balance."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import polars as pl
from jaxtyping import Float

from fvc.dealing import deal
from fvc.seeding import generator_for, seed_for

SIZES = (3, 9, 27, 81)
"""Most videos of a group in each class of size; the largest groups are in one more."""

MAX_PARTS = 20
"""A share is taken as so many of at most so many parts; a smaller one needs more."""


@dataclass(frozen=True, order=True, slots=True)
class Profile:
    """What a group is like; groups of one profile stand for each other."""

    label: str
    """That of most of its videos; of equally many, the first by name."""
    platform: str
    """That of most of its videos; of equally many, the first by name."""
    size: int
    """Class of its number of videos, by `SIZES`."""


def profiles(videos: pl.DataFrame) -> dict[str, Profile]:
    """Describe each group; `videos` has `group`, `label` and `platform`."""
    counted = _counted(videos)
    described = (
        counted.group_by("group")
        .agg(size=pl.col("videos").sum())
        .join(_commonest(counted, "group", "label"), on="group")
        .join(_commonest(counted, "group", "platform"), on="group")
        .sort("group")
    )
    classes = np.searchsorted(SIZES, described["size"].to_numpy())
    named = described.select("group", "label", "platform").iter_rows()
    return {
        group: Profile(label, platform, size)
        for (group, label, platform), size in zip(named, classes.tolist(), strict=True)
    }


def _counted(videos: pl.DataFrame) -> pl.DataFrame:
    """How many videos of each label and platform every group has, in far fewer rows."""
    return videos.group_by("group", "label", "platform").agg(videos=pl.len().cast(pl.Int64))


def _commonest(counted: pl.DataFrame, of: str, column: str) -> pl.DataFrame:
    """The value that most videos of each `of` have; of equally many, the first by name."""
    totals = counted.group_by(of, column).agg(pl.col("videos").sum())
    return (
        totals.sort("videos", column, descending=[True, False])
        .unique(of, keep="first", maintain_order=True)
        .select(of, column)
    )


def draw(groups: Mapping[str, Profile], share: float, seed: int) -> set[str]:
    """Choose a share of the groups of each label, at least one, alike in platform and size.

    Each profile gives its share of its groups, rounded so that the label's
    total is right. Each group has a random rank of its own and the lowest are
    taken, so one more group moves at most a few others in or out.

    Source:
        Rounding by largest remainder (Hamilton's method): Balinski and Young,
        "Fair Representation" (1982), chapter 3.
    """
    chosen: set[str] = set()
    for label in sorted({profile.label for profile in groups.values()}):
        members = defaultdict(list)
        for group, profile in groups.items():
            if profile.label == label:
                members[profile].append(group)
        quotas = {profile: share * len(held) for profile, held in members.items()}
        seats = _rounded(quotas, max(1, round(share * sum(map(len, members.values())))))
        for profile, held in members.items():
            held.sort(key=lambda group: seed_for(seed, group))
            chosen.update(held[: seats[profile]])
    return chosen


def _rounded(quotas: Mapping[Profile, float], total: int) -> dict[Profile, int]:
    seats = {profile: math.floor(quota) for profile, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda profile: (seats[profile] - quotas[profile], profile))
    for profile in by_remainder[: total - sum(seats.values())]:
        seats[profile] += 1
    return seats


def parts(videos: pl.DataFrame, num_parts: int, seed: int) -> dict[str, int]:
    """Map each group to one of `num_parts` parts that are alike in label, platform and size.

    Where groups are so few that a part would lack a label, platforms are not
    looked at; then still a part may lack one.

    Args:
        videos: `group`, `label` and `platform`, in an order that is always the same.
        num_parts: At least 2.
        seed: For the order in which groups of equal composition are dealt.

    Raises:
        ValueError: There are fewer videos of every label than parts.
    """
    counted = _counted(videos)
    part_of = _dealt(_classed(counted, num_parts), num_parts, seed)
    held = {
        (part_of[group], label) for group, label in counted.select("group", "label").iter_rows()
    }
    if len(held) == num_parts * counted["label"].n_unique():
        return part_of
    return _dealt(counted.with_columns(of="label"), num_parts, seed)


def _dealt(counted: pl.DataFrame, num_parts: int, seed: int) -> dict[str, int]:
    """Deal the groups, alike in the classes `of`."""
    groups, classes = (counted[name].unique().sort() for name in ("group", "of"))
    row, column = (
        counted[name].replace_strict(known, np.arange(len(known)), return_dtype=pl.Int64).to_numpy()
        for name, known in (("group", groups), ("of", classes))
    )
    counts = np.zeros((len(groups), len(classes)))
    np.add.at(counts, (row, column), counted["videos"].to_numpy())
    found = deal(counts, num_parts, seed % 2**32)
    return dict(zip(groups.to_list(), found.tolist(), strict=True))


def _classed(counted: pl.DataFrame, num_parts: int) -> pl.DataFrame:
    """Name as `of` the label and platform of videos, as far as parts can hold equally many of each.

    Where one group holds more of a class than a part should, dealing that
    class out would unbalance the rest: such platforms count as the label's
    commonest, and if that does not help, platforms of the label do not count.
    """
    usual = dict(_commonest(counted, "label", "platform").iter_rows())
    coarser = counted.with_columns(of="platform")
    coarser = coarser.with_columns(
        of=pl.when(_is_even(num_parts)).then("of").otherwise(pl.col("label").replace(usual))
    )
    coarser = coarser.with_columns(even=_is_even(num_parts))
    every = pl.col("even").all().over("label")
    return coarser.with_columns(
        of=pl.format("{} {}", "label", pl.when(every).then("of").otherwise(pl.lit("")))
    )


def _is_even(num_parts: int) -> pl.Expr:
    """Whether no group has more than a part's share of the videos of a label and `of`."""
    videos = pl.col("videos").sum()
    largest = videos.over("label", "of", "group").max().over("label", "of")
    return largest * num_parts <= videos.over("label", "of")


def take(videos: pl.DataFrame, share: float, seed: int) -> set[str]:
    """Choose groups that hold about a share of the videos, alike in label, platform and size.

    They are some of many balanced parts. Where groups are so few that no part
    holds every label, they are drawn one by one instead.

    Args:
        videos: `group`, `label` and `platform`, in an order that is always the same.
        share: Above 0 and below 1.
        seed: Which of the possible choices is made.
    """
    fraction = Fraction(share).limit_denominator(max(MAX_PARTS, math.ceil(1 / share)))
    taken, num_parts = fraction.as_integer_ratio()
    by_label = videos.group_by("group", "label").len()
    labels = by_label["label"].unique().sort().to_list()
    if num_parts > max(videos.group_by("label").len()["len"].to_list()):
        return draw(profiles(videos), share, seed)
    part_of = parts(videos, num_parts, seed)
    held = np.zeros((num_parts, len(labels)))
    for group, label, count in by_label.iter_rows():
        held[part_of[group], labels.index(label)] += count
    starts = generator_for(seed, "part").permutation(num_parts)
    choices = [(start + np.arange(taken)) % num_parts for start in starts]
    misses = [_miss(held[choice].sum(axis=0), share * held.sum(axis=0)) for choice in choices]
    # Rounded, so that among parts that are about as good the seed chooses.
    best = int(np.argmin(np.round(misses, 1)))
    if not np.isfinite(misses[best]):
        return draw(profiles(videos), share, seed)
    return {group for group, part in part_of.items() if part in choices[best]}


def _miss(found: Float[np.ndarray, "L"], wanted: Float[np.ndarray, "L"]) -> float:
    """How far the counts of labels are from what is wanted; infinite where one is missing."""
    return float(np.abs(found / wanted - 1).max()) if found.all() else math.inf
