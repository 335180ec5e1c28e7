"""One epoch of training: batches in, changed weights and the epoch's series out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fvc.batches import Batch
from fvc.config import TrainConfig
from fvc.diagnostics import Tally, require_finite
from fvc.networks import ClipClassifier
from fvc.precision import Precision, choose_precision, make_bf16_safe
from fvc.seeding import seed_for

BatchesOfEpoch = Callable[[int], Iterable[Batch]]
"""Gives the batches of an epoch from its number alone."""

Item = TypeVar("Item")

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

CHECKED_BATCHES = 32
"""The loss is looked at so often; looking waits for the device."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A network and all that changes with it, so that training can be stopped and resumed."""

    network: ClipClassifier
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which torch.load takes with weights_only."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def start_training(network: ClipClassifier, config: TrainConfig) -> Training:
    """Move the network to the device that will train it, and give it an optimizer."""
    precision = choose_precision(config.mixed_precision)
    make_bf16_safe(network)
    network.to(precision.device).to(memory_format=precision.memory_format)
    # Fused: one pass over all weights; on a CPU the default takes 40 times as long.
    optimizer = OPTIMIZERS[config.optimizer](
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    scaler = precision.scaler()
    return Training(network=network, optimizer=optimizer, scaler=scaler, precision=precision)


def accumulation_steps(batch_size: int) -> int:
    """Batches whose gradients are summed before a step: small ones are too noisy alone.

    Raises:
        ValueError: The batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, below 1")
    if batch_size >= 4:
        return 1
    return 2 if batch_size >= 2 else 4


def train_epoch(
    training: Training,
    batches: Iterable[Batch],
    config: TrainConfig,
    *,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """Train on `batches` once.

    The random state of torch is set from the seed and the epoch alone, so an
    epoch that is run again after an interruption drops the same features.

    Args:
        training: Changed in place.
        batches: Of `config.batch_size` clips, the last one maybe of fewer.
        config: How to train.
        seed: Every random choice is derived from it.
        epoch: Counted from 0.

    Returns:
        The `train/` series.

    Raises:
        ValueError: There is no batch.
        FvcError: The loss is NaN or infinite; the weights are then of no use.
    """
    torch.manual_seed(seed_for(seed, "epoch", epoch))
    training.network.train()
    tally, clips, batches_seen, started = Tally(), 0, 0, time.perf_counter()
    for group in grouped(batches, accumulation_steps(config.batch_size)):
        loss = _step(training, group, config.gradient_clip_norm, tally)
        if batches_seen % CHECKED_BATCHES == 0:
            require_finite({"train/loss": loss.item()}, epoch)
        batches_seen += len(group)
        clips += sum(len(batch.labels) for batch in group)
    series = tally.series(skips_overflow=training.scaler.is_enabled())
    require_finite(series, epoch)
    return {
        **series,
        "train/learning_rate": float(training.optimizer.param_groups[0]["lr"]),
        "train/batch_size": float(config.batch_size),
        "train/clips_per_s": clips / (time.perf_counter() - started),
    }


def _step(training: Training, group: Sequence[Batch], clip_norm: float, tally: Tally) -> Tensor:
    """One optimizer step on the mean loss over all clips of the group; gives that loss."""
    optimizer, scaler = training.optimizer, training.scaler
    clips_in_step = sum(len(batch.labels) for batch in group)
    total = torch.zeros((), device=training.precision.device)
    for batch in group:
        labels = batch.labels.to(training.precision.device, non_blocking=True)
        logits = _forward(training, batch)
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        loss = losses.sum() / clips_in_step
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
        tally.add_batch(losses, logits, labels)
    scaler.unscale_(optimizer)
    tally.add_step(torch.nn.utils.clip_grad_norm_(training.network.parameters(), clip_norm))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return total


def _forward(training: Training, batch: Batch) -> Float[Tensor, "_B"]:
    network, precision = training.network, training.precision
    mask = None if batch.mask is None else batch.mask.to(precision.device, non_blocking=True)
    clips = network.normalise(batch.pixels.to(precision.device, non_blocking=True), mask)
    with precision.autocast():
        logits = network(clips.contiguous(memory_format=precision.memory_format), mask)
    return logits.squeeze(1).float()


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a sequence into lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
