"""Dask's schedulers: one that somebody started, or our own, whose workers are SLURM's jobs."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import dask
from dask_jobqueue import SLURMCluster
from distributed import Client, Status

from fvc.errors import FvcError
from fvc.pool import ENGINE

CONNECT_S = 15.0
"""A scheduler that has not answered by then is not there."""
JOBS = "fvc.jobs"
"""How many jobs SLURM is asked for; jobqueue's configuration has no place for it."""

logger = logging.getLogger(__name__)


@contextmanager
def connected(engine: str) -> Iterator[tuple[Client, Callable[[], None]]]:
    """A client of the engine's scheduler, and what has to be called every few seconds."""
    address: Any
    keep_up: Callable[[], None]
    with ExitStack() as stack:
        address, keep_up = engine, _nothing
        if engine == "slurm":
            address, keep_up = stack.enter_context(_slurm())
        elif not engine.startswith(("tcp://", "tls://")):
            cause = f"is '{engine}', which is neither local, slurm nor tcp://host:port"
            raise FvcError(ENGINE, cause, "Set it to one of these, or unset it")
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
        submit = partial(_submit, cluster, jobs)
        submit()

        def keep_up() -> None:
            try:
                submit()
            except FvcError as error:
                # Others may still run, and SLURM may be away for a moment only.
                logger.warning("%s", error)

        yield cluster, keep_up


def _submit(cluster: SLURMCluster, jobs: int) -> None:
    """Submit as many jobs as are missing.

    Raises:
        FvcError: They cannot be submitted.
    """
    try:
        # As `cluster.scale` does, which tells nobody why a job cannot be submitted.
        while len(cluster.worker_spec) < jobs:
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state)
    except (FileNotFoundError, RuntimeError) as error:
        for name, job in list(cluster.workers.items()):
            if job.status == Status.created:
                # Left there, it would not be submitted again, and could not be closed.
                del cluster.workers[name]
                cluster._created.discard(job)
        if isinstance(error, FileNotFoundError):
            cause = f"is slurm, but there is no {error.filename}"
            raise FvcError(ENGINE, cause, "Run this where SLURM's commands are") from error
        said = str(error).partition("stderr:")[2] or str(error)
        cause = f"refuses the job ({' '.join(said.split())})"
        remedy = "Mend jobqueue.slurm in Dask's configuration"
        raise FvcError("sbatch", cause, remedy) from error
