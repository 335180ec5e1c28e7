import time
from collections.abc import Iterator

import pytest
import torch

from fvc.batches import Batch
from fvc.transfer import on_device, one_ahead

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def made_batch(number: int, *, pinned: bool = False, masked: bool = False) -> Batch:
    pixels = torch.full((2, 4, 3, 64, 64), number % 256, dtype=torch.uint8, pin_memory=pinned)
    mask = torch.ones(2, 64, 64, dtype=torch.bool) if masked else None
    return Batch(pixels, torch.tensor([0.0, number]), mask)


def test_a_cpu_is_given_the_batches_themselves_when_it_asks() -> None:
    asked: list[int] = []

    def batches() -> Iterator[Batch]:
        for number in range(3):
            asked.append(number)
            yield made_batch(number)

    for number, batch in enumerate(on_device(batches(), CPU)):
        assert asked == list(range(number + 1)), "a batch was made before it was asked for"
        assert int(batch.pixels[0, 0, 0, 0, 0]) == number
    given = [made_batch(0), made_batch(1)]
    assert all(a is b for a, b in zip(on_device(given, CPU), given, strict=True))


def test_an_error_of_the_loader_reaches_the_training() -> None:
    def failing() -> Iterator[Batch]:
        yield made_batch(0)
        raise OSError("the disk is gone")

    transfer = on_device(failing(), CPU)
    next(transfer)
    with pytest.raises(OSError, match="the disk is gone"):
        next(transfer)


@pytest.mark.parametrize("length", [0, 1, 4])
def test_the_next_item_is_on_its_way_while_one_is_used(length: int) -> None:
    order: list[str] = []

    def begun() -> Iterator[int]:
        for number in range(length):
            order.append(f"begin {number}")
            yield number

    def finish(number: int) -> int:
        order.append(f"finish {number}")
        return number

    for number in one_ahead(begun(), finish):
        order.append(f"use {number}")
    expected = [f"begin {number}" for number in range(min(length, 1))]
    for number in range(length):
        expected += [f"finish {number}"]
        expected += [f"begin {number + 1}"] if number + 1 < length else []
        expected += [f"use {number}"]
    # What is begun before an item is finished would be waited for with it.
    assert order == expected


@pytest.mark.gpu
@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gpu_computes_on_what_was_sent(pinned: bool, masked: bool) -> None:
    """Kernels that read a batch late find it whole, though later ones were copied meanwhile."""
    numbers = list(range(60))
    made = (made_batch(number, pinned=pinned, masked=masked) for number in numbers)
    sums, labels, masks = [], [], []
    for batch in on_device(made, CUDA):
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.is_cuda
        assert batch.labels.is_cuda
        torch.cuda._sleep(2_000_000)  # type: ignore[no-untyped-call]
        sums.append(batch.pixels.sum(dtype=torch.int64))
        labels.append(batch.labels[1])
        masks.append(torch.tensor(0) if batch.mask is None else batch.mask.sum())
    size = made_batch(0).pixels.numel()
    assert [int(each) for each in sums] == [number * size for number in numbers]
    assert [int(each) for each in labels] == numbers
    assert {int(each) for each in masks} == ({2 * 64 * 64} if masked else {0})


@pytest.mark.gpu
def test_a_gpu_keeps_what_it_holds() -> None:
    held = made_batch(3)._replace(pixels=made_batch(3).pixels.to(CUDA))
    (given,) = on_device([held], CUDA)
    assert given.pixels.data_ptr() == held.pixels.data_ptr()
    assert given.labels.is_cuda


@pytest.mark.gpu
def test_copies_travel_while_a_gpu_computes() -> None:
    """Steps that wait for their result still find the next batch there."""
    pixels = torch.zeros(2**28, dtype=torch.uint8, pin_memory=True)
    batch = Batch(pixels.view(2, 1, 2, 2**13, 2**13), torch.zeros(2))

    def seconds(cycles: int) -> float:
        transfer = on_device([batch] * 20, CUDA)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in transfer:
            torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
            torch.cuda.current_stream().synchronize()
        return time.perf_counter() - started

    seconds(0)
    copying, cycles = seconds(0), 40_000_000
    started = time.perf_counter()
    for _ in range(20):
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    computing = time.perf_counter() - started
    both = seconds(cycles)
    assert both < computing + 0.5 * copying, (copying, computing, both)
