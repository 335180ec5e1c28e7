"""The workers of `pool` on other machines: chunks of items, each a Dask task for one worker.

Dask would run the chunk of a lost worker again by itself, but not tell which of its
items is to blame. Here every task is bound to its worker, and what was lost with a
worker is sent out anew: item by item, and never two such items to the same worker.
An item is to blame if a second worker is lost with it, and that one alone: workers that
go together, as jobs do at the end of their time, have a reason of their own.
"""

import atexit
import logging
import pickle
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from math import ceil
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import NamedTemporaryFile
from typing import Any, Generic, TypeVar
from uuid import uuid4

from distributed import Client, Future
from distributed.scheduler import KilledWorker
from tqdm import tqdm

from fvc.errors import FvcError
from fvc.pool.chunks import Call, Done, Parcel, run_chunk
from fvc.pool.isolation import Failure, Limits, StartError
from fvc.pool.schedulers import connected

Item = TypeVar("Item")

CHUNK_S = 2.0
"""What a chunk should take: its way costs some milliseconds, and is lost with its worker."""
MAX_ITEMS = 100
"""Most items of a chunk, whose results come back as one message."""
FETCH_S = 30.0
"""Longest wait for a finished chunk's results; its worker may be lost just then."""
REFRESH_S = 5.0
"""How often it is asked which workers there are, and jobs that have gone are submitted again."""
TELL_S = 10.0
"""After so long without a worker, a line says so."""
TOGETHER_S = 15.0
"""Workers lost within this time of each other were lost together."""
MOST_LOST = 5
"""Nothing excuses an item with which so many were lost."""
ORPHANED_S = 2.0
"""A chunk whose worker has gone for so long was never begun: its loss would have been told."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Lost:
    """A worker has gone, with the tasks that it had."""

    worker: str
    tasks: frozenset[str]
    is_blamed: bool
    """Whether a task may be the reason."""
    at_s: float
    """By the monotonic clock."""


@dataclass(slots=True, eq=False)
class _Chunk(Generic[Item]):
    items: Sequence[Item]
    lost_with: tuple[str, ...] = ()
    """The workers that were lost with its only item, which they may have been lost for."""
    worker: str = ""
    orphaned_s: float | None = None
    """Since when its worker is not there, by the monotonic clock."""
    future: "Future[Done] | None" = None

    @property
    def is_suspect(self) -> bool:
        return bool(self.lost_with)


@dataclass(slots=True)
class _Stock(Generic[Item]):
    """The items that are still to be sent."""

    waiting: Iterator[Item]
    num_waiting: int
    returned: deque[_Chunk[Item]] = field(default_factory=deque)
    """Whose worker left without a fault of theirs."""
    suspects: deque[_Chunk[Item]] = field(default_factory=deque)
    busy_s: float = 0.0
    num_done: int = 0

    def take(self, num_threads: int, *, with_suspects: bool) -> _Chunk[Item] | None:
        """What a worker should have next.

        Args:
            num_threads: Of all workers; towards the end, they share what is left.
            with_suspects: Whether it may be an item that a worker was lost with.
        """
        if with_suspects and self.suspects:
            return self.suspects.popleft()
        if self.returned:
            return self.returned.popleft()
        mean_s = self.busy_s / self.num_done if self.num_done else CHUNK_S
        fair = ceil(self.num_waiting / (2 * num_threads))
        size = max(1, min(fair, MAX_ITEMS, int(CHUNK_S / max(mean_s, 1e-6))))
        items = list(islice(self.waiting, size))
        self.num_waiting -= len(items)
        return _Chunk(items) if items else None


class _Run(Generic[Item]):
    """One call of a function on many items."""

    def __init__(self, client: Client, call: Call, stock: _Stock[Item]) -> None:
        self.client, self.call, self.stock = client, call, stock
        self.sent: dict[str, _Chunk[Item]] = {}
        self.held: defaultdict[str, set[str]] = defaultdict(set)
        """What each worker has of it."""
        self.workers: dict[str, int] = {}
        """The threads of those that take something."""
        self.unfit: dict[str, StartError] = {}
        """Workers on which no process starts."""
        self.accused: list[_Chunk[Item]] = []
        self.losses: dict[str, float] = {}
        """When each worker was lost."""
        self.heard: SimpleQueue[str | _Lost | None] = SimpleQueue()
        self.numbers = count()
        client.subscribe_topic("all", self._on_event)

    def leave(self) -> None:
        """Hear no more of the scheduler, if there is one."""
        if self.client.status == "running":
            self.client.unsubscribe_topic("all")

    def _on_event(self, event: tuple[float, Any]) -> None:
        message = event[1] if isinstance(event[1], dict) else {}
        if message.get("action") == "remove-worker":
            tasks = {*message["processing-tasks"], *message["lost-computed-tasks"]}
            # Expected: the scheduler was asked to retire it. SIGTERM looks like any other loss.
            is_blamed = not message["expected"]
            lost = _Lost(message["worker"], frozenset(tasks), is_blamed, time.monotonic())
            self.heard.put(lost)
        elif message.get("action") == "add-worker":
            self.heard.put(None)

    def refresh(self) -> None:
        """Learn which workers there are."""
        found = self.client.scheduler_info().get("workers", {})
        if self.client.status == "closed":
            raise _scheduler_gone()
        if self.client.status != "running":
            return
        # One that is paused or about to leave would begin nothing.
        self.workers = {
            address: worker["nthreads"]
            for address, worker in found.items()
            if worker["status"] == "running" and address not in self.unfit
        }
        now = time.monotonic()
        for address in self.held.keys() - found.keys():
            for key in list(self.held[address]):
                self._check_orphan(key, now)

    def _check_orphan(self, key: str, now: float) -> None:
        """Send again what a worker that was about to leave was sent, and did not have."""
        chunk = self.sent[key]
        if chunk.orphaned_s is None:
            chunk.orphaned_s = now
        elif now - chunk.orphaned_s > ORPHANED_S:
            self._give_back(self._taken_back(key))

    def fill(self) -> None:
        """Give each thread of each worker a chunk."""
        total = sum(self.workers.values())
        for worker, num_threads in self.workers.items():
            theirs = self.held[worker]
            while len(theirs) < num_threads:
                has_suspect = any(self.sent[key].is_suspect for key in theirs)
                chunk = self.stock.take(total, with_suspects=not has_suspect)
                if chunk is None:
                    break
                self._send(chunk, worker)

    def _send(self, chunk: _Chunk[Item], worker: str) -> None:
        key = f"fvc-{self.call.token}-{next(self.numbers)}"
        parcels = [Parcel(pickle.dumps(item)) for item in chunk.items]
        chunk.worker, chunk.orphaned_s = worker, None
        chunk.future = self.client.submit(
            run_chunk, self.call, parcels, key=key, workers=[worker], pure=False
        )
        self.sent[key] = chunk
        self.held[worker].add(key)
        chunk.future.add_done_callback(lambda future: self.heard.put(future.key))

    def attend(self, wait_s: float) -> list[tuple[Item, Any]]:
        """Wait for news, and return the outcomes that came."""
        try:
            news = self.heard.get(timeout=max(wait_s, 0.0))
        except Empty:
            return []
        if isinstance(news, _Lost):
            self._lose(news)
            news = None
        if news is None:
            self.refresh()
            return []
        return self._collect(news)

    def _lose(self, lost: _Lost) -> None:
        self.losses[lost.worker] = lost.at_s
        for key in lost.tasks & self.sent.keys():
            chunk = self._taken_back(key)
            if not lost.is_blamed:
                self._give_back(chunk)
                continue
            lost_with = (*chunk.lost_with, lost.worker)
            suspects = [_Chunk([item], lost_with) for item in chunk.items]
            (self.accused if chunk.is_suspect else self.stock.suspects).extend(suspects)

    def _taken_back(self, key: str) -> _Chunk[Item]:
        chunk = self.sent.pop(key)
        self.held[chunk.worker].discard(key)
        if chunk.future is not None:
            chunk.future.cancel()
        return chunk

    def _give_back(self, chunk: _Chunk[Item]) -> None:
        (self.stock.suspects if chunk.is_suspect else self.stock.returned).append(chunk)

    def judge(self) -> list[tuple[Item, Any]]:
        """The items that are to blame for the loss of workers."""
        accused, self.accused, blamed = self.accused, [], []
        for chunk in accused:
            number = len(chunk.lost_with)
            if time.monotonic() - self.losses[chunk.lost_with[-1]] < TOGETHER_S:
                self.accused.append(chunk)
            elif self._were_others_lost(chunk.lost_with) and number < MOST_LOST:
                self._give_back(chunk)
            else:
                failure = Failure("crashed", f"{number} workers were lost with it")
                blamed += [(item, failure) for item in chunk.items]
        return blamed

    def _were_others_lost(self, lost_with: Sequence[str]) -> bool:
        """Whether the last of these workers was lost together with others."""
        at_s = self.losses[lost_with[-1]]
        others = self.losses.keys() - set(lost_with)
        return any(abs(self.losses[other] - at_s) < TOGETHER_S for other in others)

    def _collect(self, key: str) -> list[tuple[Item, Any]]:
        chunk = self.sent.get(key)
        if chunk is None or chunk.future is None:
            return []
        if chunk.future.status == "cancelled":
            raise _scheduler_gone()
        try:
            done = chunk.future.result(timeout=FETCH_S)
        except StartError as error:
            self._exclude(self._taken_back(key), error)
            return []
        except KilledWorker:
            # Which one it was, and what else it had, comes as an event.
            return []
        except TimeoutError:
            # An item may have raised it as well.
            if chunk.future.status == "error":
                raise
            self.heard.put(key)
            return []
        del self.sent[key]
        self.held[chunk.worker].discard(key)
        self.stock.busy_s += done.busy_s
        self.stock.num_done += len(done.outcomes)
        return list(zip(chunk.items, map(_unpacked, done.outcomes), strict=True))

    def _exclude(self, chunk: _Chunk[Item], error: StartError) -> None:
        """Send nothing more to a worker on which nothing starts; the last one's error is all's."""
        logger.warning("%s gets nothing more: %s", chunk.worker, error)
        self.unfit[chunk.worker] = error
        self._give_back(chunk)
        self.workers.pop(chunk.worker, None)
        if not self.workers:
            raise error


def _scheduler_gone() -> FvcError:
    cause = "has gone, and with it what was running"
    return FvcError("Dask's scheduler", cause, "Start it again, then run the command again")


def _unpacked(outcome: Any) -> Any:
    return pickle.loads(outcome.content) if isinstance(outcome, Parcel) else outcome


def run(
    function: Callable[[Item], Any],
    items: Sequence[Item],
    limits: Limits,
    *,
    engine: str,
    description: str,
) -> Iterator[tuple[Item, Any]]:
    """Do what `fvc.pool.run_isolated` does, on the workers of a cluster.

    Args:
        function: As there.
        items: As there.
        limits: Of each item.
        engine: `slurm`, or the address of a Dask scheduler.
        description: Stands before the progress bar.
    """
    if not items:
        return
    with ExitStack() as stack:
        # The interpreter may end while the caller still holds this generator.
        atexit.register(stack.close)
        stack.callback(atexit.unregister, stack.close)
        stack.enter_context(_exit_on_sigterm())
        landmark = stack.enter_context(NamedTemporaryFile(dir=Path.cwd(), prefix=".fvc-cluster-"))
        client, keep_up = stack.enter_context(connected(engine))
        call = _call_from_here(function, limits, landmark.name)
        run = _Run(client, call, _Stock(iter(items), len(items)))
        stack.callback(run.leave)
        progress = stack.enter_context(tqdm(total=len(items), desc=description, unit=" videos"))
        refreshed_s, num_left = -REFRESH_S, len(items)
        began_s, is_told = time.monotonic(), False
        while num_left:
            if time.monotonic() - refreshed_s >= REFRESH_S:
                keep_up()
                run.refresh()
                refreshed_s = time.monotonic()
            progress.set_postfix_str("" if run.workers else "waiting for workers", refresh=False)
            if not run.workers and not is_told and time.monotonic() - began_s > TELL_S:
                is_told = True
                logger.warning("%s has no worker yet: this waits until one joins", engine)
            run.fill()
            outcomes = run.attend(refreshed_s + REFRESH_S - time.monotonic()) + run.judge()
            # Before the caller gets its results, so that the worker never idles meanwhile.
            run.fill()
            for item, outcome in outcomes:
                num_left -= 1
                progress.update()
                yield item, outcome


def _call_from_here(function: Callable[[Any], Any], limits: Limits, landmark: str) -> Call:
    return Call(
        token=uuid4().hex,
        folder=str(Path.cwd()),
        landmark=landmark,
        search_path=tuple(str(Path(place).absolute()) for place in sys.path),
        function=pickle.dumps(function),
        limits=limits,
    )


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM, which would end this process at once, lets it tidy up before."""
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if is_ours:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
