"""A stage as a process of its own: what it said, how long it took and how much memory."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
MAX_CORES = 2
INTERVAL_S = 0.02


@dataclass(frozen=True)
class Measured:
    """One run of a stage."""

    command: str
    said: str
    seconds: float
    peak_bytes: int
    """Sum over all its processes, pages that they share counted in each."""

    def __str__(self) -> str:
        return f"{self.command}: {self.seconds:.1f} s, {self.peak_bytes / 1e6:.0f} MB at most"


def run_measured(root: Path, command: str, *flags: str) -> Measured:
    """Run a stage on two cores in the folder `root`, with the committed parameters."""
    arguments = [sys.executable, "-m", "fvc", command, "--params", str(ROOT / "params.yaml")]
    started = time.monotonic()
    with (
        # A pipe that nobody empties would fill up and stop the stage.
        (root / "said.txt").open("w+", encoding="utf-8") as stderr,
        subprocess.Popen([*arguments, *flags], cwd=root, stderr=stderr) as running,
    ):
        stage = psutil.Process(running.pid)
        stage.cpu_affinity(sorted(os.sched_getaffinity(0))[:MAX_CORES])
        peak = 0
        while running.poll() is None:
            peak = max(peak, _resident(stage))
            time.sleep(INTERVAL_S)
        stderr.seek(0)
        said = stderr.read()
    assert running.returncode == 0, said
    return Measured(command, said, time.monotonic() - started, peak)


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
