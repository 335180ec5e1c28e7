"""A Dask scheduler with workers in processes of their own, as somebody starts them by hand."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

SCHEDULER = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
WORKERS = ("distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard")


@contextmanager
def _started(folder: Path, name: str, *command: str) -> Iterator[Path]:
    """A command that runs; its log comes back."""
    log = folder / f"{name}.log"
    # What a run says of its place must be enough for them to find functions and files.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stderr=written
        )
    try:
        yield log
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said(log: Path, pattern: str, times: int) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(found := re.findall(pattern, log.read_text())) >= times:
            return str(found[0])
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@contextmanager
def dask_cluster(folder: Path, num_workers: int) -> Iterator[str]:
    """The address of a scheduler, once it has that many workers of one thread."""
    with ExitStack() as stack:
        command = (*SCHEDULER, "--dashboard-address", "127.0.0.1:0")
        log = stack.enter_context(_started(folder, "scheduler", *command))
        address = _said(log, r"Scheduler at:\s+(tcp://\S+)", 1)
        command = (*WORKERS, address, "--nworkers", str(num_workers))
        stack.enter_context(_started(folder, "workers", *command))
        _said(log, r"(Register worker)", num_workers)
        yield address
