"""One optimizer step's gradients: its clips pass through the network in parts that memory holds."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fvc.batches import Batch
from fvc.memory import RAISED, halved, is_out_of_memory, release
from fvc.seeding import generator_for, seed_for
from fvc.training.mixing import mixing_of, part_of, smoothed
from fvc.training.state import Training

logger = logging.getLogger(__name__)


Batches = Iterable[Batch]


class Outcome(NamedTuple):
    """What the clips of this rank showed in a step, on the device."""

    losses: Float[Tensor, "B"]
    logits: Float[Tensor, "B"]
    targets: Float[Tensor, "B"]
    """What the logits were held against: labels, smoothed and mixed where that is asked for."""
    labels: Float[Tensor, "B"]


class Part(NamedTuple):
    """Clips that pass through the network together, ready for it."""

    clips: Float[Tensor, "B C T H W"]
    mask: Bool[Tensor, "B H W"] | None
    targets: Float[Tensor, "B"]
    labels: Float[Tensor, "B"]
    counted: int
    """So many of them, the first ones, enter the loss."""


def accumulate(training: Training, batches: Sequence[Batch], number: int) -> Outcome:
    """Add up the gradients of the mean loss over all clips of `batches`, on all ranks.

    Where memory runs out, the step is begun anew with half as many clips in a
    part, down to one: gradients, statistics and random state are those of its
    beginning, so that it is the same step but for the clips that batch
    normalisation sees together.

    Args:
        training: Its micro-batch is halved where memory ran out.
        batches: What makes one step; moved to the device here.
        number: Of the step, counted from 0 over the whole training: what is
            random in a step depends on the seed, the rank and this alone.

    Raises:
        FvcError: Memory does not suffice for a single clip; or it ran out on
            one of several ranks, where a step cannot be begun anew because
            the others are in the midst of it.
    """
    while True:
        torch.manual_seed(seed_for(training.seed, "step", number, training.world.rank))
        try:
            with training.transaction():
                return _pass(training, batches, number)
        except RAISED as error:
            if not is_out_of_memory(error):
                raise
            said = str(error)
        # Outside the handler: the error holds the frames that hold the tensors.
        release()
        largest = max(len(batch.labels) for batch in batches)
        training.micro_batch = halved(min(training.micro_batch, largest), said)
        logger.warning(
            "step %d ran out of memory: going on with %d clips at once, as many in a step",
            *(number, training.micro_batch),
        )
        training.require_alone()


def _pass(training: Training, batches: Sequence[Batch], number: int) -> Outcome:
    clips_in_step = sum(batch.counted_by_all for batch in batches)
    outcomes: list[tuple[Tensor, ...]] = []
    for place, batch in enumerate(batches):
        for part, is_last in _parts(training, batch, (number, place)):
            last = is_last and place == len(batches) - 1
            with training.averaging(last):
                logits = training.forward(part.clips, part.mask)
                losses = training.loss(logits, part.targets)[: part.counted]
                # The ranks' gradients are averaged, and it is their sum that is wanted.
                loss = losses.sum() * training.world.size / clips_in_step
                training.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            shown = (logits.detach(), part.targets, part.labels)
            outcomes.append((losses.detach(), *(each[: part.counted] for each in shown)))
    return Outcome(*map(torch.cat, zip(*outcomes, strict=True)))


def _parts(
    training: Training, batch: Batch, purpose: tuple[int, ...]
) -> Iterator[tuple[Part, bool]]:
    """Cut a batch, each part made when it is asked for; says which is the last."""
    device, size = training.precision.device, training.micro_batch
    pixels = batch.pixels.to(device, non_blocking=True)
    mask = None if batch.mask is None else batch.mask.to(device, non_blocking=True)
    labels = batch.labels.to(device, non_blocking=True)
    targets = smoothed(labels, training.config.label_smoothing)
    here = Batch(pixels, targets, mask)
    generator = generator_for(training.seed, "mixup", *purpose, training.world.rank)
    mixing = mixing_of(len(labels), training.config.mixup_alpha, generator)
    normalise = training.network.normalise
    for first in range(0, len(labels), size):
        last = min(first + size, len(labels))
        clips, its_targets, its_mask = part_of(here, mixing, normalise, first=first, last=last)
        counted = max(0, min(last, batch.counted) - first)
        # A mixed clip is of the class that most of it is of.
        own = labels[first:last] if mixing is None else (its_targets >= 0.5).float()
        part = Part(clips, its_mask, its_targets, own, counted)
        yield part, last == len(labels)
