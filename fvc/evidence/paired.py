"""Two models on the same videos: by how much one is better, and whether that is more than luck."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import binomtest

from fvc.config import EvaluateConfig
from fvc.evidence.intervals import difference_interval, difference_p_value
from fvc.evidence.metrics import DECIMALS, Estimate, Outcomes, Resampled, resample
from fvc.groups import connected


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One measure of two models."""

    first: Estimate
    second: Estimate
    gain: Estimate
    """Of the second minus that of the first."""
    p_value: float | None
    """How likely chance alone makes such a difference, either way; None without an interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """Whether two models' calls are wrong equally often."""

    only_first_right: int
    """Videos that the first alone calls by their label."""
    only_second_right: int
    p_value: float | None
    """None where there is no such video; `reason` says so."""
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Common:
    """What two models said of the videos that both scored, in the same order."""

    first: Outcomes
    second: Outcomes
    num_only_first: int
    """Videos that the first alone scored."""
    num_only_second: int
    num_relabelled: int
    """Videos that both scored under different labels; they are left out."""


def paired(
    first: Outcomes,
    second: Outcomes,
    *,
    per_group: bool,
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> dict[str, Pair]:
    """Every measure of both, and the difference with its interval.

    Both are measured on the same resamples of groups, so what makes a video hard for both
    cancels out. Where both are alike in every group, as two faultless ones are, they need not be in
    others, of which there may be as many as the interval allows for; a model alone does not differ
    from itself.

    Raises:
        ValueError: They are not of the same videos in the same order.
    """
    _check_same_videos(first, second)
    ours, theirs = (
        resample(each, per_group=per_group, config=config, generator=deepcopy(generator))
        for each in (first, second)
    )
    return {name: _pair(name, ours, theirs, config.confidence) for name in ours.values}


def _check_same_videos(first: Outcomes, second: Outcomes) -> None:
    same = np.array_equal(first.is_fake, second.is_fake)
    if not (same and np.array_equal(first.groups, second.groups)):
        raise ValueError("the two were not measured on the same videos")


def _pair(name: str, first: Resampled, second: Resampled, confidence: float) -> Pair:
    one, other = first.estimate(name, confidence), second.estimate(name, confidence)
    p_value = None
    if one.value is None or other.value is None:
        gain = Estimate(value=None, reason=one.reason or other.reason)
    elif one.low is None or one.high is None or other.low is None or other.high is None:
        gain = Estimate(value=other.value - one.value, reason=one.reason or other.reason)
    else:
        value, low, high, p_value = 0.0, 0.0, 0.0, 1.0
        if not _equal(first.outcomes, second.outcomes):
            value, drawn = other.value - one.value, second.drawn[name] - first.drawn[name]
            groups = min(first.num_groups(name), second.num_groups(name))
            low, high = difference_interval(value, drawn, groups, confidence)
            p_value = difference_p_value(value, drawn, groups)
        gain = Estimate(value=value, low=low, high=high)
    return Pair(first=one, second=other, gain=gain, p_value=p_value)


def _equal(first: Outcomes, second: Outcomes) -> bool:
    """Whether two models say the same of every video."""
    return all(
        np.array_equal(getattr(first, column), getattr(second, column))
        for column in ("probability", "called_fake", "decided")
    )


def mcnemar(first: Outcomes, second: Outcomes) -> McNemar:
    """The exact test of whether either model is right more often where just one is.

    It takes every video for an observation of its own. Near-duplicates are not: a cascade
    that one model gets wrong counts as often as it was uploaded, and the p value is too
    small. The interval of the difference in accuracy, from resamples of whole groups, is
    the one to trust; this is for comparison with publications that have no groups.

    Raises:
        ValueError: They are not of the same videos in the same order.

    Source:
        McNemar, "Note on the sampling error of the difference between correlated
        proportions or percentages", Psychometrika 12, 1947; exact, by the binomial.
    """
    _check_same_videos(first, second)
    right, also_right = (each.called_fake == each.is_fake for each in (first, second))
    only_first, only_second = int((right & ~also_right).sum()), int((also_right & ~right).sum())
    reason = None if only_first + only_second else "no video is called rightly by one model alone"
    return McNemar(
        only_first_right=only_first,
        only_second_right=only_second,
        p_value=None if reason else float(binomtest(only_first, only_first + only_second).pvalue),
        reason=reason,
    )


def in_common(first: pl.DataFrame, second: pl.DataFrame) -> Common:
    """Put side by side what two models said, whatever their folds and data.

    Videos that either one's groups hold together are drawn together.

    Args:
        first: An OUT_OF_FOLD table.
        second: Another one.

    Raises:
        ValueError: No video is in both under the same label.
    """
    joined = first.join(second, on="video_id", suffix="_second").sort("video_id")
    kept = joined.filter(pl.col("label") == pl.col("label_second"))
    if kept.is_empty():
        raise ValueError("they have no video with the same label in common")
    groups = _merged(kept)
    columns = ("label", "probability_fake", "called", "verdict")
    one = kept.select(columns)
    other = kept.select(pl.col(f"{name}_second").alias(name) for name in columns)
    return Common(
        first=_outcomes(one, groups),
        second=_outcomes(other, groups),
        num_only_first=first.height - joined.height,
        num_only_second=second.height - joined.height,
        num_relabelled=joined.height - kept.height,
    )


def _merged(kept: pl.DataFrame) -> np.ndarray:
    ties = [
        (row["video_id"], f"{side}:{row[column]}")
        for row in kept.iter_rows(named=True)
        for side, column in (("first", "group"), ("second", "group_second"))
    ]
    found: Mapping[str, str] = connected(ties)
    return np.array([found[video_id] for video_id in kept["video_id"]])


def _outcomes(said: pl.DataFrame, groups: np.ndarray) -> Outcomes:
    return Outcomes(
        is_fake=(said["label"] == "fake").to_numpy(),
        probability=said["probability_fake"].to_numpy(),
        called_fake=(said["called"] == "fake").to_numpy(),
        decided=(said["verdict"] != "uncertain").to_numpy(),
        groups=groups,
    )


def pair_as_dict(pair: Pair) -> dict[str, Any]:
    """For JSON."""
    estimates = {name: getattr(pair, name).as_dict() for name in ("first", "second", "gain")}
    p_value = None if pair.p_value is None else round(pair.p_value, DECIMALS)
    return {**estimates, "p_value": p_value}
