"""One function over many videos: isolated workers, a time limit, results as they come."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal, TypeVar

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from fvc.errors import FvcError
from fvc.process import end_with_parent
from fvc.video import VideoError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Waiting work per worker: enough that none idles, few enough that finished
# results do not pile up when the caller is slower than the workers.
QUEUED_PER_WORKER = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened to an item whose worker was lost; no other item is affected."""

    reason: Literal["timeout", "crashed"]
    detail: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def run_isolated(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    timeout_s: float,
    description: str,
) -> Iterator[tuple[Item, Result | Failure | FvcError | VideoError]]:
    """Call a function on every item in separate processes, one per available core.

    A call that takes too long or takes its process down (FFmpeg can, on a
    damaged file) yields a `Failure`. An `FvcError` or `VideoError` that the
    function raises is yielded as the item's result; any other exception ends
    the run and is raised here.

    Args:
        function: Found by its module's name, so neither a lambda nor a local
            function; workers import that module and no more.
        items: What it is called on; sent to the workers by pickle.
        timeout_s: Longest time for one item.
        description: Stands before the progress bar on standard error.
    """
    num_workers = min(len(os.sched_getaffinity(0)), max(len(items), 1))
    # Forking a process that has run torch can hang it: workers start afresh.
    pool = ProcessPool(num_workers, initializer=_prepare_worker, context=get_context("spawn"))
    waiting = iter(items)
    running: dict[Future[Result], Item] = {}
    try:
        with tqdm(total=len(items), desc=description, unit="item") as progress:
            while True:
                while len(running) < num_workers * QUEUED_PER_WORKER:
                    try:
                        item = next(waiting)
                    except StopIteration:
                        break
                    running[pool.schedule(function, [item], timeout=timeout_s)] = item
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    progress.update()
                    item, outcome = running.pop(done), _outcome(done, timeout_s)
                    yield item, outcome
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _outcome(done: Future[Result], timeout_s: float) -> Result | Failure | FvcError | VideoError:
    try:
        return done.result()
    except TimeoutError:
        return Failure("timeout", f"took longer than {timeout_s:g} s")
    except ProcessExpired as error:
        return Failure("crashed", f"its process ended with code {error.exitcode}")
    except (FvcError, VideoError) as error:
        return error


def _prepare_worker() -> None:
    """Let a worker be ended at any time: in native code, and with its parent."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()
