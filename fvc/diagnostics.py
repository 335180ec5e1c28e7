"""The numbers that are logged after every epoch: what they are called and how they come about."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fvc.errors import FvcError

SERIES = (
    "train/loss",
    "train/accuracy",
    "train/grad_norm",
    "train/logit_mean",
    "train/logit_std",
    "train/logit_unique",
    "train/learning_rate",
    "train/batch_size",
    "train/clips_per_s",
    "validation/loss",
    "validation/roc_auc",
    "validation/macro_f1",
)
"""Every series of an epoch, in the order in which they are shown."""

EpochRow = dict[str, float | int]
"""An epoch's number under `epoch`, counted from 0, and its series; an undefined one is absent."""

MEASURED_SERIES = frozenset({"train/clips_per_s"})
"""Series that differ between two equal runs: they are tracked, and in no output of a stage."""


class Tally:
    """What the steps of one epoch showed, kept on the device so that no step waits for it."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._gradient_norms: list[Tensor] = []

    def add_batch(
        self, losses: Float[Tensor, "B"], logits: Float[Tensor, "B"], labels: Float[Tensor, "B"]
    ) -> None:
        """Note the loss, logit and label of every clip of a batch."""
        self._losses.append(losses.detach())
        self._logits.append(logits.detach())
        self._labels.append(labels)

    def add_step(self, gradient_norm: Float[Tensor, ""]) -> None:
        """Note the norm of an optimizer step's gradient, before it was clipped."""
        self._gradient_norms.append(gradient_norm.detach())

    def series(self, *, skips_overflow: bool) -> dict[str, float]:
        """Summarise the epoch.

        `train/logit_unique` is the number of distinct logits: a network that
        has collapsed gives one for all clips.

        Args:
            skips_overflow: Steps with infinite gradients were not made, as a
                loss scaler has it, and do not enter `train/grad_norm`; it is
                left out where no step was made.

        Raises:
            ValueError: Nothing was added.
        """
        if not self._losses:
            raise ValueError("an epoch without a batch has no series")
        losses, logits = torch.cat(self._losses).double(), torch.cat(self._logits).double()
        correct = (logits >= 0) == (torch.cat(self._labels) == 1)
        norms = torch.stack(self._gradient_norms).double()
        if skips_overflow:
            norms = norms[norms.isfinite()]
        series = {
            "train/loss": losses.mean().item(),
            "train/accuracy": correct.double().mean().item(),
            "train/grad_norm": norms.mean().item(),
            "train/logit_mean": logits.mean().item(),
            "train/logit_std": logits.std(correction=0).item(),
            "train/logit_unique": float(len(set(logits.tolist()))),
        }
        if not len(norms):
            del series["train/grad_norm"]
        return series


def require_finite(series: Mapping[str, float], epoch: int) -> None:
    """Refuse an epoch in which training went astray.

    Raises:
        FvcError: A number is NaN or infinite.
    """
    for name, value in series.items():
        if not math.isfinite(value):
            remedy = "Lower train.learning_rate, or set train.mixed_precision to false"
            raise FvcError(f"epoch {epoch}", f"{name} is {value}, training diverged", remedy)


def validation_series(
    logits: Float[np.ndarray, "V"], labels: Int[np.ndarray, "V"]
) -> dict[str, float]:
    """Score the logits of videos, of which 1 is fake, with the threshold at probability 0.5.

    Where all videos are of one class, only the loss has a meaning: the other
    two series are then left out.

    Raises:
        ValueError: There is no video.
    """
    if not len(logits):
        raise ValueError("there is no video to validate with")
    # The logarithm of 1 + exp(x), without overflow.
    losses = np.logaddexp(0, logits) - labels * logits
    series = {"validation/loss": float(losses.mean())}
    if len(np.unique(labels)) == 2:
        series["validation/roc_auc"] = _roc_auc(logits[labels == 1], logits[labels == 0])
        series["validation/macro_f1"] = _macro_f1(logits >= 0, labels == 1)
    return series


def _roc_auc(fake: Float[np.ndarray, "F"], real: Float[np.ndarray, "R"]) -> float:
    # The share of pairs in the right order, a tie counting half (Mann-Whitney).
    order = np.sign(fake[:, None] - real[None, :])
    return float((order.mean() + 1) / 2)


def _macro_f1(called_fake: np.ndarray, is_fake: np.ndarray) -> float:
    scores = []
    for called, actual in ((called_fake, is_fake), (~called_fake, ~is_fake)):
        hits = (called & actual).sum()
        scores.append(2 * hits / (called.sum() + actual.sum()))
    return float(np.mean(scores))
