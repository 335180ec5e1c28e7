import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fvc.errors import FvcError
from fvc.memory import fitting, halved, is_out_of_memory, memory_in_use_mib, release

# As they were seen: on torch 2.15's CPU under a limit (see the subprocess below), in reports to
# the projects that met them, and in the text of torch's libraries.
SEEN = {
    "cuda": "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 14.56 "
    "GiB of which 14.75 MiB is free.",
    "cuda, before the allocator": "CUDA error: out of memory\nCUDA kernel errors might be "
    "asynchronously reported at some other API call",
    "cuda, beside the allocator": "CUDA ran out of memory outside PyTorch's allocator. If this "
    "workload uses many dynamic shapes, ...",
    "rocm": "HIP out of memory. Tried to allocate 2.00 GiB.",
    "cublas": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cudnn": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cudnn 9": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cudnn, of a workspace": "GET was unable to find an engine to execute this computation",
    "mps": "MPS backend out of memory (MPS allocated: 9.57 GiB, other allocations: 17.35 GiB, max "
    "allowed: 27.20 GiB). Tried to allocate 292.50 MiB on private pool.",
    "mps, before 2.6": "MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: "
    "1.10 GB, max allowed: 6.80 GB). Tried to allocate 768.00 MB on private pool.",
    "mps, one buffer": "Invalid buffer size: 19.38 GiB",
    "cpu": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
    "memory: you tried to allocate 4294967296 bytes. Error code 12 (Cannot allocate memory)",
    "cpu, Windows": "[enforce fail at CPUAllocator.cpp:73] data. DefaultCPUAllocator: not enough "
    "memory: you tried to allocate 473909280 bytes.",
    "shared memory": "unable to mmap 1024 bytes from file </torch_1_2_3>: Cannot allocate memory "
    "(12)",
    "onednn": "could not create a primitive",
    "c++": "std::bad_alloc",
}


@pytest.fixture(autouse=True, scope="module")
def collections_are_quick() -> Iterator[None]:
    """Each collection looks through all that was imported, unless that is frozen."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("where", SEEN)
def test_out_of_memory_is_recognised(where: str) -> None:
    assert is_out_of_memory(RuntimeError(SEEN[where]))


def test_errors_of_their_own_kind_are_recognised_whatever_they_say() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("Allocation on device"))
    assert is_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("unsupported memory format option ChannelsLast3d"),
        RuntimeError("unsupported memory format option ChannelsLast3d"),
        RuntimeError("required rank 4 tensor to use channels_last memory format"),
        RuntimeError("Pin memory thread exited unexpectedly"),
        RuntimeError("cannot pin 'torch.cuda.FloatTensor': only dense CPU memory can be pinned"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("could not create a primitive descriptor for the convolution primitive"),
        RuntimeError("some elements of the input tensor refer to a single memory location"),
        ValueError("CUDA out of memory"),
        KeyError("out of memory"),
        OSError(28, "No space left on device"),
    ],
    ids=str,
)
def test_an_error_that_only_speaks_of_memory_is_not_recognised(error: Exception) -> None:
    assert not is_out_of_memory(error)


def chained(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def test_what_was_raised_from_it_is_recognised() -> None:
    ran_out = torch.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(chained(ValueError("compiling failed"), ran_out))
    assert is_out_of_memory(chained(ValueError("a"), chained(KeyError("b"), ran_out)))
    assert not is_out_of_memory(chained(ValueError("a"), KeyError("b")))


def test_an_error_that_came_up_while_one_was_handled_is_another() -> None:
    error = ZeroDivisionError()
    error.__context__ = MemoryError()
    assert not is_out_of_memory(error)


def test_an_error_raised_from_itself_is_looked_at_once() -> None:
    error = ValueError("ring")
    assert not is_out_of_memory(chained(error, error))


def test_what_has_a_remedy_already_is_not_tried_again() -> None:
    given_up = FvcError("memory", "is too small", "Buy more")
    assert not is_out_of_memory(chained(given_up, MemoryError()))


class Failing(Dataset[Tensor]):
    """Raises another error for each example."""

    def __init__(self, errors: list[Exception]) -> None:
        self._errors = errors

    def __len__(self) -> int:
        return len(self._errors)

    def __getitem__(self, index: int) -> Tensor:
        raise self._errors[index]


def test_what_a_loading_process_sent_is_recognised() -> None:
    errors = [
        RuntimeError(SEEN["cpu"]),
        MemoryError("Unable to allocate 8.00 GiB for an array"),
        RuntimeError("damaged"),
        ValueError(SEEN["cpu"]),
    ]
    arrived: list[Exception] = []
    batches = iter(DataLoader(Failing(errors), num_workers=1))
    for _ in errors:
        try:
            next(batches)
        except (MemoryError, RuntimeError, ValueError) as error:
            arrived.append(error)
    assert next(batches, None) is None
    assert [type(error) for error in arrived] == [type(error) for error in errors]
    assert all("DataLoader worker process" in str(error) for error in arrived)
    assert [is_out_of_memory(error) for error in arrived] == [True, True, False, False]


# The limit is on addresses: each attempt asks for more than is left, and none of it is touched.
LIMITED = """
import resource, sys
import numpy as np, torch
from torch.nn import functional
from fvc.memory import is_out_of_memory, memory_in_use_mib, release

torch.set_num_threads(1)
weights = torch.zeros(16, 3, 3, 3, 3)
functional.conv3d(torch.zeros(1, 3, 4, 32, 32), weights)

def limit(mib):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20, resource.RLIM_INFINITY))

