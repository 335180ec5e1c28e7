"""Dask's schedulers: one that somebody started, or our own, whose workers are SLURM's jobs."""

import logging
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client, Status

from fvc.errors import FvcError
from fvc.pool.isolation import ENGINE

ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")
CERTIFICATES = "distributed.comm.tls.ca-file"
CONNECT_S = 15.0
"""A scheduler that has not answered by then is not there."""
JOBS = "fvc.jobs"
"""How many jobs SLURM is asked for; jobqueue's configuration has no place for it."""
ANSWER_S = 10.0
"""SLURM that has not answered by then is asked again later."""
MIN_USELESS = 3
"""Fewer jobs that end before they are of use may have been cancelled by somebody."""

logger = logging.getLogger(__name__)


@contextmanager
def connected(engine: str) -> Iterator[tuple[Client, Callable[[], None]]]:
    """A client of the engine's scheduler, and what has to be called every few seconds."""
    address: Any
    keep_up: Callable[[], None]
    # Of a scheduler that has gone it shows its own frames, before our one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        address, keep_up = engine, _nothing
        if engine == "slurm":
            address, keep_up = stack.enter_context(_slurm())
        elif not ADDRESS.fullmatch(engine):
            cause = (
                f"is '{engine}', which is neither local, slurm, tcp://host:port nor tls://host:port"
            )
            raise FvcError(ENGINE, cause, "Set it to one of these, or unset it")
        elif engine.startswith("tls://") and not dask.config.get(CERTIFICATES, None):
            cause = f"asks for TLS, and Dask's configuration has no {CERTIFICATES}"
            remedy = "Set it, or DASK_DISTRIBUTED__COMM__TLS__CA_FILE, and those of the client"
            raise FvcError(engine, cause, remedy)
        try:
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            cause = f"no scheduler answers ({' '.join(str(error).split())})"
            remedy = f"Start one with 'dask scheduler', or unset {ENGINE}"
            raise FvcError(engine, cause, remedy) from error
        yield stack.enter_context(client), keep_up


def _nothing() -> None:
    """What a scheduler that somebody else started needs."""


@contextmanager
def _slurm() -> Iterator[tuple[SLURMCluster, Callable[[], None]]]:
    """A scheduler in this process, whose workers are SLURM's jobs."""
    jobs = dask.config.get(JOBS, None)
    where = "Dask's configuration"
    remedy = "Write it into ~/.config/dask/jobqueue.yaml: docs/cluster.md has an example"
    if not isinstance(jobs, int) or jobs < 1:
        raise FvcError(where, f"{JOBS}, the number of jobs, is {jobs}", remedy)
    options = {"dashboard_address": ":0", **dask.config.get("jobqueue.slurm.scheduler-options", {})}
    with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):
        try:
            cluster = SLURMCluster(scheduler_options=options)
        except ValueError as error:
            raise FvcError(where, " ".join(str(error).split()), remedy) from error
    with cluster:
        jobs_of = _Jobs(cluster, jobs)
        jobs_of.submit()
        yield cluster, jobs_of.keep_up


class _Jobs:
    """As many jobs of a cluster as there should be."""

    def __init__(self, cluster: SLURMCluster, number: int) -> None:
        self._cluster, self._number = cluster, number
        self._useful: set[str] = set()
        """Those whose workers have answered."""
        self._num_useless = 0
        """How many have ended since one answered."""

    def keep_up(self) -> None:
        """Submit jobs in place of those that have ended.

        Raises:
            FvcError: They all end before a worker of theirs answers.
        """
        self._drop_ended()
        if self._num_useless >= max(self._number, MIN_USELESS):
            logs = getattr(self._cluster._dummy_job, "log_directory", None) or "where it was run"
            cause = f"{self._num_useless} jobs have ended before a worker of theirs answered"
            raise FvcError("SLURM", cause, f"Read what they wrote ({logs})")
        try:
            self.submit()
        except FvcError as error:
            # Others may still run, and SLURM may be away for a moment only.
            logger.warning("%s", error)

    def _drop_ended(self) -> None:
        """Forget the jobs that have ended: Dask misses only those whose only worker it knew."""
        known = [*self._cluster.scheduler_info["workers"].values()]
        answering = {str(worker["name"]) for worker in known}
        queued = _queued()
        for name, job in list(self._cluster.workers.items()):
            # With several processes to a job, their names are that of the job and a number.
            if any(each == str(name) or each.startswith(f"{name}-") for each in answering):
                self._useful.add(job.job_id)
                self._num_useless = 0
            elif queued is not None and job.job_id not in queued:
                self._num_useless += job.job_id not in self._useful
                self._forget(name)

    def _forget(self, name: Any) -> None:
        # Left there, it would not be submitted again, and could not be closed. The next one has
        # another name: Dask cancels what still has that of a lost worker after a while.
        self._cluster._created.discard(self._cluster.workers.pop(name))
        self._cluster.worker_spec.pop(name, None)

    def submit(self) -> None:
        """Submit as many jobs as are missing.

        Raises:
            FvcError: They cannot be submitted.
        """
        try:
            # As `cluster.scale` does, which tells nobody why a job cannot be submitted.
            while len(self._cluster.worker_spec) < self._number:
                self._cluster.worker_spec.update(self._cluster.new_worker_spec())
            self._cluster.sync(self._cluster._correct_state)
        except (FileNotFoundError, RuntimeError) as error:
            for name, job in list(self._cluster.workers.items()):
                if job.status == Status.created:
                    self._forget(name)
            if isinstance(error, FileNotFoundError):
                cause = f"is slurm, but there is no {error.filename}"
                raise FvcError(ENGINE, cause, "Run this where SLURM's commands are") from error
            said = str(error).partition("stderr:")[2] or str(error)
            cause = f"refuses the job ({' '.join(said.split())})"
            remedy = "Mend jobqueue.slurm in Dask's configuration"
            raise FvcError("sbatch", cause, remedy) from error


def _queued() -> set[str] | None:
    """The numbers of this user's jobs that have not ended; None where SLURM does not say."""
    command = ["squeue", "--me", "--noheader", "--format=%A"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWER_S)
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("squeue does not say which jobs there are: %s", error)
        return None
    return set(done.stdout.split())
