"""What a program does when memory runs out: it notices, lets go, and tries with fewer clips."""

import gc
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from fvc.errors import FvcError

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

MIB = 2**20

RAISED = (MemoryError, RuntimeError)
"""What torch and Python raise when memory runs out; `is_out_of_memory` tells it from the rest."""

# What torch says, by where it says it. A message that only speaks of memory ("unsupported memory
# format", "pin memory thread exited") is none of these.
OUT_OF_MEMORY = re.compile(
    r"""
    # torch's own allocators, and the CUDA runtime and driver below them
    \b(?:CUDA|HIP|XPU|MPS\ backend)(?:\ driver)?(?:\ error:)?\ out\ of\ memory
    | ran\ out\ of\ memory\ outside\ PyTorch's\ allocator
    # cuBLAS, cuDNN, cuSOLVER, which allocate their own handles and workspaces
    | \b(?:CU|HIP)\w+_ALLOC(?:ATION)?_FAILED\b
    # cuDNN once more: an engine whose workspace does not fit is passed over as if it did not exist
    | unable\ to\ find\ an\ engine\ to\ execute\ this\ computation
    # Metal: one buffer above the largest that the device gives
    | Invalid\ buffer\ size:\ [\d.]+\ .?i?B
    # torch on a CPU; the second is Windows
    | DefaultCPUAllocator:\ (?:can't\ allocate|not\ enough)\ memory
    # the system, of mapped files and of memory shared with loading processes
    | Cannot\ allocate\ memory
    # C++, and oneDNN, which has no other word for memory that it did not get
    | std::bad_alloc
    | could\ not\ create\ a\ primitive(?!\ descriptor)
    """,
    re.VERBOSE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine had no memory left.

    Errors raised from such a one count (torch.compile does that), and so do
    those that a loading process sent: their text ends with the original's. A
    `FvcError` does not, whatever it was raised from: it has its remedy already.

    Two messages are ambiguous. oneDNN's "could not create a primitive" and
    cuDNN's "unable to find an engine" also come where the hardware lacks what
    is asked for. Fewer clips at once do not help then, and `halved` quotes the
    message when it gives up.
    """
    seen: list[BaseException] = []
    current: BaseException | None = error
    # `raise error from error` makes a ring.
    while current is not None and current not in seen and not isinstance(current, FvcError):
        if isinstance(current, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(current, RuntimeError) and OUT_OF_MEMORY.search(str(current)):
            return True
        seen.append(current)
        current = current.__cause__
    return False


@contextmanager
def settled() -> Iterator[None]:
    """Spare what is there already from garbage collection for the length of the block.

    Libraries bring a million objects that stay; passing over them takes a
    third of a second each time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release() -> None:
    """Collect what nothing refers to, and give memory that torch keeps for later back.

    An exception holds the frames that it went through, and these hold their
    tensors: call this after the `except` block, never within it.
    """
    gc.collect()
    # Of CUDA it does nothing before the first use, and without a device.
    empties = [torch.cuda.empty_cache]
    if torch.backends.mps.is_available():
        empties.append(torch.mps.empty_cache)
    for empty in empties:
        try:
            empty()
        except RuntimeError as error:
            # The device may report only now that it had no memory a moment ago.
            if not is_out_of_memory(error):
                raise
            logger.warning("memory was not given back: %s", first_line(str(error)))


def halved(clips_at_once: int, said: str = "") -> int:
    """Half as many clips, rounded down: 32, 16, 8, 4, 2, 1.

    Args:
        clips_at_once: How many were too many.
        said: The message of the error.

    Raises:
        ValueError: There were no clips.
        FvcError: It was a single one.
    """
    if clips_at_once < 1:
        raise ValueError(f"clips_at_once is {clips_at_once}, below 1")
    if clips_at_once == 1:
        told = f" ({first_line(said)})" if said.strip() else ""
        remedy = (
            "Lower clips.num_frames or clips.side_px in params.yaml, end other programs that use "
            "the device, or take a device with more memory"
        )
        raise FvcError("memory", f"is too small for one clip at a time{told}", remedy)
    return clips_at_once // 2


@contextmanager
def exhaustion_in_one_line() -> Iterator[None]:
    """Hold work that needs its memory whole: fewer clips at once would not help it.

    Raises:
        FvcError: Memory ran out in the block.
    """
    try:
        yield
    except RAISED as error:
        if not is_out_of_memory(error):
            raise
        remedy = "End other programs that use the device, then start again: it goes on from there"
        raise FvcError("memory", f"ran out ({first_line(str(error))})", remedy) from error


def fitting(work: Callable[[int], Item], clips_at_once: int) -> tuple[Item, int]:
    """Do a piece of work with as many clips at once as fit into memory.

    Args:
        work: Given a number of clips, does all of the work from its beginning.
        clips_at_once: To begin with; half as many after each failure.

    Returns:
        The result, and the number that fitted.

    Raises:
        FvcError: Not even one clip at a time fits.
    """
    while True:
        try:
            return work(clips_at_once), clips_at_once
        except RAISED as error:
            if not is_out_of_memory(error):
                raise
            said = str(error)
        release()
        fewer = halved(clips_at_once, said)
        logger.warning(
            "out of memory with %d clips at once, going on with %d (%s)",
            *(clips_at_once, fewer, first_line(said)),
        )
        clips_at_once = fewer


def memory_in_use_mib(device: torch.device) -> float:
    """How much memory this process holds, in MiB.

    Returns:
        On a GPU what torch has taken from it, unused blocks that it keeps for
        later included: since the last `release`, that is the most that was
        needed. On a CPU the resident memory of the process.
    """
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / MIB
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / MIB
    return _resident_bytes() / MIB


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # Not Linux. Machines that only train may lack it, so nothing imports it at its top.
    import psutil

    return psutil.Process().memory_info().rss


def first_line(text: str) -> str:
    """What an error's message says in short: its first line, 200 characters at most."""
    return text.strip().partition("\n")[0][:200]
