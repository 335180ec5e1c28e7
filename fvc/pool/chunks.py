"""What a worker of a cluster does with the items that it is sent: the same as this machine would.

Nothing of an item or a result is looked at on the way: Dask's own process may have run
since before the code was last changed, and the isolated one that it starts never has.
"""

import os
import pickle
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvc.errors import FvcError
from fvc.pool.isolation import Limits, Seat

IDLE_S = 10.0
"""After that long without an item, a seat gives its process up."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """An item or a result on its way."""

    content: bytes

    def __str__(self) -> str:
        return str(pickle.loads(self.content))


@dataclass(frozen=True, slots=True)
class Call:
    """What a run calls on every item, and where."""

    token: str
    """Tells runs apart."""
    folder: str
    """The working directory, in which relative paths are."""
    landmark: str
    """A file in it that was just made."""
    search_path: tuple[str, ...]
    """Where the function's module is looked for, after the worker's own places."""
    function: bytes
    limits: Limits


@dataclass(frozen=True, slots=True)
class Done:
    """A chunk's outcomes, in order."""

    outcomes: tuple[Any, ...]
    busy_s: float
    """What the items took, without the start of a process."""


class _Sent:
    """A function that is found only where it is called: pickling gives the function itself."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, item: Parcel) -> Parcel:
        raise NotImplementedError("it is called in another process")

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _arrive, (self.call.folder, self.call.search_path, self.call.function)


class _Unpacking:
    """A function of what is in a parcel."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, item: Parcel) -> Parcel:
        return Parcel(pickle.dumps(self.function(pickle.loads(item.content))))


def _arrive(folder: str, search_path: Sequence[str], function: bytes) -> _Unpacking:
    os.chdir(folder)
    sys.path += [place for place in search_path if place not in sys.path]
    return _Unpacking(pickle.loads(function))


class _Place:
    """A thread of a Dask worker, and the process that computes for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token = ""
        self.seat: Seat[Parcel] | None = None
        self.timer: threading.Timer | None = None

    def run(self, call: Call, parcels: Sequence[Parcel], is_wanted: Callable[[], bool]) -> Done:
        with self.lock:
            if self.timer:
                self.timer.cancel()
            try:
                return self._run(call, parcels, is_wanted)
            finally:
                self.timer = threading.Timer(IDLE_S, self._leave)
                self.timer.daemon = True
                self.timer.start()

    def _run(self, call: Call, parcels: Sequence[Parcel], is_wanted: Callable[[], bool]) -> Done:
        if self.seat is None or self.token != call.token:
            if self.seat:
                self.seat.end()
            self.seat, self.token = Seat(_Sent(call), call.limits), call.token
        outcomes, busy_s = [], 0.0
        for parcel in parcels:
            self.seat.prepare(is_wanted)
            began = time.monotonic()
            outcomes.append(self.seat.call(parcel, is_wanted))
            busy_s += time.monotonic() - began
        return Done(tuple(outcomes), busy_s)

    def _leave(self) -> None:
        # Busy: what it is busy with sets the clock again.
        if self.lock.acquire(blocking=False):
            try:
                if self.seat:
                    self.seat.end()
            finally:
                self.lock.release()


_HERE = threading.local()


def run_chunk(call: Call, parcels: Sequence[Parcel]) -> Done:
    """Run as a Dask task: some items in turn, in a process apart from Dask's.

    Raises:
        FvcError: The run's files are not to be seen from here.
        UnwantedError: The task was cancelled; nobody receives this.
    """
    from distributed import get_worker

    worker = get_worker()
    if not Path(call.landmark).exists():
        where = f"worker {worker.address} on {socket.gethostname()}"
        cause = f"does not see the files of {call.folder}"
        raise FvcError(where, cause, "Run the command, and all workers, on a shared file system")
    key = worker.get_current_task()

    def is_wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    if not hasattr(_HERE, "place"):
        _HERE.place = _Place()
    place: _Place = _HERE.place
    return place.run(call, parcels, is_wanted)
