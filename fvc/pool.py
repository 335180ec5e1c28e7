"""One function over many videos: isolated workers, limits of time and memory, results as they come.

A pool that shares one queue among its workers cannot tell for certain which item a
worker took down with it. Here each worker has a pipe of its own, and holds one item.
"""

import errno
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from traceback import format_exception
from typing import Any, Generic, Literal, TypeVar

from tqdm import tqdm

from fvc.errors import FvcError
from fvc.process import end_with_parent, limit_memory
from fvc.video import VideoError

Item = TypeVar("Item")
Result = TypeVar("Result")

OUT_OF_MEMORY = errno.ENOMEM
"""Exit code of a worker that gave up because it got no more memory."""
START_S = 120.0
"""A worker that has not said by then that it has started never will."""
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of a worker that somebody else ended, such as the kernel when memory is short."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened to an item whose worker was lost; no other item is affected."""

    reason: Literal["timeout", "crashed"]
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class _Limits:
    """What one item may take."""

    timeout_s: float
    max_memory_mib: int | None


@dataclass(frozen=True, slots=True)
class _Killed:
    """A worker was ended from outside, which says nothing about its item."""

    code: int

    def again(self) -> Failure:
        """What that means where the worker before this one was ended, too."""
        return Failure("crashed", f"ended from outside twice ({self.code})")


@dataclass(frozen=True, slots=True)
class _Raised:
    """An error that nobody expects: the run ends with it."""

    error: Exception


@dataclass(slots=True, eq=False)
class _Worker(Generic[Item]):
    """A process that calls the function on one item after another."""

    process: BaseProcess
    pipe: Connection
    deadline: float
    """When it has had its time with the item, or to start, by the monotonic clock."""
    job: tuple[Item, ...] = ()
    """The item it has; none while it starts."""


def run_isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    timeout_s: float,
    description: str,
    max_memory_mib: int | None = None,
) -> Iterator[tuple[Item, Result | Failure | FvcError | VideoError]]:
    """Call a function on every item in separate processes, one per available core.

    A call that takes too long or takes its process down (FFmpeg can, on a
    damaged file) yields a `Failure`; an item whose worker was ended from outside
    is tried once more before. An `FvcError` or `VideoError` that the
    function raises is yielded as the item's result; any other exception ends
    the run and is raised here.

    Args:
        function: Found by its module's name, so neither a lambda nor a local
            function; workers import that module and no more.
        items: What it is called on; sent to the workers by pickle.
        timeout_s: Longest time for one item.
        description: Stands before the progress bar on standard error.
        max_memory_mib: What a worker may allocate beyond what it holds once it
            has started; without it, all there is. Enforced on Linux.
    """
    limits = _Limits(timeout_s, max_memory_mib)
    waiting, num_left = iter(items), len(items)
    workers: list[_Worker[Item]] = []
    tried_again: list[Item] = []
    try:
        with tqdm(total=len(items), desc=description, unit=" videos") as progress:
            while num_left:
                while len(workers) < min(len(os.sched_getaffinity(0)), num_left):
                    workers.append(_start(function, limits))
                for worker in _attend(workers):
                    job, outcome = worker.job, _collect(worker, limits)
                    if isinstance(outcome, _Killed):
                        if job[0] not in tried_again:
                            tried_again.append(job[0])
                            waiting, job = chain(job, waiting), ()
                        outcome = outcome.again()
                    # Before the caller gets its result, so that the worker never idles meanwhile.
                    if worker.process.exitcode is not None or not _assign(worker, waiting, limits):
                        _end(worker)
                        workers.remove(worker)
                    for item in job:
                        num_left -= 1
                        progress.update()
                        yield item, outcome
    finally:
        for worker in workers:
            _end(worker)


def _start(function: Callable[[Item], Any], limits: _Limits) -> _Worker[Item]:
    # Forking a process that has run torch can hang it: workers start afresh.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, function, limits.max_memory_mib)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    # While we held it open, the pipe of a dead worker would not end.
    theirs.close()
    return _Worker(process, ours, time.monotonic() + max(limits.timeout_s, START_S))


def _attend(workers: Sequence[_Worker[Item]]) -> list[_Worker[Item]]:
    """Wait for workers that have something to say, are dead, or have had their time."""
    left_s = max(min(worker.deadline for worker in workers) - time.monotonic(), 0)
    pipes = [worker.pipe for worker in workers]
    heard = connection.wait(pipes, left_s)
    now = time.monotonic()
    return [worker for worker in workers if worker.pipe in heard or worker.deadline <= now]


def _collect(worker: _Worker[Item], limits: _Limits) -> Any:
    """The result of a worker's item, or how the two were lost."""
    if not worker.pipe.poll():
        worker.process.kill()
        worker.process.join()
        if not worker.job:
            raise RuntimeError(f"a worker did not start within {START_S:g} s")
        return Failure("timeout", f"took longer than {limits.timeout_s:g} s")
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        return _loss(worker, limits)
    if isinstance(message, _Raised):
        message.error.add_note(f"It was raised on {worker.job[0]}; a worker printed where.")
        raise message.error
    return message


def _loss(worker: _Worker[Item], limits: _Limits) -> Failure | _Killed:
    code = worker.process.exitcode or 0
    if not worker.job:
        raise RuntimeError(f"a worker ended with code {code} before it had anything to do")
    if code == OUT_OF_MEMORY:
        limit = f" within {limits.max_memory_mib} MiB" if limits.max_memory_mib else ""
        return Failure("crashed", f"found no more memory{limit}")
    return (
        _Killed(code)
        if code in FROM_OUTSIDE
        else Failure("crashed", f"its process ended with code {code}")
    )


def _assign(worker: _Worker[Item], waiting: Iterator[Item], limits: _Limits) -> bool:
    """Give a worker the next item, if there is one."""
    worker.job = tuple(islice(waiting, 1))
    worker.deadline = time.monotonic() + limits.timeout_s
    try:
        for item in worker.job:
            worker.pipe.send(item)
    except BrokenPipeError:
        # It died idle; what remains of its pipe says so when it is attended to.
        return True
    return bool(worker.job)


def _end(worker: _Worker[Item]) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _serve(pipe: Connection, function: Callable[[Any], Any], max_memory_mib: int | None) -> None:
    """What a worker does: say that it has started, then take items until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # It can be ended at any time: in native code, and with its parent.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
    if max_memory_mib is not None and sys.platform == "linux":
        limit_memory(max_memory_mib)
    pipe.send(None)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(function(item))
        except MemoryError:
            # What this process still holds must not be missing to the next item.
            os._exit(OUT_OF_MEMORY)
        except (FvcError, VideoError) as error:
            pipe.send(error)
        except BaseException as error:
            pipe.send(_Raised(_portable(error)))
            raise


def _portable(error: BaseException) -> Exception:
    """The error itself if it can be sent to another process and ends no more than a run there."""
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PicklingError, AttributeError, TypeError) as cause:
        return RuntimeError(f"{''.join(format_exception(error))} (not sent as it is: {cause})")
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
