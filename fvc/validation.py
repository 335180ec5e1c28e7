"""How well the logits of videos fit their labels: the series of a validation."""

import numpy as np
from jaxtyping import Bool, Float, Int


def validation_series(
    logits: Float[np.ndarray, "V"], labels: Int[np.ndarray, "V"]
) -> dict[str, float]:
    """Score the logits of videos, of which 1 is fake, with the threshold at probability 0.5.

    Where all videos are of one class, `validation/roc_auc` and
    `validation/macro_f1` have no meaning and are left out.

    Raises:
        ValueError: There is no video.
    """
    if not len(logits):
        raise ValueError("there is no video to validate with")
    # The logarithm of 1 + exp(x), without overflow.
    losses = np.logaddexp(0, logits) - labels * logits
    series = {"validation/loss": float(losses.mean())}
    if len(np.unique(labels)) == 2:
        series["validation/roc_auc"] = roc_auc(logits, labels)
        series["validation/macro_f1"] = _macro_f1(logits >= 0, labels == 1)
    series["validation/called_fake"] = float((logits >= 0).mean())
    series["validation/logit_std"] = float(logits.std())
    return series


def roc_auc(
    logits: Float[np.ndarray, "V"], labels: Float[np.ndarray, "V"] | Int[np.ndarray, "V"]
) -> float:
    """The share of pairs of a real and a fake video in the right order, a tie counting half.

    Raises:
        ValueError: All are of one class.

    Source:
        Mann and Whitney, "On a test of whether one of two random variables is
        stochastically larger than the other", 1947.
    """
    fake, real = logits[labels == 1], np.sort(logits[labels != 1])
    if not len(fake) or not len(real):
        raise ValueError("all videos are of one class")
    below, not_above = np.searchsorted(real, fake, "left"), np.searchsorted(real, fake, "right")
    return (int(below.sum()) + int(not_above.sum())) / (2 * len(fake) * len(real))


def _macro_f1(called_fake: Bool[np.ndarray, "V"], is_fake: Bool[np.ndarray, "V"]) -> float:
    scores = []
    for called, actual in ((called_fake, is_fake), (~called_fake, ~is_fake)):
        hits = (called & actual).sum()
        scores.append(2 * hits / (called.sum() + actual.sum()))
    return float(np.mean(scores))
