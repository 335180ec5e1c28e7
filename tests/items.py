"""What tests have workers do. They import this module, so it imports little."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvc.errors import FvcError
from fvc.video import VideoError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 1:
        raise FvcError("clip.pt", "is missing", "Run 'dvc repro clips'")
    if number == 2:
        raise VideoError("truncated", "no header")
    return number


def fail(number: int) -> int:
    raise ZeroDivisionError(f"no inverse of {number}")


def crash_or_square(number: int) -> int:
    if number == 5:
        os.abort()
    if number == 7:
        time.sleep(60)
    return number * number


def lose_the_worker(number: int) -> int:
    """Take Dask's own process down, as a job does that its node kills."""
    if number == 3:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    time.sleep(0.02)
    return number


def lose_a_worker_once(item: tuple[int, Path]) -> int:
    number, mark = item
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return number


def lose_workers_together(item: tuple[int, Path]) -> int:
    """Twice, the first two items take two workers down at once, as the end of jobs' time does."""
    number, folder = item
    attempt = len(list(folder.glob(f"{number}-*")))
    if number < 2 and attempt < 2:
        (folder / f"{number}-{attempt}").touch()
        while not (folder / f"{1 - number}-{attempt}").exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return number


def time_out(number: int) -> int:
    raise TimeoutError(f"no answer for {number}")


class Unfit:
    """A function that lets the first process that it comes to end, before it has started."""

    def __init__(self, mark: Path | None = None) -> None:
        self.mark = mark

    def __call__(self, number: int) -> int:
        raise NotImplementedError

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _square_after_the_first, (self.mark,)


def _square_after_the_first(mark: Path | None) -> Callable[[int], int]:
    try:
        if mark:
            mark.touch(exist_ok=False)
    except FileExistsError:
        return square
    os._exit(3)


def size_of(path: Path) -> int:
    return path.stat().st_size


def write_pid(item: tuple[int, Path]) -> int:
    number, folder = item
    (folder / f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60 if number else 0)
    return number
