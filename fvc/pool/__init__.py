"""One function over many videos: isolated workers, limits of time and memory, results as they come.

FVC_CLUSTER says where the workers are: on this machine, or on others that Dask reaches.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from multiprocessing import connection
from typing import Any, TypeVar

from tqdm import tqdm

from fvc.errors import FvcError
from fvc.pool.isolation import ENGINE, Failure, Killed, Limits, Worker, assign, collect, end, start
from fvc.video import VideoError

__all__ = ["ENGINE", "Failure", "run_isolated"]

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"


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

    With FVC_CLUSTER the processes are on a cluster, and a cluster's worker that
    is lost counts as a process ended from outside.

    Args:
        function: Found by its module's name, so neither a lambda nor a local
            function; workers import that module and no more.
        items: What it is called on; sent to the workers by pickle.
        timeout_s: Longest time for one item.
        description: Stands before the progress bar on standard error.
        max_memory_mib: What a worker may allocate beyond what it holds once it
            has started; without it, all there is. Enforced on Linux.

    Raises:
        FvcError: The cluster that FVC_CLUSTER names cannot be used.
    """
    limits = Limits(timeout_s, max_memory_mib)
    engine = os.environ.get(ENGINE) or LOCAL
    if engine == LOCAL:
        return _run_here(function, items, limits, description)
    run_there = _cluster(engine).run
    return run_there(function, items, limits, engine=engine, description=description)


def _cluster(engine: str) -> Any:
    """The module that reaches other machines.

    Not by an import statement: what comes out does not depend on where it was
    computed, so no stage depends on that module, and few have Dask.
    """
    try:
        return importlib.import_module("fvc.pool.cluster")
    except ModuleNotFoundError as error:
        cause = f"is '{engine}', for which {error.name} is not installed"
        raise FvcError(
            ENGINE, cause, "Run 'make setup', which has the extra, or unset it"
        ) from error


def _run_here(
    function: Callable[[Item], Result], items: Sequence[Item], limits: Limits, description: str
) -> Iterator[tuple[Item, Result | Failure | FvcError | VideoError]]:
    waiting, num_left = iter(items), len(items)
    workers: list[Worker[Item]] = []
    tried_again: list[Item] = []
    try:
        with tqdm(total=len(items), desc=description, unit=" videos") as progress:
            while num_left:
                while len(workers) < min(len(os.sched_getaffinity(0)), num_left):
                    workers.append(start(function, limits))
                for worker in _attend(workers):
                    job, outcome = worker.job, collect(worker, limits)
                    if isinstance(outcome, Killed):
                        if job[0] not in tried_again:
                            tried_again.append(job[0])
                            waiting, job = chain(job, waiting), ()
                        outcome = outcome.again()
                    # Before the caller gets its result, so that the worker never idles meanwhile.
                    if worker.process.exitcode is not None or not assign(worker, waiting, limits):
                        end(worker)
                        workers.remove(worker)
                    for item in job:
                        num_left -= 1
                        progress.update()
                        yield item, outcome
    finally:
        for worker in workers:
            end(worker)


def _attend(workers: Sequence[Worker[Item]]) -> list[Worker[Item]]:
    """Wait for workers that have something to say, are dead, or have had their time."""
    left_s = max(min(worker.deadline for worker in workers) - time.monotonic(), 0)
    pipes = [worker.pipe for worker in workers]
    heard = connection.wait(pipes, left_s)
    now = time.monotonic()
    return [worker for worker in workers if worker.pipe in heard or worker.deadline <= now]
