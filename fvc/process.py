"""A stage runs once at a time, and never outlives what started it."""

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from fvc.errors import FvcError

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "env"}
PR_SET_PDEATHSIG = 1
POLL_S = 1.0


@contextmanager
def only_one(name: str, locks: Path) -> Iterator[None]:
    """Hold the lock of one piece of work for the length of the block.

    The lock is the kernel's (flock), so it ends with the process however that
    dies; the file only says who holds it.

    Raises:
        FvcError: Another process holds it.
    """
    locks.mkdir(parents=True, exist_ok=True)
    path = locks / f"{name}.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            remedy = "Wait for it to end, or stop it"
            raise FvcError(name, f"is already running ({holder})", remedy) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        yield


def end_with_parent() -> None:
    """Arrange that this process is terminated when the program that started it dies.

    The kernel's parent-death signal (Linux, prctl(2)) covers the direct
    parent. DVC and MLflow put a shell between themselves and the stage, which
    would survive them, so a thread also watches every ancestor up to the
    first that is no shell.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    ancestors = []
    for ancestor in psutil.Process().parents():
        ancestors.append(ancestor)
        if ancestor.name() not in SHELLS:
            break
    threading.Thread(target=_watch, args=(ancestors,), daemon=True).start()


def _watch(ancestors: list[psutil.Process]) -> None:
    while all(ancestor.is_running() for ancestor in ancestors):
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
