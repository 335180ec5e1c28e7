"""What a set of scored videos is worth, with intervals: arrays in, numbers out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fvc.config import EvaluateConfig
from fvc.evidence.measures import (
    calling_measures,
    equal_mass_bins,
    group_weights,
    probability_measures,
    ranking_measures,
)

CLASS_FREE = ("accuracy", "brier", "ece", "coverage", "decided_accuracy")
"""Measures that mean something where all videos are of one class."""

DECIMALS = 6
"""Digits kept in files: more than the last digits' dependence on the machine allows."""

CHUNK_VALUES = 2**20
"""Weights of resamples held in memory at once (8 MiB)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcomes:
    """What was said of some videos, and what they are.

    Raises:
        ValueError: There is no video, or a probability is not in [0, 1].
    """

    is_fake: Bool[np.ndarray, "V"]
    """The label."""
    probability: Float[np.ndarray, "V"]
    """Of being fake."""
    called_fake: Bool[np.ndarray, "V"]
    """The side of the threshold."""
    decided: Bool[np.ndarray, "V"]
    """The verdict is not `uncertain`."""
    groups: Shaped[np.ndarray, "V"]
    """What is drawn together when videos are resampled: names or numbers."""

    def __post_init__(self) -> None:
        if not self.is_fake.size:
            raise ValueError("there is no video to measure")
        if not ((self.probability >= 0) & (self.probability <= 1)).all():
            raise ValueError("a probability is not in [0, 1]")

    def select(self, chosen: Bool[np.ndarray, "V"]) -> "Outcomes":
        """The chosen videos alone."""
        return Outcomes(**{name: column[chosen] for name, column in _columns(self).items()})


def merge(parts: Sequence[Outcomes]) -> Outcomes:
    """The videos of all parts, one after the other."""
    columns = [_columns(part) for part in parts]
    return Outcomes(
        **{name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    )


def _columns(outcomes: Outcomes) -> dict[str, np.ndarray]:
    return {field.name: getattr(outcomes, field.name) for field in fields(outcomes)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its interval; what cannot be known is None, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, float | str | None]:
        """For JSON: rounded, and `reason` only where there is one."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        rounded: dict[str, float | str | None] = {
            name: None if number is None else round(number, DECIMALS)
            for name, number in numbers.items()
        }
        return rounded if self.reason is None else {**rounded, "reason": self.reason}


def estimate(
    outcomes: Outcomes, *, per_group: bool, config: EvaluateConfig, generator: np.random.Generator
) -> dict[str, Estimate]:
    """Every measure with its interval, per video or with the same weight for each group.

    The interval is the percentile bootstrap over groups, so near-duplicates count as the
    one observation they are. Resamples in which a measure is undefined are left out.
    Noise can only raise some measures (the calibration error), and their resamples lie
    above the estimate; the interval is then widened to hold it. There is no interval
    from fewer than two groups, nor, for a measure that compares the classes, from fewer
    than two groups that hold each class.

    Source:
        Cluster bootstrap: Davison and Hinkley, "Bootstrap Methods and their
        Application", section 3.8; percentile intervals: section 5.3.
    """
    base = group_weights(outcomes.groups) if per_group else np.ones(len(outcomes.groups))
    bins = equal_mass_bins(outcomes.probability, base, config.ece_bins)
    values = measures(outcomes, base[None], bins)
    drawn = [
        measures(outcomes, base * times, bins)
        for times in _draws(outcomes.groups, config.bootstrap_samples, generator)
    ]
    return {
        name: _with_interval(
            float(value[0]),
            np.concatenate([measured[name] for measured in drawn]),
            config.confidence,
            undefined=_why_undefined(name, outcomes),
            unknown=_why_no_interval(name, outcomes),
        )
        for name, value in values.items()
    }


