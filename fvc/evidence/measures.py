"""Measures of scored videos, each for R weightings of the same V videos at once.

One weighting gives an estimate; the resamples of a bootstrap are thousands more, because
drawing a group twice is the same as counting its videos twice. scikit-learn, which takes
one weighting per call, is the reference in the tests. An undefined measure is NaN; callers
turn the warnings of 0/0 off.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


def ranking_measures(
    fake: Bool[np.ndarray, "V"],
    probability: Float[np.ndarray, "V"],
    weights: Float[np.ndarray, "R V"],
) -> dict[str, Float[np.ndarray, "R"]]:
    """ROC-AUC with ties counted half, average precision, and the equal error rate."""
    _, block = np.unique(-probability, return_inverse=True)
    order = np.argsort(block, kind="stable")
    starts = np.flatnonzero(np.diff(block[order], prepend=-1))
    fakes = np.add.reduceat((weights * fake)[:, order], starts, axis=1)
    reals = np.add.reduceat((weights * ~fake)[:, order], starts, axis=1)
    fakes_so_far, reals_so_far = fakes.cumsum(axis=1), reals.cumsum(axis=1)
    num_fake, num_real = fakes_so_far[:, -1], reals_so_far[:, -1]
    reals_below = num_real[:, None] - reals_so_far
    # A block without weight adds nothing, whatever its precision is called.
    called = np.maximum(fakes_so_far + reals_so_far, np.finfo(float).tiny)
    precision = (fakes * fakes_so_far / called).sum(axis=1) / num_fake
    return {
        "roc_auc": np.clip(
            (fakes * (reals_below + reals / 2)).sum(axis=1) / (num_fake * num_real), 0, 1
        ),
        "pr_auc": np.where(num_real > 0, np.clip(precision, 0, 1), np.nan),
        "eer": _equal_error_rate(
            reals_so_far / num_real[:, None], 1 - fakes_so_far / num_fake[:, None]
        ),
    }


def _equal_error_rate(
    false_fake_rate: Float[np.ndarray, "R B"], false_real_rate: Float[np.ndarray, "R B"]
) -> Float[np.ndarray, "R"]:
    """Where the two error rates meet on the straight lines between thresholds."""
    first = np.zeros((len(false_fake_rate), 1))
    rising = np.concatenate([first, false_fake_rate], axis=1)
    gap = np.concatenate([first + 1, false_real_rate], axis=1) - rising
    after = np.maximum(np.argmax(gap <= 0, axis=1), 1)
    rows = np.arange(len(gap))
    step = gap[rows, after - 1] / (gap[rows, after - 1] - gap[rows, after])
    return rising[rows, after - 1] + step * (rising[rows, after] - rising[rows, after - 1])


def calling_measures(
    fake: Bool[np.ndarray, "V"],
    called: Bool[np.ndarray, "V"],
    decided: Bool[np.ndarray, "V"],
    weights: Float[np.ndarray, "R V"],
) -> dict[str, Float[np.ndarray, "R"]]:
    """What the calls fake (`called`) and real are worth, and the verdicts among them.

    The mean of both recalls goes by its other name, balanced accuracy.
    """
    true_fake = _sum(weights, fake & called)
    false_fake = _sum(weights, ~fake & called)
    true_real = _sum(weights, ~fake & ~called)
    false_real = _sum(weights, fake & ~called)
    right = true_fake + true_real
    total = right + (false_fake + false_real)
    measured = {
        "accuracy": right / total,
        "coverage": _sum(weights, decided) / weights.sum(axis=1),
        "decided_accuracy": _sum(weights, decided & (fake == called)) / _sum(weights, decided),
    }
    sides = {
        "real": (true_real, false_real, false_fake),
        "fake": (true_fake, false_fake, false_real),
    }
    for side, (hits, false, missed) in sides.items():
        measured[f"precision_{side}"] = hits / (hits + false)
        measured[f"recall_{side}"] = hits / (hits + missed)
        present = hits + missed > 0
        measured[f"f1_{side}"] = np.where(present, 2 * hits / (2 * hits + false + missed), np.nan)
    measured["macro_precision"] = (measured["precision_real"] + measured["precision_fake"]) / 2
    measured["macro_f1"] = (measured["f1_real"] + measured["f1_fake"]) / 2
    measured["balanced_accuracy"] = (measured["recall_real"] + measured["recall_fake"]) / 2
    return measured


def probability_measures(
    fake: Bool[np.ndarray, "V"],
    probability: Float[np.ndarray, "V"],
    bins: Int[np.ndarray, "V"],
    weights: Float[np.ndarray, "R V"],
) -> dict[str, Float[np.ndarray, "R"]]:
    """The Brier score, and the expected calibration error over the given bins."""
    residual = probability - fake
    total = weights.sum(axis=1)
    gaps = [np.abs(_sum(weights * residual, bins == number)) for number in np.unique(bins)]
    return {
        "brier": (weights * residual**2).sum(axis=1) / total,
        "ece": np.sum(gaps, axis=0) / total,
    }


def group_weights(groups: Shaped[np.ndarray, "V"]) -> Float[np.ndarray, "V"]:
    """Weights under which each group has a total of 1."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / sizes[codes]


def equal_mass_bins(
    probability: Float[np.ndarray, "V"], weights: Float[np.ndarray, "V"], count: int
) -> Int[np.ndarray, "V"]:
    """Number the bins of equal weight that sorted probabilities fall into.

    Equal probabilities share a bin, so there may be fewer than `count`.

    Source:
        Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural
        language processing models", EMNLP 2015, section 3.
    """
    values, block = np.unique(probability, return_inverse=True)
    mass = np.bincount(block, weights, minlength=len(values))
    centre = (np.cumsum(mass) - mass / 2) / mass.sum()
    # The centre of the topmost block stays below 1, but for rounding.
    return np.minimum((centre * count).astype(np.int64), count - 1)[block]


def _sum(values: Float[np.ndarray, "R V"], chosen: Bool[np.ndarray, "V"]) -> Float[np.ndarray, "R"]:
    return values[:, chosen].sum(axis=1)
