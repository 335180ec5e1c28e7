"""One network for all requests: what waits at the same time shares the cores, or passes together.

On a CPU, threads that score one video each lose nothing to each other, and several threads
in one convolution do, above all beside processes that decode: so a lone request has all cores,
and of several each has a part. A GPU takes many clips at once instead.
"""

import atexit
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any, Generic, TypeVar
from weakref import finalize, ref

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fvc.networks.ensemble import Network
from fvc.predict import CLIPS_AT_ONCE, clip_logits

Result = TypeVar("Result")
Scored = TypeVar("Scored", bound=Network)


@dataclass(frozen=True, slots=True)
class _Clips:
    """The clips of one video, which may pass with those of others."""

    pixels: UInt8[Tensor, "N T C H W"]
    done: "Future[Tensor]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Work:
    """Anything else, which is done alone."""

    do: Callable[[Any], Any]
    done: "Future[Any]" = field(default_factory=Future)


_Asked = _Clips | _Work


class _Waiting:
    """What is to be done, in order, for the first thread that has nothing to do.

    A lone request so always comes to the same thread. Where two that have all cores take turns,
    each has a team of OpenMP of its own, and there are more threads than cores: they no longer
    spin while they wait for each other, and a video takes half as long again.

    Args:
        num_threads: How many take from it, each under a number from 0.
    """

    def __init__(self, num_threads: int) -> None:
        self._asked: deque[_Asked] = deque()
        self._idle: list[int] = []
        self._inboxes = [SimpleQueue[_Asked | None]() for _ in range(num_threads)]
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._asked)

    @property
    def num_idle(self) -> int:
        """So many threads have nothing to do."""
        return len(self._idle)

    def put(self, asked: _Asked) -> None:
        """Have something done."""
        with self._lock:
            if self._idle:
                self._inboxes[heappop(self._idle)].put(asked)
            else:
                self._asked.append(asked)

    def take(self, thread: int) -> _Asked | None:
        """What comes next, as soon as there is something; None at the end."""
        with self._lock:
            if self._asked:
                return self._asked.popleft()
            heappush(self._idle, thread)
        return self._inboxes[thread].get()

    def take_if(self, fits: Callable[[_Asked], bool]) -> _Asked | None:
        """What comes next, if there is something that fits."""
        with self._lock:
            if self._asked and fits(self._asked[0]):
                return self._asked.popleft()
            return None

    def end(self) -> None:
        """Have the threads end when all is done; nothing may be put any more.

        It needs no lock: a garbage collection may call it while a thread holds that.
        """
        for inbox in self._inboxes:
            inbox.put(None)


class _Crew:
    """Threads that share the cores.

    Args:
        size: How many threads.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # Asked for by each thread, it would be what another one has set for itself a moment ago.
        self._usual = torch.get_num_threads()
        self._free, self._alone = Semaphore(size), Lock()
        self._busy, self._count = 0, Lock()

    @contextmanager
    def part(self, waiting: int) -> Iterator[None]:
        """Work beside others, with a share of the cores, while so many wait for a thread."""
        with self._free:
            with self._count:
                self._busy += 1
                sharing = min(self._busy + waiting, self.size)
            # Of this thread alone.
            torch.set_num_threads(max(self._usual // sharing, 1))
            try:
                yield
            finally:
                torch.set_num_threads(self._usual)
                with self._count:
                    self._busy -= 1

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Work while no other thread does."""
        with self._alone, ExitStack() as held:
            for _ in range(self.size):
                held.enter_context(self._free)
            torch.set_num_threads(self._usual)
            yield


class Scorer(Generic[Scored]):
    """The threads that alone use a network; any other may ask them.

    They end with `close`, or when nobody refers to this any more.

    Args:
        network: On the device that scores.
    """

    def __init__(self, network: Scored) -> None:
        crew = _Crew(torch.get_num_threads() if network.device.type == "cpu" else 1)
        self._waiting = _Waiting(crew.size)
        # They must not refer to this, or that would always be referred to.
        task = partial(_run, network, self._waiting, crew)
        self._threads = [
            Thread(target=task, args=[number], name=f"scorer {number}", daemon=True)
            for number in range(crew.size)
        ]
        for thread in self._threads:
            thread.start()
        self._end = finalize(self, self._waiting.end)
        # A thread of torch that is still there when Python is gone takes the process with it
        # (std::terminate): at its end they are waited for, which a garbage collection must not.
        self._end.atexit = False
        self._at_exit = partial(_close, ref(self))
        atexit.register(self._at_exit)

    def logits(self, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N"]:
        """Score the clips of one video, maybe together with those of others.

        Whether others pass with it moves a logit by rounding at most.

        Raises:
            ValueError: The clips are not of the shape that the network is made for.
            FvcError: Not even one clip at a time fits into memory.
            RuntimeError: It was closed.
        """
        asked = _Clips(pixels)
        self._put(asked)
        return asked.done.result()

    def call(self, work: Callable[[Scored], Result]) -> Result:
        """Do something with the network while nobody else uses it."""
        asked = _Work(work)
        self._put(asked)
        result: Result = asked.done.result()
        return result

    def _put(self, asked: _Clips | _Work) -> None:
        if not self._end.alive:
            raise RuntimeError("the scorer was closed: nobody would answer")
        self._waiting.put(asked)

    @property
    def waiting(self) -> int:
        """So many have asked and wait for their turn."""
        return len(self._waiting)

    @property
    def idle(self) -> int:
        """So many of its threads have nothing to do."""
        return self._waiting.num_idle

    def close(self) -> None:
        """Finish what was asked for, and end the threads."""
        atexit.unregister(self._at_exit)
        self._end()
        for thread in self._threads:
            thread.join()


def _close(scorer: "ref[Scorer[Any]]") -> None:
    if (still_there := scorer()) is not None:
        still_there.close()


def _run(network: Network, waiting: _Waiting, crew: _Crew, thread: int) -> None:
    while (asked := waiting.take(thread)) is not None:
        if isinstance(asked, _Work):
            with crew.whole():
                _settle([asked.done], partial(_do, network, asked))
        else:
            share = -(-(1 + len(waiting)) // crew.size)
            group = _grouped(asked, waiting, share)
            with crew.part(len(waiting)):
                _settle([each.done for each in group], partial(_score, network, group))


def _grouped(first: _Clips, waiting: _Waiting, most: int) -> list[_Clips]:
    """The first, and what comes next and may pass with it."""

    def fits(other: _Asked) -> bool:
        # Clips in their own aspect ratio may differ in size.
        return isinstance(other, _Clips) and other.pixels.shape[1:] == first.pixels.shape[1:]

    group = [first]
    while sum(len(each.pixels) for each in group) < CLIPS_AT_ONCE and len(group) < most:
        other = waiting.take_if(fits)
        if not isinstance(other, _Clips):
            break
        group.append(other)
    return group


def _do(network: Network, asked: _Work) -> list[Any]:
    return [asked.do(network)]


def _score(network: Network, group: list[_Clips]) -> list[Tensor]:
    pixels = torch.cat([each.pixels for each in group])
    logits = clip_logits(network, pixels)
    return list(torch.split(logits, [len(each.pixels) for each in group]))


def _settle(waiting: "list[Future[Any]]", work: Callable[[], list[Any]]) -> None:
    """Give each who waits his result, or all of them the error."""
    try:
        results = work()
    except Exception as error:  # noqa: BLE001, as it is raised where it is waited for
        for done in waiting:
            done.set_exception(error)
    else:
        for done, result in zip(waiting, results, strict=True):
            done.set_result(result)
