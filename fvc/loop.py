"""Fit one network: epochs, validation, the best of them, and where to go on after a stop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvc.checkpoint import (
    load_best_weights,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from fvc.config import TrainConfig
from fvc.diagnostics import EpochRow, require_finite
from fvc.epoch import BatchesOfEpoch, start_training, train_epoch
from fvc.errors import FvcError
from fvc.networks import ClipClassifier


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """How a training went; the network itself holds the weights of the best epoch."""

    history: tuple[EpochRow, ...]
    """One row per epoch, those before an interruption included."""
    best_epoch: int
    """Counted from 0."""
    checkpoint: Path
    """The newest checkpoint: weights, optimizer state and history after the last epoch."""
    precision: str
    """What it was computed on and in: `cpu bfloat16`, `cuda float16`, ..."""


def fit(
    network: ClipClassifier,
    batches_of_epoch: BatchesOfEpoch,
    validate: Callable[[ClipClassifier], Mapping[str, float]],
    config: TrainConfig,
    *,
    seed: int,
    checkpoints: Path,
    binding: str,
    on_epoch: Callable[[Sequence[EpochRow]], None],
) -> FitResult:
    """Train until the epochs or the patience are used up, and keep the best weights.

    Stopped at any moment and called again with equal arguments, it goes on
    after the last whole epoch and ends, on a CPU, with the same bytes as if it
    had not been stopped.

    Args:
        network: Trained in place; it ends with the best weights, on the
            device that trained it.
        batches_of_epoch: Gives the batches of an epoch from its number alone.
        validate: Gives the `validation/` series of the network.
        config: How to train.
        seed: Every random choice is derived from it.
        checkpoints: The folder of this training's checkpoints.
        binding: A hash of all that decides the outcome (parameters, data,
            folds), so that a checkpoint of something else is never resumed.
        on_epoch: Called with all rows so far, after the checkpoint of the last
            one is on disk, and at once when a training is resumed.

    Raises:
        FvcError: A series became NaN or infinite, or the one that chooses the
            best epoch is undefined. The checkpoints before that stay.
    """
    training = start_training(network, config)
    # Another device or number format would not end with the same weights.
    binding = f"{binding} {training.precision.name}"
    history: list[EpochRow] = []
    resumed = load_checkpoint(checkpoints, binding)
    if resumed is not None:
        training.load_state_dict(resumed["training"])
        history = resumed["history"]
        on_epoch(tuple(history))
    while not is_finished(history, config):
        epoch = len(history)
        series = train_epoch(training, batches_of_epoch(epoch), config, seed=seed, epoch=epoch)
        series |= validate(network)
        require_finite(series, epoch)
        _require_defined(series, config.best_by)
        history.append({"epoch": epoch, **series})
        save_checkpoint(
            checkpoints,
            binding,
            epoch=epoch,
            state={"training": training.state_dict(), "history": history},
            best_epoch=best_epoch(history, config.best_by),
            weights=network.state_dict(),
        )
        on_epoch(tuple(history))
    network.load_state_dict(load_best_weights(checkpoints, binding))
    return FitResult(
        history=tuple(history),
        best_epoch=best_epoch(history, config.best_by),
        checkpoint=newest_checkpoint(checkpoints, binding),
        precision=training.precision.name,
    )


def _require_defined(series: Mapping[str, float], best_by: str) -> None:
    if best_by not in series:
        cause = f"{best_by} is undefined where all validation videos are of one class"
        remedy = "Set train.best_by to validation/loss, or raise split.validation_share"
        raise FvcError("train.best_by", cause, remedy)


def best_epoch(history: Sequence[EpochRow], best_by: str) -> int:
    """The epoch with the lowest loss or the highest score; the first of equal ones.

    Raises:
        ValueError: There is no epoch.
    """
    sign = 1 if best_by.endswith("loss") else -1
    return min(range(len(history)), key=lambda epoch: sign * history[epoch][best_by])


def is_finished(history: Sequence[EpochRow], config: TrainConfig) -> bool:
    """Whether all epochs were run, or the best one lies `patience` epochs back."""
    if not history:
        return False
    waited = len(history) - 1 - best_epoch(history, config.best_by)
    return len(history) >= config.epochs or waited >= config.patience
