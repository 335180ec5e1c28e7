"""What a set of scored videos is worth, with intervals: arrays in, numbers out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Shaped

from fvc.config import EvaluateConfig
from fvc.evidence.intervals import effective_groups, resamples, share_interval
from fvc.evidence.measures import (
    calling_measures,
    equal_mass_bins,
    group_weights,
    probability_measures,
    ranking_measures,
)

DECIMALS = 6
"""Digits kept in files: more than the last digits' dependence on the machine allows."""


RAISED_BY_NOISE = "raised by noise"
"""Why the calibration error has no interval. Of a calibrated model it measures noise alone, and
intervals from its resamples held the truth of that in 0 to 3% of simulations, however many groups
there were: see tests/test_coverage.py."""


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

    @property
    def rounded(self) -> "Estimate":
        """As it is written down."""
        value, low, high = map(_rounded, (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)

    def as_dict(self) -> dict[str, float | str | None]:
        """For JSON: rounded, and `reason` only where there is one."""
        found = asdict(self.rounded)
        if self.reason is None:
            del found["reason"]
        return found


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DECIMALS)


def lies_above(low: float | None, value: float | None) -> bool:
    """Whether an interval's lower end is above a value; what is not known is above nothing."""
    return low is not None and value is not None and low > value


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampled:
    """Every measure of some videos and of their resamples."""

    outcomes: Outcomes
    weights: Float[np.ndarray, "V"]
    """Of each video in the estimate itself."""
    values: Mapping[str, float]
    """NaN where a measure is undefined."""
    drawn: Mapping[str, Float[np.ndarray, "R"]]

    def num_groups(self, name: str) -> float:
        """Effective groups behind a measure: the fewest among the videos that decide it."""
        return min(
            effective_groups(self.outcomes.groups[members], self.weights[members])
            for members in _deciding(name, self.outcomes).values()
        )

    def estimate(self, name: str, confidence: float) -> Estimate:
        """One measure with its interval."""
        value = self.values[name]
        if np.isnan(value):
            return Estimate(value=None, reason=_why_undefined(name, self.outcomes))
        unknown = self.why_no_interval(name)
        if unknown is not None:
            return Estimate(value=value, reason=unknown)
        low, high = share_interval(value, self.drawn[name], self.num_groups(name), confidence)
        return Estimate(value=value, low=low, high=high)

    def why_no_interval(self, name: str) -> str | None:
        """The reason, where the resamples of a measure do not tell its error."""
        if name == "ece":
            return RAISED_BY_NOISE
        if len(np.unique(self.outcomes.groups)) < 2:
            return "there is only one group"
        for which, members in _deciding(name, self.outcomes).items():
            if len(np.unique(self.outcomes.groups[members])) < 2:
                return f"{which} are in fewer than two groups"
        return None


def resample(
    outcomes: Outcomes, *, per_group: bool, config: EvaluateConfig, generator: np.random.Generator
) -> Resampled:
    """Measure videos and their resamples, per video or with the same weight for each group.

    Whole groups are drawn, so near-duplicates count as the one observation they are.
    """
    base = group_weights(outcomes.groups) if per_group else np.ones(len(outcomes.groups))
    bins = equal_mass_bins(outcomes.probability, base, config.ece_bins)
    values = measures(outcomes, base[None], bins)
    drawn = [
        measures(outcomes, base * times, bins)
        for times in resamples(outcomes.groups, config.bootstrap_samples, generator)
    ]
    return Resampled(
        outcomes=outcomes,
        weights=base,
        values={name: float(value[0]) for name, value in values.items()},
        drawn={name: np.concatenate([measured[name] for measured in drawn]) for name in values},
    )


def estimate(
    outcomes: Outcomes, *, per_group: bool, config: EvaluateConfig, generator: np.random.Generator
) -> dict[str, Estimate]:
    """Every measure with its interval, per video or with the same weight for each group.

    Resamples in which a measure is undefined are left out. There is no interval where the
    videos that decide a measure, of each class for one that compares the classes, are in
    fewer than two groups, and none of the calibration error: see `RAISED_BY_NOISE`.
    """
    found = resample(outcomes, per_group=per_group, config=config, generator=generator)
    return {name: found.estimate(name, config.confidence) for name in found.values}


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


def risk_points(outcomes: Outcomes) -> pl.DataFrame:
    """How many videos are answered, and how many of the answers are wrong, as sureness falls.

    A call is as sure as its side is probable. The answers given are those of at least the
    row's `sureness`; the last row answers every video.

    Source:
        Coverage and selective risk: Geifman and El-Yaniv, "Selective classification for
        deep neural networks", NeurIPS 2017, section 2.
    """
    wrong = outcomes.is_fake != outcomes.called_fake
    sureness = np.where(outcomes.called_fake, outcomes.probability, 1 - outcomes.probability)
    order = np.argsort(-sureness, kind="stable")
    answered = np.arange(1, len(order) + 1)
    # Videos of the same sureness are answered together or not at all.
    ends = np.append(np.diff(sureness[order]) != 0, True)
    return pl.DataFrame(
        {
            "coverage": (answered / len(order))[ends],
            "selective_risk": (np.cumsum(wrong[order]) / answered)[ends],
            "sureness": sureness[order][ends],
        }
    )


def _deciding(name: str, outcomes: Outcomes) -> dict[str, Bool[np.ndarray, "V"]]:
    """The videos that a measure is a mean over; of each class, where it compares them."""
    whole = np.ones(len(outcomes.is_fake), dtype=bool)
    own = {
        "accuracy": {"videos": whole},
        "brier": {"videos": whole},
        "coverage": {"videos": whole},
        "decided_accuracy": {"videos with a verdict": outcomes.decided},
        "precision_real": {"videos called real": ~outcomes.called_fake},
        "precision_fake": {"videos called fake": outcomes.called_fake},
        "recall_real": {"real videos": ~outcomes.is_fake},
        "recall_fake": {"fake videos": outcomes.is_fake},
    }
    return own.get(name, {**own["recall_real"], **own["recall_fake"]})


def _why_undefined(name: str, outcomes: Outcomes) -> str:
    called = outcomes.called_fake
    nothing = {
        "decided_accuracy": (outcomes.decided, "every verdict is uncertain"),
        "precision_real": (~called, "no video is called real"),
        "precision_fake": (called, "no video is called fake"),
    }
    members, reason = nothing.get(name, (called, ""))
    if reason and not members.any():
        return reason
    if name == "macro_precision" and (called.all() or not called.any()):
        return f"no video is called {'real' if called.all() else 'fake'}"
    return f"all videos are {'fake' if outcomes.is_fake.all() else 'real'}"
