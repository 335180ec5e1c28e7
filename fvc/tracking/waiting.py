"""A run of which every call waits on disk until the store has taken it: one away costs no run."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fvc.errors import FvcError, Stopped
from fvc.process import only_one
from fvc.tracking.answers import reason
from fvc.tracking.open_run import OpenRun, now_ms
from fvc.tracking.sending import FAILURES, Calls, Sender
from fvc.tracking.store import repository_root

WAITING, LOCKS = Path("work/runs/waiting"), Path("work/locks")
"""Below the root of the repository."""

PATIENCE_S = 60.0
"""So long the end of a run waits for a store that takes nothing."""
STOPPED_S = 5.0
"""The same for a run that was asked to stop, and has to end before it is killed."""

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


class WaitingRun(OpenRun):
    """A run of which every call is written down, and made as soon as the store takes it."""

    def __init__(
        self, client: MlflowClient, run_id: str, tags: dict[str, str], calls: Calls, sender: Sender
    ) -> None:
        super().__init__(client, run_id)
        self._tags, self._calls, self._sender = tags, calls, sender
        self._epochs: set[float | int] = set()

    def log_history(
        self, history: Sequence[Mapping[str, float | int]], time_ms: int | None = None
    ) -> None:
        """As that of `OpenRun`, which leaves out what the run has by then."""
        added = [dict(row) for row in history if row["epoch"] not in self._epochs]
        self._epochs |= {row["epoch"] for row in added}
        if added:
            self._add("log_history", history=added, time_ms=time_ms or now_ms())

    def log_results(self, metrics: Mapping[str, float | int], time_ms: int | None = None) -> None:
        """As that of `OpenRun`."""
        self._add("log_results", metrics=dict(metrics), time_ms=time_ms or now_ms())

    def log_measured(self, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
        """As that of `OpenRun`."""
        self._add("log_measured", metrics=dict(metrics), step=step, time_ms=time_ms)

    def log_file(self, source: Path, folder: str | None = None, name: str | None = None) -> None:
        """As that of `OpenRun`; the source may be replaced or removed at once."""
        self._add("log_file", source, folder=folder, name=name or source.name)

    def tags(self) -> dict[str, str]:
        """All tags of the run, those included that wait."""
        return dict(self._tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """As that of `OpenRun`."""
        self._tags |= tags
        self._add("set_tags", tags=dict(tags))

    def end(self, status: str, time_ms: int | None = None) -> None:
        """As that of `OpenRun`, after all that waits."""
        self._add("end", status=status, time_ms=time_ms or now_ms())

    def _add(self, call: str, source: Path | None = None, **values: Any) -> None:
        self._calls.add(call, source, **values)
        self._sender.wake()


@contextmanager
def waiting_run(client: MlflowClient, run_id: str) -> Iterator[WaitingRun]:
    """Write to a run until the block ends, and end it; what an earlier attempt left goes first.

    Nothing in the block waits for the store. Its end does, within limits; what the
    store has not taken by then stays on disk, and one line says so.
    """
    root = _root()
    tags = OpenRun(client, run_id).tags()
    with only_one(run_id, root / LOCKS), _no_retries():
        calls = Calls(root / WAITING / run_id)
        calls.drop_ends()
        sender = Sender(calls, client, run_id)
        run = WaitingRun(client, run_id, tags, calls, sender)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (Stopped, KeyboardInterrupt):
            # It goes on when it is started again.
            status = "KILLED"
            raise
        finally:
            run.end(status)
            hurried = status == "KILLED"
            failure = sender.end(STOPPED_S if hurried else PATIENCE_S, even_under_way=hurried)
            if left := len(calls.paths()):
                sys.stderr.write(_told(left, calls.folder, failure))
            else:
                calls.remove()


@contextmanager
def _no_retries() -> Iterator[None]:
    """Let MLflow's client fail at once, unless the user wants otherwise: the sender tries anew."""
    if RETRIES in os.environ:
        yield
        return
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        del os.environ[RETRIES]


def _told(left: int, folder: Path, failure: Exception | None) -> str:
    cause = f" ({reason(failure)})" if failure else ""
    return (
        f"warning: {left} calls to MLflow wait in {folder}{cause}; 'fvc send' or the next "
        "'dvc repro' sends them\n"
    )


def send_waiting(client: MlflowClient) -> int:
    """Send what the ends of runs have left on disk; says of how many runs.

    A process that is alive sends its own.

    Raises:
        FvcError: The store does not take it.
    """
    root, sent = _root(), 0
    folder = root / WAITING
    for waiting in sorted(folder.iterdir()) if folder.is_dir() else ():
        with ExitStack() as held:
            try:
                held.enter_context(only_one(waiting.name, root / LOCKS))
            except FvcError:
                continue
            sent += _send_all(client, Calls(waiting))
    return sent


def _send_all(client: MlflowClient, calls: Calls) -> bool:
    """Send what waits of one run, and say whether it did: it may be gone, or of another store."""
    run_id = calls.folder.name
    try:
        found = client.get_run(run_id).info
        if found.lifecycle_stage == LifecycleStage.DELETED:
            calls.remove()
            return False
        run = OpenRun(client, run_id)
        for path in calls.paths():
            calls.send(path, run)
    except FAILURES as error:
        if isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST":
            where = f"not in {mlflow.get_tracking_uri()}, and waits for its store"
            sys.stderr.write(f"warning: {calls.folder}: this run is {where}\n")
            return False
        remedy = "Run 'fvc send' once it does; delete the folder to give it up"
        cause = f"waits for MLflow to take it: {reason(error)}"
        raise FvcError(calls.folder, cause, remedy) from error
    calls.remove()
    return True


def _root() -> Path:
    return repository_root() or Path.cwd()
