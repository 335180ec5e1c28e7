"""A SLURM on this machine, and how tests look at what runs on it."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from source_tree import ROOT

SCRIPTS = ROOT / "tests" / "slurm"
SBIN = "/usr/sbin:/sbin"
ABSENT = "slurmctld or munged is not installed: apt-get install slurm-wlm munge"
IS_INSTALLED = all(
    shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") for name in ("slurmctld", "munged")
)

JOBQUEUE = """
jobqueue:
  slurm:
    cores: 1
    processes: 1
    memory: 1GB
    walltime: "01:00:00"
    local-directory: {folder}/scratch
    log-directory: {folder}/logs
fvc:
  jobs: 2
"""


class Site:
    """Two nodes, and the environment in which commands reach them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "dask").mkdir()
        (folder / "dask" / "jobqueue.yaml").write_text(JOBQUEUE.format(folder=folder))
        self.variables = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "DASK_CONFIG": str(folder / "dask"),
            "OMP_NUM_THREADS": "1",
        }
        self.environment = os.environ | self.variables

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command says that has to succeed."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, *states: str) -> list[str]:
        """The numbers of jobs that have not ended; those in given states alone."""
        chosen = ["--states", ",".join(states)] if states else []
        return self.run("squeue", "--noheader", "--array", "--format=%A", *chosen).split()

    def processes(self, job: str) -> list[psutil.Process]:
        """What runs as part of a job."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURM_JOB_ID") == job:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


@contextmanager
def slurm_site(folder: Path) -> Iterator[Site]:
    """A SLURM that runs, with nothing on it."""
    site = Site(folder)
    try:
        subprocess.run([SCRIPTS / "up.sh", folder], check=True, timeout=180)
        yield site
    finally:
        subprocess.run([SCRIPTS / "down.sh", folder], check=False, timeout=60)


def wait_for(
    condition: Callable[[], object], what: str, limit_s: float = 120, every_s: float = 0.02
) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(every_s)
