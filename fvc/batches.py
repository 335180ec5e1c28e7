"""What a batch is, and which examples the batches of an epoch have."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Sampler, WeightedRandomSampler

from fvc.config import Imbalance
from fvc.distributed import share_of, stand_ins
from fvc.seeding import generator_for, seed_for

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Clips of one or several sizes, as the network takes them; batches may differ in size."""

    pixels: UInt8[Tensor, "_B T C H W"]
    """As stored; clips smaller than the largest of them are padded at the bottom and right."""
    labels: Float[Tensor, "_B"]
    """1 is fake."""
    mask: Bool[Tensor, "_B H W"] | None = None
    """Where pixels belong to the clip; None where nothing is padded."""
    total: int | None = None
    """Clips of the batch on all ranks together; None where they are all here."""
    spare: int = 0
    """Clips at its end that must not count: they keep this rank in step with the others."""

    @property
    def counted(self) -> int:
        """Clips that count here: these come first."""
        return len(self.labels) - self.spare

    @property
    def counted_by_all(self) -> int:
        """Clips that count, on all ranks together."""
        return self.counted if self.total is None else self.total


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Which examples are in each batch of an epoch: pairs of the epoch and an example's number.

    The batches depend on the seed and the epoch alone. With `none` and
    `class_weights` an epoch has every example once, shuffled. With
    `balanced_batches` it passes over the larger class once: real and fake
    alternate where the smaller class has examples for half a batch; else they
    would be so few in a batch that the same ones meet again and again, and
    examples are drawn as with `weighted_sampler`: at random, with replacement,
    either class being as likely, and as many as if the classes alternated.

    Args:
        labels: 1 is fake.
        batch_size: The last batch may be smaller.
        seed: Of the fold's order.
        imbalance: How the smaller class is made up for.
        rank: Whose share of each batch is given.
        size: How many ranks share a batch.

    Raises:
        ValueError: The batch size is below 1, or a class has no example.
    """

    epoch = 0
    """Which epoch iteration gives, counted from 0."""
    first = 0
    """The batch it begins with: those before it were trained on already."""

    def __init__(
        self,
        labels: Int[np.ndarray, " examples"],
        batch_size: int,
        seed: int,
        imbalance: Imbalance,
        *,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, below 1")
        self._classes = [np.flatnonzero(labels == label) for label in (0, 1)]
        counts = [len(members) for members in self._classes]
        for name, count in zip(("real", "fake"), counts, strict=True):
            if not count:
                raise ValueError(f"no example is {name}")
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._size = rank, size
        self._kind: Imbalance = imbalance
        if imbalance == "balanced_batches" and 2 * min(counts) < batch_size:
            self._kind = "weighted_sampler"
            logger.warning(
                "%d real and %d fake training examples: too few to fill half a batch of %d, "
                "so batches are drawn by weight and not exactly balanced",
                *(*counts, batch_size),
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        match self._kind:
            case "balanced_batches":
                order = self._alternating_order()
            case "weighted_sampler":
                order = self._weighted_order()
            case "class_weights" | "none":
                order = self._shuffled_order()
        keys = [(self.epoch, int(index)) for index in order]
        starts = range(self.first * self._batch_size, len(keys), self._batch_size)
        batches = (keys[start : start + self._batch_size] for start in starts)
        return iter([share_of(batch, self._rank, self._size) for batch in batches])

    def __len__(self) -> int:
        return max(0, self.of_epoch - self.first)

    @property
    def of_epoch(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._drawn // self._batch_size)

    def shared(self, position: int, made: Batch) -> Batch:
        """Say in a batch, the one at a position after `first`, what it is a share of."""
        start = (self.first + position) * self._batch_size
        total = min(self._batch_size, self._drawn - start)
        spare = stand_ins(total, self._rank, self._size)
        return made._replace(total=total, spare=spare)

    @property
    def _drawn(self) -> int:
        once = self._kind in ("class_weights", "none")
        return sum(map(len, self._classes)) if once else 2 * self._larger

    @property
    def _larger(self) -> int:
        return max(len(members) for members in self._classes)

    def _shuffled_order(self) -> Int[np.ndarray, " examples"]:
        generator = generator_for(self._seed, "batches", self.epoch)
        return generator.permutation(sum(map(len, self._classes)))

    def _alternating_order(self) -> Int[np.ndarray, " drawn"]:
        """Real and fake in turn, so that batches of an odd size, or of one, balance too."""
        generator = generator_for(self._seed, "batches", self.epoch)
        orders = [_repeated(members, self._larger, generator) for members in self._classes]
        return np.stack(orders, axis=1).reshape(-1)

    def _weighted_order(self) -> Int[np.ndarray, " drawn"]:
        members = np.concatenate(self._classes)
        weights = np.concatenate([np.full(len(each), 1 / len(each)) for each in self._classes])
        generator = torch.Generator().manual_seed(seed_for(self._seed, "batches", self.epoch))
        sampler = WeightedRandomSampler(weights.tolist(), 2 * self._larger, generator=generator)
        return members[list(sampler)]


def _repeated(
    members: Int[np.ndarray, " members"], length: int, generator: np.random.Generator
) -> Int[np.ndarray, " drawn"]:
    """Shuffle the members again and again until there are `length` of them."""
    rounds = -(-length // len(members))
    return np.concatenate([generator.permutation(members) for _ in range(rounds)])[:length]


Allocate = Callable[[tuple[int, ...]], Tensor]
"""Gives a uint8 tensor of a shape, with anything in it."""


def fresh(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Allocate a tensor in memory."""
    return torch.empty(shape, dtype=torch.uint8)


def collate(
    examples: Sequence[tuple[UInt8[Tensor, "T C _H _W"], int]], allocate: Allocate = fresh
) -> Batch:
    """Make a batch of clips that differ in height and width at most.

    Args:
        examples: Clips and their labels.
        allocate: Gives the memory of the pixels, where the clips are copied to.
    """
    clips, labels = zip(*examples, strict=True)
    sizes = [clip.shape[-2:] for clip in clips]
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    pixels = allocate((len(clips), *clips[0].shape[:2], height, width))
    # NumPy copies in this thread; torch would wake a team of threads for each clip.
    in_memory = pixels.device.type == "cpu"
    for place, clip, (rows, columns) in zip(
        pixels.numpy() if in_memory else pixels, clips, sizes, strict=True
    ):
        place[..., :rows, :columns] = clip.numpy() if in_memory else clip
        place[..., rows:, :] = 0
        place[..., :rows, columns:] = 0
    return Batch(pixels, torch.tensor(labels, dtype=torch.float32), _mask(sizes, height, width))


def _mask(
    sizes: Sequence[tuple[int, int]], height: int, width: int
) -> Bool[Tensor, "B H W"] | None:
    if all(size == (height, width) for size in sizes):
        return None
    mask = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    for place, (rows, columns) in zip(mask, sizes, strict=True):
        place[:rows, :columns] = True
    return mask
