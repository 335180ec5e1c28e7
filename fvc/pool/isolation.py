"""Processes that call a function on one item at a time, and what becomes of items and processes.

Workers have a pipe each: one queue for all could not tell for certain which item a worker
took down with it.
"""

import errno
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from traceback import format_exception
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar

from fvc.errors import FvcError
from fvc.process import end_with_parent, limit_memory
from fvc.video import VideoError

Item = TypeVar("Item")

OUT_OF_MEMORY = errno.ENOMEM
"""Exit code of a worker that gave up because it got no more memory."""
START_S = 120.0
"""A worker that has not said by then that it has started never will."""
WATCH_S = 0.5
"""How long it may take until a seat learns that its item is not wanted any more."""
_STARTING = threading.Lock()
ENGINE = "FVC_CLUSTER"
"""Environment variable that says where such processes are."""
FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
"""Exit codes of a worker that somebody else ended, such as the kernel when memory is short."""


class StartError(RuntimeError):
    """No process for items could be started here."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened to an item whose worker was lost; no other item is affected."""

    reason: Literal["timeout", "crashed"]
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may take."""

    timeout_s: float
    max_memory_mib: int | None


@dataclass(frozen=True, slots=True)
class Killed:
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
class Worker(Generic[Item]):
    """A process that calls the function on one item after another."""

    process: BaseProcess
    pipe: Connection
    deadline: float
    """When it has had its time with the item, or to start, by the monotonic clock."""
    job: tuple[Item, ...] = ()
    """The item it has; none while it starts."""


def start(function: Callable[[Item], Any], limits: Limits) -> Worker[Item]:
    """Start a process; the first thing that it sends says that it has started."""
    # Forking a process that has run torch can hang it: workers start afresh.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, function, limits.max_memory_mib)
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    # While we held it open, the pipe of a dead worker would not end.
    theirs.close()
    return Worker(process, ours, time.monotonic() + max(limits.timeout_s, START_S))


def collect(worker: Worker[Item], limits: Limits) -> Any:
    """The result of a worker's item, or how the two were lost."""
    if not worker.pipe.poll():
        worker.process.kill()
        worker.process.join()
        if not worker.job:
            raise StartError(f"a worker did not start within {START_S:g} s")
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


def _loss(worker: Worker[Item], limits: Limits) -> Failure | Killed:
    code = worker.process.exitcode or 0
    if not worker.job:
        raise StartError(f"a worker ended with code {code} before it had anything to do")
    if code == OUT_OF_MEMORY:
        limit = f" within {limits.max_memory_mib} MiB" if limits.max_memory_mib else ""
        return Failure("crashed", f"found no more memory{limit}")
    return (
        Killed(code)
        if code in FROM_OUTSIDE
        else Failure("crashed", f"its process ended with code {code}")
    )


def assign(worker: Worker[Item], waiting: Iterator[Item], limits: Limits) -> bool:
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


def end(worker: Worker[Item]) -> None:
    """End a worker whatever it does."""
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


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Let what is started not import the main module, which is the engine's, and takes a second."""
    # Dask makes its own process a daemon, which may have no children. Ours end with it.
    current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    with _STARTING:
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class UnwantedError(Exception):
    """Nobody waits for an item any more."""


class Seat(Generic[Item]):
    """One worker, for an engine that hands out the items itself; a lost one is replaced."""

    def __init__(self, function: Callable[[Item], Any], limits: Limits) -> None:
        self._function, self._limits = function, limits
        self._worker: Worker[Item] | None = None

    def prepare(self, is_wanted: Callable[[], bool]) -> None:
        """Have a worker, and wait until it has started."""
        if self._worker is None:
            with _no_main_module():
                self._worker = start(self._function, self._limits)
            self._collect(self._worker, is_wanted)

    def call(self, item: Item, is_wanted: Callable[[], bool]) -> Any:
        """What `run_isolated` gives with this item.

        Raises:
            UnwantedError: `is_wanted` said no; the worker has been ended.
        """
        for _ in range(2):
            self.prepare(is_wanted)
            assert self._worker is not None
            assign(self._worker, iter([item]), self._limits)
            outcome = self._collect(self._worker, is_wanted)
            if not isinstance(outcome, Killed):
                return outcome
        return outcome.again()

    def _collect(self, worker: Worker[Item], is_wanted: Callable[[], bool]) -> Any:
        while (left_s := worker.deadline - time.monotonic()) > 0:
            if worker.pipe.poll(min(left_s, WATCH_S)):
                break
            if not is_wanted():
                self.end()
                raise UnwantedError
        try:
            return collect(worker, self._limits)
        except BaseException:
            self.end()
            raise
        finally:
            if worker.process.exitcode is not None:
                self.end()

    def end(self) -> None:
        """End the worker; the next item gets another one."""
        if self._worker is not None:
            end(self._worker)
        self._worker = None
