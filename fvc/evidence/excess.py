"""Whether some videos fare worse than the others, by more than chance explains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from fvc.evidence.metrics import DECIMALS

RESAMPLES = 9999
"""Behind every test: enough for a corrected probability below 0.05 among 100 tests."""

MIN_GROUPS = 10
"""On either side. If both were alike, as many of the others would hold a wrong call, too, and as
many of the set a right one: where by luck there is none, a rate of 0 or 1 looks certain, and a
large set was found worse than a small rest in 14 of 100 simulations without a difference."""

CHUNK = 512
"""Resamples held in memory at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """Some videos beside all others."""

    error: float | None = None
    """Share of wrong calls among them less that among the others; None without others."""
    p_value: float | None = None
    """How often chance alone gives a difference as large, either way."""
    corrected: float | None = None
    """The same, for as many tests as were made."""
    worse: bool = False
    """More calls are wrong than among the others, and chance is no explanation."""
    reason: str | None = None
    """Why there was no test."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rounded, and `reason` only where there is one."""
        numbers = {"error": self.error, "p_value": self.p_value, "corrected": self.corrected}
        rounded = {
            name: None if number is None else round(number, DECIMALS)
            for name, number in numbers.items()
        }
        why = {} if self.reason is None else {"reason": self.reason}
        return {**rounded, "worse": self.worse, **why}


def excesses(
    wrong: Bool[np.ndarray, "V"],
    inside: Bool[np.ndarray, "S V"],
    groups: Shaped[np.ndarray, "V"],
    *,
    level: float,
    generator: np.random.Generator,
) -> list[Excess]:
    """Test for each of S sets of videos whether more of its calls are wrong than of the rest.

    The test is the wild bootstrap by group, of the difference over its standard error,
    with the null hypothesis imposed and one random sign for all videos of a group. It
    counts differences in both directions, which keeps what it promises where errors are
    rare: there, a one-sided test found up to four times as many differences as it should
    in simulations without any. Sets that overlap or exclude each other depend on
    each other; Holm's correction allows for any dependence.

    Args:
        wrong: The calls that are wrong.
        inside: The videos of each set.
        groups: What is not independent of each other.
        level: Largest corrected probability that counts as worse.
        generator: Draws the signs.

    Source:
        Cameron, Gelbach and Miller, "Bootstrap-Based Improvements for Inference with
        Clustered Errors", Review of Economics and Statistics 90 (2008), section 3.
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
        Journal of Statistics 6 (1979).
    """
    _, codes = np.unique(groups, return_inverse=True)
    reasons = [_why_no_test(chosen, wrong, codes) for chosen in inside]
    tested = [number for number, reason in enumerate(reasons) if reason is None]
    p_values = _p_values(wrong, inside[tested], codes, generator)
    corrected = holm(p_values)
    found = [
        Excess(error=_excess_error(wrong, chosen), reason=reason)
        for chosen, reason in zip(inside, reasons, strict=True)
    ]
    for number, p_value, after in zip(tested, p_values, corrected, strict=True):
        error = found[number].error
        worse = error is not None and error > 0 and after <= level
        found[number] = Excess(error=error, p_value=p_value, corrected=after, worse=worse)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Probabilities as they are when as many tests as these were made, in the same order."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.sort(p_values) * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return list(corrected.tolist())


def _why_no_test(
    chosen: Bool[np.ndarray, "V"], wrong: Bool[np.ndarray, "V"], codes: Int[np.ndarray, "V"]
) -> str | None:
    if chosen.all():
        return "there are no others"
    sides = (("here", chosen, "right", ~wrong), ("elsewhere", ~chosen, "wrong", wrong))
    for name, side, call, members in sides:
        expected = len(np.unique(codes[members])) * side.mean()
        counted = {
            "": len(np.unique(codes[side])),
            f" with a {call} call to be expected": int(expected),
        }
        for what, count in counted.items():
            if count < MIN_GROUPS:
                return f"{count} cascades{what} {name}, fewer than {MIN_GROUPS}"
    return None


def _excess_error(wrong: Bool[np.ndarray, "V"], chosen: Bool[np.ndarray, "V"]) -> float | None:
    return None if chosen.all() else float(wrong[chosen].mean() - wrong[~chosen].mean())


def _p_values(
    wrong: Bool[np.ndarray, "V"],
    inside: Bool[np.ndarray, "S V"],
    codes: Int[np.ndarray, "V"],
    generator: np.random.Generator,
) -> list[float]:
    if not len(inside):
        return []
    num_groups = int(codes.max()) + 1
    sides = (inside, ~inside)
    sizes = [side.sum(axis=1, keepdims=True) for side in sides]
    # The share of either side's videos that is in each group; sets are rows from here on.
    shares = [_by_group(side / size, codes) for side, size in zip(sides, sizes, strict=True)]
    rates = [
        (wrong * side).sum(axis=1, keepdims=True) / size
        for side, size in zip(sides, sizes, strict=True)
    ]
    own = [
        _by_group((wrong - rate) * side / size, codes)
        for side, size, rate in zip(sides, sizes, rates, strict=True)
    ]
    seen = _over_error(rates[0] - rates[1], ((own[0] - own[1]) ** 2).sum(axis=1, keepdims=True))
    # Under the null hypothesis both sides have the rate of all videos.
    null = [
        _by_group((wrong - wrong.mean()) * side / size, codes)
        for side, size in zip(sides, sizes, strict=True)
    ]
    reached = np.zeros(len(inside))
    for start in range(0, RESAMPLES, CHUNK):
        count = min(CHUNK, RESAMPLES - start)
        signs = 2.0 * generator.integers(2, size=(num_groups, count)) - 1
        drawn = _drawn(null, shares, signs)
        # What is not below reaches it, so 0/0 does, and so does an equal value but for rounding.
        reached += (~(np.abs(drawn) < np.abs(seen) * (1 - 1e-9))).sum(axis=1)
    return list(((1 + reached) / (1 + RESAMPLES)).tolist())


def _drawn(
    null: Sequence[Float[np.ndarray, "S G"]],
    shares: Sequence[Float[np.ndarray, "S G"]],
    signs: Float[np.ndarray, "G R"],
) -> Float[np.ndarray, "S R"]:
    """The difference over its standard error in each resample.

    A group's part in the variance is the square of `signs * gap - share * rate` (of the
    slice, less the same of the rest), written out so that no array has groups, sets and
    resamples at once.
    """
    gap = null[0] - null[1]
    rate_in, rate_out = (side @ signs for side in null)
    cross_in, cross_out = ((gap * share) @ signs for share in shares)
    mixed = (shares[0] * shares[1]).sum(axis=1, keepdims=True)
    square_in, square_out = ((share**2).sum(axis=1, keepdims=True) for share in shares)
    variance = (
        (gap**2).sum(axis=1, keepdims=True)
        + rate_in**2 * square_in
        + rate_out**2 * square_out
        - 2 * rate_in * cross_in
        + 2 * rate_out * cross_out
        - 2 * rate_in * rate_out * mixed
    )
    return _over_error(rate_in - rate_out, variance)


def _over_error(
    difference: Float[np.ndarray, "S R"], variance: Float[np.ndarray, "S R"]
) -> Float[np.ndarray, "S R"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding makes a variance of nothing negative.
        return difference / np.sqrt(np.maximum(variance, 0))


def _by_group(
    values: Float[np.ndarray, "S V"], codes: Int[np.ndarray, "V"]
) -> Float[np.ndarray, "S G"]:
    return np.stack([np.bincount(codes, row) for row in values])
