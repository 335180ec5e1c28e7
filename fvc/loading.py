"""Training batches, made while the network computes; nothing here changes what is in them."""

import math
import signal
import weakref
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from traceback import clear_frames
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from fvc.batches import Batch, EpochBatches, collate
from fvc.caching import hold_on
from fvc.config import Imbalance, LoaderConfig
from fvc.dataset import ClipDataset
from fvc.transfer import on_device

Item = TypeVar("Item")


class ClipLoader:
    """The batches of every epoch, in a `with` block, which ends its thread and its workers.

    Args:
        dataset: What is trained on.
        batch_size: Clips in a batch; the last one may be smaller.
        config: How batches are made and kept.
        imbalance: How the smaller class is made up for.
        seed: Of the fold's order; the batches depend on it and on the epoch alone.
        device: Where the network is trained.
        rank: Whose share of each batch is given.
        size: How many ranks share a batch.

    Raises:
        ValueError: A class has no example.
        FvcError: The cache does not fit.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int,
        config: LoaderConfig,
        *,
        imbalance: Imbalance,
        seed: int,
        device: torch.device,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        self._batches = EpochBatches(
            dataset.labels, batch_size, seed, imbalance, rank=rank, size=size
        )
        self._dataset, self._device = dataset, device
        self._depth = config.prefetch_batches
        pins = config.pin_memory and device.type == "cuda"
        self._allocate = _pinned if pins else Buffers().take
        if config.cache != "none":
            holder = device if config.cache == "device" else torch.device("cpu")
            dataset.hold(partial(hold_on, device=holder))
            if holder.type != "cpu":
                # There is nothing to copy in advance: batches are made where they are used.
                self._depth = 0
                self._allocate = partial(torch.empty, dtype=torch.uint8, device=holder)
        self._workers = self._start_workers(config, pins) if config.num_workers else None
        self._running: Generator[Batch, None, None] | None = None

    def __enter__(self) -> "ClipLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        # Persistent workers end with the loader that holds them.
        self._workers = None

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._batches.of_epoch

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, on the device; an epoch that was not used up ends.

        Args:
            epoch: Counted from 0.
            first: The batch to begin with: what comes is what would have come after the
                batches before it.
        """
        self._stop()
        self._batches.epoch, self._batches.first = epoch, first
        if self._workers is not None:
            made = _from_workers(self._workers)
        elif self._depth:
            made = prefetched(self._made(), self._depth)
        else:
            made = self._made()
        self._running = self._shared(made)
        return on_device(self._running, self._device)

    def _shared(self, made: Generator[Batch, None, None]) -> Generator[Batch, None, None]:
        with closing(made):
            for position, batch in enumerate(made):
                yield self._batches.shared(position, batch)
                # Its memory is used again for the batches to come.
                del batch

    def _made(self) -> Generator[Batch, None, None]:
        for keys in self._batches:
            yield collate([self._dataset[key] for key in keys], self._allocate)

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _start_workers(self, config: LoaderConfig, pins: bool) -> "DataLoader[Any]":
        return DataLoader(
            self._dataset,
            batch_sampler=self._batches,
            collate_fn=collate,
            num_workers=config.num_workers,
            pin_memory=pins,
            persistent_workers=config.persistent_workers,
            prefetch_factor=config.prefetch_factor,
            worker_init_fn=_outlast_sigterm,
            # One of its own, or it would draw from torch's global random state.
            generator=torch.Generator(),
        )


def prefetched(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Make up to `depth` items in advance, in one thread, which ends with the generator.

    An error of the thread is raised where its item would have come.
    """
    end: Any = object()
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
            # Without this, the memory of a batch would be in use until the next one is there.
            del item
    finally:
        thread.shutdown(cancel_futures=True)


def _outlast_sigterm(_: int) -> None:
    """Leave SIGTERM to the training, which a worker's death would end before its checkpoint.

    A cluster signals every process of a job. A worker ends when the training
    says so, and within seconds of the training's own end.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _from_workers(workers: "DataLoader[Any]") -> Generator[Batch, None, None]:
    items = iter(workers)
    try:
        yield from items
    except Exception as error:
        # torch raises a worker's error from a frame that refers to it. Garbage collection, which
        # such a ring is left to, ends the workers' queues before the workers: these never hear
        # that they should end.
        clear_frames(error.__traceback__)
        raise
    finally:
        # Workers that do not persist end here, whoever holds the error.
        del items


def _pinned(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    # torch keeps pinned memory, and gives it out again once the copy to the device is done.
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


class Buffers:
    """Memory for batches, used again as soon as nothing refers to what was in it.

    The system clears each new page: for a large batch that takes longer than
    to copy the clips.
    """

    def __init__(self) -> None:
        self._free: list[UInt8[np.ndarray, " bytes"]] = []

    def take(self, shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
        """A tensor of this shape, with anything in it."""
        size = math.prod(shape)
        while self._free:
            # One that is too small is dropped: sooner or later all are as large as any batch.
            if len(buffer := self._free.pop()) >= size:
                break
        else:
            buffer = np.empty(size, np.uint8)
        # The tensor, and every view of it, keeps this array and thereby the buffer.
        array = buffer[:size].reshape(shape)
        weakref.finalize(array, self._free.append, buffer).atexit = False
        return torch.from_numpy(array)
