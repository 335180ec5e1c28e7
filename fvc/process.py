"""A stage runs once at a time, and never outlives what started it."""

import ctypes
import fcntl
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil

from fvc.errors import FvcError

MIB = 2**20

LOCKS = Path("work/locks")
"""Below the root of the repository: who does what."""

SHELLS = {"sh", "bash", "dash", "zsh", "fish", "env"}
PR_SET_PDEATHSIG = 1
POLL_S = 1.0
GRACE_S = 15.0
"""From being asked to end, because what started it is gone, to being made to."""
TOGETHER_S = 2.0
"""SIGTERMs so close after the first are the same request: a cluster signals every process of a
job, a launcher passes that on, and the death of a parent brings one more."""
LAUNCHED = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
"""What torchrun tells each process that it starts."""


def is_first_rank() -> bool:
    """Whether this process speaks for all those that torchrun started, or is the only one."""
    return not os.environ.keys() >= LAUNCHED or os.environ["RANK"] == "0"


@contextmanager
def only_one(name: str, locks: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock of one piece of work for the length of the block.

    The lock is the kernel's (flock), so it ends with the process however that
    dies; the file only says who holds it, and goes with the block.

    Args:
        name: Of the work.
        locks: Folder of the locks.
        waits: Wait for another holder, in place of raising.

    Raises:
        FvcError: Another process holds it.
    """
    locks.mkdir(parents=True, exist_ok=True)
    path = locks / f"{name}.lock"
    with _locked(path, name, waits) as lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()}")
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, name: str, waits: bool) -> TextIO:
    """The open file of a lock that is held."""
    while True:
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            # Whoever held it until now may have removed it in between: then it locks nothing.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                    return lock
            lock.close()
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            remedy = "Wait for it to end, or stop it"
            raise FvcError(name, f"is already running ({holder})", remedy) from None


def end_with_parent() -> None:
    """Arrange that this process is terminated when the program that started it dies.

    The kernel's parent-death signal (Linux, prctl(2)) covers the direct
    parent. DVC and MLflow put a shell between themselves and the stage, which
    would survive them, so a thread also watches every ancestor up to the
    first that is no shell. Where SIGTERM does not end the process within
    GRACE_S, because of `stop_on_sigterm` or a long call into native code,
    SIGKILL does.
    """
    # A batch job may shield what it starts by ignoring SIGTERM, which would be inherited.
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Let the block end its work when SIGTERM comes, in place of being ended by it.

    It is given a function that says whether the signal has come. Those that
    follow within TOGETHER_S are taken for the same request; a later one ends
    the process at once. After the block, the handler from before is back.

    Only the main thread of a process receives signals. In another one the
    function always says no, and SIGTERM does what it did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked_at: list[float] = []

    def on_signal(*_: object) -> None:
        asked_at.append(time.monotonic())
        if asked_at[-1] - asked_at[0] > TOGETHER_S:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    former = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield lambda: bool(asked_at)
    finally:
        # None: a handler that Python did not install, and cannot put back.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


def limit_memory(max_memory_mib: int) -> None:
    """Let this process allocate so much more.

    The limit is on private writable memory (RLIMIT_DATA, getrlimit(2)). One
    on addresses would also count what allocators and threads merely reserve.
    """
    held = psutil.Process().memory_info().data
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + max_memory_mib * MIB
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
