"""The numbers that are logged after every epoch: what they are called and how they come about."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from fvc.errors import FvcError

SERIES = (
    "train/loss",
    "train/loss_by_hand",
    "train/accuracy",
    "train/roc_auc",
    "train/called_fake",
    "train/grad_norm",
    "train/update_ratio",
    "train/logit_min",
    "train/logit_max",
    "train/logit_mean",
    "train/logit_std",
    "train/logit_unique",
    "train/learning_rate",
    "train/batch_size",
    "train/micro_batch_size",
    "train/accumulation",
    "train/clips_per_s",
    "train/data_wait_share",
    "train/memory_mib",
    "validation/loss",
    "validation/roc_auc",
    "validation/macro_f1",
    "validation/called_fake",
    "validation/logit_std",
)
"""Every series of an epoch that is known beforehand, in the order in which they are shown."""

STAGE_SERIES = "train/stage_grad_norm/"
"""Before the name of each stage of the network that trained: how long its gradient was. Not below
`train/grad_norm`, which a store that keeps metrics in files could not hold as a folder, too."""

EpochRow = dict[str, float | int]
"""An epoch's number under `epoch`, counted from 0, and its series; an undefined one is absent."""

MEASURED_SERIES = frozenset({"train/clips_per_s", "train/data_wait_share", "train/memory_mib"})
"""Series that differ between two equal runs: they are tracked, and in no output of a stage."""


def repeatable_series(history: Sequence[EpochRow]) -> tuple[str, ...]:
    """The series that are equal in two equal runs: those known beforehand, then those of stages."""
    known = [name for name in SERIES if name not in MEASURED_SERIES]
    stages = {name for row in history for name in row if name.startswith(STAGE_SERIES)}
    return (*known, *sorted(stages))


class Diverged(FvcError):
    """A number of the training is NaN or infinite."""


def gradient_norms(
    stages: Mapping[str, Sequence[Tensor]],
) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
    """The length of the gradient of each stage, and of all of them together.

    Args:
        stages: The weights that train, by stage. One without a gradient counts
            as one of 0.
    """
    norms = {}
    for name, weights in stages.items():
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        norms[name] = get_total_norm(gradients) if gradients else torch.zeros_like(weights[0]).sum()
    return norms, torch.linalg.vector_norm(torch.stack(list(norms.values())))


def require_finite(series: Mapping[str, float], epoch: int) -> None:
    """Refuse an epoch in which training went astray.

    Raises:
        Diverged: A number is NaN or infinite.
    """
    for name, value in series.items():
        if not math.isfinite(value):
            remedy = "Lower train.learning_rate, or set train.mixed_precision to false"
            raise Diverged(f"epoch {epoch + 1}", f"{name} is {value}, training diverged", remedy)
