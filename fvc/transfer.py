"""Batches on their way to the device that trains, each copied while the one before it is used."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from fvc.batches import Batch

Item = TypeVar("Item")


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Pass batches on to the device that trains.

    A GPU is given them through a stream of its own, one in advance: while the
    network works on a batch, the next one is fetched and on its way. They
    travel as they are stored, in uint8. What is on the GPU already stays as it
    is, and so does everything on any other device, where nothing is fetched
    before it is asked for.

    Args:
        batches: In pinned memory; from other memory a copy waits for the one before it.
        device: Where the network is.
    """
    return iter(batches) if device.type != "cuda" else _copied(iter(batches), device)


def _copied(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_cuda else tensor.to(device, non_blocking=True)

    def begin(batch: Batch) -> Batch:
        with torch.cuda.stream(copies):
            # Labels and masks are not pinned: after the pixels they would wait for them.
            mask = None if batch.mask is None else send(batch.mask)
            labels = send(batch.labels)
            return batch._replace(pixels=send(batch.pixels), labels=labels, mask=mask)

    def finish(batch: Batch) -> Batch:
        current = torch.cuda.current_stream(device)
        # Nothing but this batch is on its way yet, so no other one is waited for.
        current.wait_stream(copies)
        for tensor in (batch.pixels, batch.labels, batch.mask):
            if tensor is not None:
                # The memory is that of the copying stream, which would otherwise put a later
                # batch there once Python drops this one, though kernels still have to read it.
                tensor.record_stream(current)
        return batch

    return one_ahead(map(begin, batches), finish)


def one_ahead(begun: Iterator[Item], finish: Callable[[Item], Item]) -> Iterator[Item]:
    """Begin each item before the one before it is given, and finish it before it begins another.

    Args:
        begun: Begins an item when it is asked for it.
        finish: Called with each.
    """
    end = object()
    ahead: Any = next(begun, end)
    while ahead is not end:
        item = finish(ahead)
        ahead = next(begun, end)
        yield item
        del item