def roc_auc_gain(
    candidate: Outcomes,
    opponent: Outcomes,
    *,
    config: EvaluateConfig,
    generator: np.random.Generator,
) -> Estimate:
    """The candidate's ROC-AUC minus the opponent's on the same videos, with its interval.

    Both are measured on each resample, so what makes a video hard for both cancels out.

    Raises:
        ValueError: They are not of the same videos in the same order.
    """
    same = np.array_equal(candidate.is_fake, opponent.is_fake)
    if not (same and np.array_equal(candidate.groups, opponent.groups)):
        raise ValueError("the two were not measured on the same videos")

    def gain(weights: Float[np.ndarray, "R V"]) -> Float[np.ndarray, "R"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            ours, theirs = (
                ranking_measures(each.is_fake, each.probability, weights)["roc_auc"]
                for each in (candidate, opponent)
            )
        return ours - theirs

    draws = _draws(candidate.groups, config.bootstrap_samples, generator)
    return _with_interval(
        float(gain(np.ones((1, len(candidate.is_fake))))[0]),
        np.concatenate([gain(times) for times in draws]),
        config.confidence,
        undefined=_why_undefined("roc_auc", candidate),
        unknown=_why_no_interval("roc_auc", candidate),
    )


def measure(outcomes: Outcomes, ece_bins: int) -> dict[str, float | None]:
    """Every measure per video, without intervals; None where it is undefined."""
    weights = np.ones(len(outcomes.is_fake))
    bins = equal_mass_bins(outcomes.probability, weights, ece_bins)
    values = measures(outcomes, weights[None], bins)
    return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()}


def measures(
    outcomes: Outcomes, weights: Float[np.ndarray, "R V"], bins: Int[np.ndarray, "V"]
) -> dict[str, Float[np.ndarray, "R"]]:
    """Every measure under each of R weightings; NaN where it is undefined.

    Precision is undefined where a class is never called, what needs both classes where
    there is one, and the accuracy of decided verdicts where none is decided. `bins` are
    those of the calibration error.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            **ranking_measures(outcomes.is_fake, outcomes.probability, weights),
            **calling_measures(outcomes.is_fake, outcomes.called_fake, outcomes.decided, weights),
            **probability_measures(outcomes.is_fake, outcomes.probability, bins, weights),
        }


def confusion_matrix(outcomes: Outcomes) -> Int[np.ndarray, "2 2"]:
    """Videos by label (rows: real, fake) and by side of the threshold (columns)."""
    cells = 2 * outcomes.is_fake.astype(np.int64) + outcomes.called_fake
    return np.bincount(cells, minlength=4).reshape(2, 2)


def _draws(
    groups: Shaped[np.ndarray, "V"], samples: int, generator: np.random.Generator
) -> Iterator[Float[np.ndarray, "R V"]]:
    """How often each video's group is drawn, with replacement, in each resample."""
    names, codes = np.unique(groups, return_inverse=True)
    rows = max(1, CHUNK_VALUES // len(codes))
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = generator.integers(len(names), size=(size, len(names)))
        cells = drawn + len(names) * np.arange(size)[:, None]
        counts = np.bincount(cells.ravel(), minlength=size * len(names))
        yield counts.reshape(size, len(names))[:, codes].astype(np.float64)


def _with_interval(
    value: float,
    drawn: Float[np.ndarray, "R"],
    confidence: float,
    *,
    undefined: str,
    unknown: str | None,
) -> Estimate:
    if np.isnan(value):
        return Estimate(value=None, reason=undefined)
    if unknown is not None:
        return Estimate(value=value, reason=unknown)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn[~np.isnan(drawn)], [tail, 1 - tail])
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def _why_undefined(name: str, outcomes: Outcomes) -> str:
    if outcomes.is_fake.all() or not outcomes.is_fake.any():
        return f"all videos are {'fake' if outcomes.is_fake.all() else 'real'}"
    if name == "decided_accuracy":
        return "every verdict is uncertain"
    return f"no video is called {name.removeprefix('precision_')}"


def _why_no_interval(name: str, outcomes: Outcomes) -> str | None:
    if len(np.unique(outcomes.groups)) < 2:
        return "there is only one group"
    for side, members in (("real", ~outcomes.is_fake), ("fake", outcomes.is_fake)):
        if name not in CLASS_FREE and len(np.unique(outcomes.groups[members])) < 2:
            return f"{side} videos are in fewer than two groups"
    return None
