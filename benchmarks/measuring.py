"""What the benchmarks share: CPU time of ways that take turns, and tables of it."""

import math
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from fvc.process import end_with_parent

Result = TypeVar("Result")


def cpu_s() -> float:
    """CPU time of this process, all its threads, and its children that have ended, in seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class ProcessLostError(Exception):
    """A call took its process down."""


class Processes:
    """One process for each name: libraries that bring the same C code stay apart.

    Loaded beside the others, torchcodec was seen to crash on AV1.
    """

    def __init__(self) -> None:
        # Before a library is loaded, and inherited by the processes.
        os.environ["OMP_NUM_THREADS"] = "1"
        self.executors: dict[str, ProcessPoolExecutor] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for executor in self.executors.values():
            executor.shutdown()

    def call(self, name: str, function: Callable[[], Result]) -> Result:
        """Call a function, found by its module's name, in the process of a name.

        Raises:
            ProcessLostError: It crashed; the next call gets a fresh process.
        """
        if name not in self.executors:
            # Forking a process that has run torch can hang it.
            self.executors[name] = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin)
        try:
            return self.executors[name].submit(function).result()
        except BrokenProcessPool as error:
            self.executors.pop(name).shutdown()
            raise ProcessLostError("takes its process down") from error

    def in_turn(
        self, calls: Mapping[str, tuple[str, Callable[[], object]]], rounds: int
    ) -> dict[str, float]:
        """Call all by turns, several times, and give the least CPU time of each in milliseconds.

        Args:
            calls: By any name, the name of the process and the function.
            rounds: How often.
        """
        least = dict.fromkeys(calls, math.inf)
        for _ in range(rounds):
            for name, (process, function) in calls.items():
                least[name] = min(least[name], self.call(process, partial(timed_ms, function)))
        return least


def _begin() -> None:
    """What a process does first; it would outlive a script that is killed."""
    # Imported here: a machine that only trains has no OpenCV.
    import cv2

    cv2.setNumThreads(1)
    end_with_parent()


def timed_ms(function: Callable[[], object]) -> float:
    """CPU time of a call in milliseconds, all threads of the process together."""
    start_s = cpu_s()
    function()
    return (cpu_s() - start_s) * 1000


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(sum(map(math.log, values)) / len(values))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, the first column to the left."""
    print(f"| {' | '.join(header)} |")
    print(f"|---|{'--:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def surroundings(packages: Sequence[str]) -> str:
    """Date, processor and versions, in one line."""
    named = [f"Python {platform.python_version()}", *map(_versioned, packages)]
    return f"{datetime.now(UTC):%Y-%m-%d}, {_processor()}; {', '.join(named)}"


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo")
    if lines.is_file():
        for line in lines.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def folder_or_temporary(folder: Path | None) -> Iterator[Path]:
    """A folder to keep, or one that is removed."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    else:
        with TemporaryDirectory() as made:
            yield Path(made)


def verdict(claims: Mapping[str, tuple[float, float]]) -> bool:
    """Print ratios beside what is promised; return whether all are reached.

    Args:
        claims: What was measured and what it must at least be, by the claim;
            one that must not be above a value has both negative.
    """
    kept = True
    for claim, (measured, least) in claims.items():
        is_kept = measured >= least
        kept &= is_kept
        bound = "at least" if least > 0 else "at most"
        print(f"{claim}: {abs(measured):.2f} ({bound} {abs(least):g})", end="")
        print("" if is_kept else "  MISSED")
    return kept
