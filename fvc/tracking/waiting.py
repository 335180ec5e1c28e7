"""A run of which every call waits on disk until the store has taken it: one away costs no run."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from fvc.errors import FvcError, Stopped
from fvc.process import LOCKS, only_one
from fvc.tracking.answers import REFUSALS, is_absent, is_away, reason, store_name
from fvc.tracking.open_run import OpenRun, now_ms
from fvc.tracking.sending import Calls, Sender
from fvc.tracking.store import repository_root

WAITING = Path("work/runs/waiting")
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

    def begin(self) -> None:
        """As that of `OpenRun`."""
        self._add("begin")

    def log_dataset(self, dataset: Mapping[str, Any]) -> None:
        """As that of `OpenRun`."""
        self._add("log_dataset", dataset=dict(dataset))

    def log_params(self, params: Mapping[str, Any]) -> None:
        """As that of `OpenRun`."""
        self._add("log_params", params=dict(params))

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
        """All tags of the run, those that wait included; only these if it began without a store."""
        return dict(self._tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """As that of `OpenRun`."""
        self._tags |= tags
        self._add("set_tags", tags=dict(tags))

    def set_missing_tags(self, tags: Mapping[str, str]) -> None:
        """As that of `OpenRun`."""
        self._tags = {**tags, **self._tags}
        self._add("set_missing_tags", tags=dict(tags))

    def end(self, status: str, time_ms: int | None = None) -> None:
        """As that of `OpenRun`, after all that waits."""
        self._add("end", status=status, time_ms=time_ms or now_ms())

    def _add(self, call: str, source: Path | None = None, **values: Any) -> None:
        self._calls.add(call, source, **values)
        self._sender.wake()


@contextmanager
def waiting_run(client: MlflowClient, run_id: str) -> Iterator[WaitingRun]:
    """Write to a run until the block ends, and end it; what an earlier attempt left goes first.

    Nothing in the block waits for the store, which may be away from the beginning. Its
    end does, within limits; what the store has not taken by then, or refused, stays on
    disk, and one line says so.
    """
    root = _root()
    with only_one(run_id, root / LOCKS), no_retries():
        tags = _known_tags(client, run_id)
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
            sys.stderr.write(_told_aside(calls))


def _known_tags(client: MlflowClient, run_id: str) -> dict[str, str]:
    try:
        return OpenRun(client, run_id).tags()
    except REFUSALS as error:
        if not is_away(error):
            raise
        return {}


@contextmanager
def no_retries() -> Iterator[None]:
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


def _told_aside(calls: Calls) -> str:
    if not calls.refusals:
        return ""
    return (
        f"warning: {len(calls.refusals)} calls to MLflow were refused for good and are kept in "
        f"{calls.aside} ({reason(calls.refusals[0])}); once it takes them, move them to "
        f"{calls.folder} and run 'fvc send'\n"
    )


def send_waiting(client: MlflowClient, cv_key: str | None = None) -> int:
    """Send what the ends of runs have left on disk; says of how many runs.

    A process that is alive sends its own. What is not taken of one run holds up no other one.

    Args:
        client: Of the store.
        cv_key: Of the cross-validation whose runs have to be whole; what is left of
            others is a warning. Without it, all have to be.

    Raises:
        FvcError: The store is away, or has not taken all of a run that has to be whole.
    """
    sent, needed = 0, []
    for calls in _left_behind():
        run_id = calls.folder.name
        tags: dict[str, str] | None = None
        try:
            tags = client.get_run(run_id).data.tags
            _send_all(calls, OpenRun(client, run_id))
            sent += 1
        # Any, as in the sender: what a store's own library raises is told in one line as well.
        except Exception as error:
            if is_absent(error):
                where = f"not in {store_name()}, and waits for its store"
                sys.stderr.write(f"warning: {calls.folder}: this run is {where}\n")
                continue
            left = _left(calls.folder, error)
            if tags is None and is_away(error):
                raise left from error
            if cv_key in (None, (tags or {}).get("fvc.cv_key")):
                needed.append(left)
            else:
                sys.stderr.write(f"warning: {left}\n")
    if needed:
        raise needed[0]
    return sent


def _left_behind() -> Iterator[Calls]:
    """What waits of each run of which no process is alive; nobody else sends it meanwhile."""
    root = _root()
    folder = root / WAITING
    for waiting in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(FvcError), only_one(waiting.name, root / LOCKS):
            yield Calls(waiting)


def _send_all(calls: Calls, run: OpenRun) -> None:
    try:
        for path in calls.paths():
            calls.send(path, run)
        calls.remove()
    finally:
        sys.stderr.write(_told_aside(calls))


def _left(folder: Path, error: Exception) -> FvcError:
    cause = f"waits for MLflow to take it: {reason(error)}"
    return FvcError(folder, cause, "Run 'fvc send' once it does; delete the folder to give it up")


def _root() -> Path:
    return repository_root() or Path.cwd()