def attempt(name, work):
    try:
        work()
    except Exception as error:
        print(name, type(error).__name__, is_out_of_memory(error), str(error)[:300], sep="\\t")
    else:
        print(name, "fitted", sep="\\t")

clips = torch.zeros(64, 3, 4, 32, 32)
limit(12)
attempt("tensor", lambda: torch.empty(2**30))
attempt("convolution", lambda: functional.conv3d(clips, weights))
attempt("array", lambda: np.empty(2**30))
attempt("bytes", lambda: bytearray(2**30))
attempt("half", lambda: functional.conv3d(clips[:8], weights))
limit(0)
attempt("primitive", lambda: functional.conv3d(clips[:5], weights))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits addresses as Linux does")
def test_what_a_limited_process_meets_is_recognised() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED], env=environment, capture_output=True, text=True, check=True
    )
    met = {line.split("\t")[0]: line.split("\t")[1:] for line in ended.stdout.splitlines()}
    assert met["tensor"][:2] == ["RuntimeError", "True"], met
    assert "DefaultCPUAllocator: can't allocate memory" in met["tensor"][2]
    assert met["convolution"][:2] == ["RuntimeError", "True"], met
    assert met["array"][:2] == ["MemoryError", "True"], met
    assert met["bytes"][:2] == ["MemoryError", "True"], met
    assert met["half"] == ["fitted"], "after the failure not even a smaller part fits"
    # oneDNN's own words, or torch's where its tensor is asked for first.
    assert met["primitive"][:2] == ["RuntimeError", "True"], met


@pytest.mark.gpu
def test_what_a_gpu_raises_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(caught.value)


def test_halving_ends_at_one() -> None:
    steps = [32]
    while steps[-1] > 1:
        steps.append(halved(steps[-1]))
    assert steps == [32, 16, 8, 4, 2, 1]
    assert [halved(clips) for clips in (3, 5, 7, 48)] == [1, 2, 3, 24]


def test_one_clip_that_does_not_fit_is_an_error_with_a_remedy() -> None:
    with pytest.raises(
        FvcError, match=r"one clip at a time \(CUDA error: out of memory\)\. Lower "
    ):
        halved(1, SEEN["cuda, before the allocator"])
    with pytest.raises(FvcError, match=r"clips\.num_frames or clips\.side_px"):
        halved(1)


def test_halving_no_clips_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="clips_at_once is 0"):
        halved(0)


def limited_to(most: int, tried: list[int]) -> Callable[[int], str]:
    def work(clips_at_once: int) -> str:
        tried.append(clips_at_once)
        if clips_at_once > most:
            raise torch.OutOfMemoryError(SEEN["cuda"])
        return f"done with {clips_at_once}"

    return work


def test_work_is_tried_with_half_until_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []
    assert fitting(limited_to(3, tried), 12) == ("done with 3", 3)
    assert tried == [12, 6, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"out of memory with 12 clips at once, going on with 6 ({SEEN['cuda']})",
        f"out of memory with 6 clips at once, going on with 3 ({SEEN['cuda']})",
    ]


def test_work_that_never_fits_ends_with_a_remedy() -> None:
    tried: list[int] = []
    with pytest.raises(FvcError, match="is too small for one clip at a time"):
        fitting(limited_to(0, tried), 4)
    assert tried == [4, 2, 1]


def test_another_error_is_not_tried_again() -> None:
    def work(clips_at_once: int) -> None:
        tried.append(clips_at_once)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    tried: list[int] = []
    with pytest.raises(RuntimeError, match="mat1"):
        fitting(work, 8)
    assert tried == [8]


def failing_with(kept: list["weakref.ref[Tensor]"]) -> None:
    tensor = torch.zeros(2**10)
    # In a ring, which only the collector finds.
    ring: list[object] = [tensor]
    ring.append(ring)
    kept.append(weakref.ref(tensor))
    raise torch.OutOfMemoryError(SEEN["cuda"])


def test_an_exception_keeps_tensors_until_its_block_ends() -> None:
    kept: list[weakref.ref[Tensor]] = []
    try:
        failing_with(kept)
    except RuntimeError:
        release()
        assert kept[0]() is not None, "the rule to release after the block has lost its reason"
    release()
    assert kept[0]() is None, "the tensor of a failed frame is still in memory"


def test_nothing_of_a_failed_attempt_is_in_memory_at_the_next() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def work(clips_at_once: int) -> int:
        assert all(each() is None for each in kept), "an attempt pays for the one before"
        if clips_at_once > 1:
            failing_with(kept)
        return clips_at_once

    gc.disable()
    try:
        assert fitting(work, 4) == (1, 1)
    finally:
        gc.enable()
    assert len(kept) == 2


def test_a_device_that_has_no_memory_to_give_back_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    message = SEEN["cuda, before the allocator"]
    release()
    assert "memory was not given back: CUDA error: out of memory" in caplog.text
    message = "CUDA error: unspecified launch failure"
    with pytest.raises(RuntimeError, match="launch failure"):
        release()


def test_memory_in_use_is_what_the_system_says() -> None:
    stated = psutil.Process().memory_info().rss / 2**20
    assert memory_in_use_mib(torch.device("cpu")) == pytest.approx(stated, abs=2)


def test_memory_in_use_grows_with_a_tensor_and_shrinks_after_it() -> None:
    device = torch.device("cpu")
    before = memory_in_use_mib(device)
    # Larger than anything that was freed before, so that the system has to give it.
    tensor = torch.ones(2**27)
    assert memory_in_use_mib(device) - before == pytest.approx(512, abs=16)
    del tensor
    release()
    assert memory_in_use_mib(device) - before == pytest.approx(0, abs=16)
