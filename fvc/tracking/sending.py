"""Calls to a run that wait on disk until the store has taken them, and the thread that sends them.

Each call is a file, whole or absent; a file that it stores lies beside it. They are sent in their
order, and each is gone once it was taken. Sent twice, because a process was killed in between, a
call leaves what it leaves once: its time is written down with it. One that the store refuses for
good is set aside, so that it holds up nothing, and is kept.
"""

import json
import logging
import os
import threading
import time
from pathlib import Path
from shutil import copy2
from typing import Any

from mlflow.tracking import MlflowClient

from fvc.files import replacing
from fvc.tracking.answers import is_for_good, reason
from fvc.tracking.open_run import OpenRun

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""Between two attempts: the first ones, and those at the end of the run, soon after each other."""

NUMBERED = "[0-9]*.json"

REFUSED = "refused"
"""Beside the folder of what waits: the calls that no store will take, a folder for each run."""

logger = logging.getLogger(__name__)


class Calls:
    """The calls of one run that the store has not taken yet."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.aside = folder, folder.parent.parent / REFUSED / folder.name
        self.refusals: list[Exception] = []
        """Why those were set aside that this object has sent."""
        folder.mkdir(parents=True, exist_ok=True)
        # Those set aside count as well, so that they may be moved back.
        numbered = [*self.paths(), *self.aside.glob(NUMBERED)]
        self._last = max((int(path.stem) for path in numbered), default=0)
        self._adding = threading.Lock()

    def paths(self) -> list[Path]:
        """The oldest first."""
        return sorted(self.folder.glob(NUMBERED))

    def add(self, call: str, source: Path | None = None, **values: Any) -> None:
        """Write one down; of a `source`, what it holds now."""
        with self._adding:
            target = self.folder / f"{self._last + 1:08}.json"
            if source is not None:
                _keep(source, target.with_suffix(".file"))
            with replacing(target) as partial, partial.open("w", encoding="utf-8") as stream:
                json.dump({"call": call, **values}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            self._last += 1

    def send(self, path: Path, run: OpenRun) -> None:
        """Let a run take one of them, or set it aside; any error leaves it as it is."""
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        call, kept = values.pop("call"), path.with_suffix(".file")
        if call == "log_file":
            values["source"] = kept
        try:
            getattr(run, call)(**values)
        except Exception as error:
            if not is_for_good(error):
                raise
            self._set_aside(path, kept)
            self.refusals.append(error)
        path.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)

    def _set_aside(self, path: Path, kept: Path) -> None:
        self.aside.mkdir(parents=True, exist_ok=True)
        # Killed in between, both are still where they were.
        if kept.exists():
            _keep(kept, self.aside / kept.name)
        path.replace(self.aside / path.name)

    def drop_ends(self) -> None:
        """Forget that an earlier attempt ended: it goes on."""
        for path in self.paths():
            if json.loads(path.read_text(encoding="utf-8"))["call"] == "end":
                path.unlink()

    def remove(self) -> None:
        """Leave no folder behind, nor what a killed process had begun to write."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)
        self.folder.rmdir()


def _keep(source: Path, target: Path) -> None:
    """A second name costs no copy; what we store is replaced, and never changed in place."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        copy2(source, target)


class Sender:
    """A thread that sends what waits until it is taken."""

    def __init__(self, calls: Calls, client: MlflowClient, run_id: str) -> None:
        self._calls, self._client, self._run_id = calls, client, run_id
        self._changed = threading.Condition()
        self._is_ending = self._gave_up = False
        self._failure: Exception | None = None
        self._is_refusal_told = False
        self._taken_at = 0.0
        self._thread = threading.Thread(target=self._work, name="sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look again: something was added."""
        with self._changed:
            self._changed.notify_all()

    def end(self, patience_s: float, *, even_under_way: bool) -> Exception | None:
        """Wait until all is sent, or nothing was taken for so long; gives the last failure.

        Args:
            patience_s: From the last call that was taken.
            even_under_way: Also leave a call that may yet be taken, as a large file may.
                Otherwise MLflow's own limits say how long that can take.
        """
        with self._changed:
            self._is_ending, self._taken_at = True, time.monotonic()
            self._changed.notify_all()
            while self._thread.is_alive() and self._calls.paths():
                failed = even_under_way or self._failure is not None
                if failed and time.monotonic() - self._taken_at > patience_s:
                    break
                self._changed.wait(0.1)
            self._gave_up = True
            self._changed.notify_all()
        self._thread.join(1.0)
        return self._failure

    def _work(self) -> None:
        run, pause_s = OpenRun(self._client, self._run_id), SHORTEST_PAUSE_S
        while True:
            try:
                waiting = self._next()
                if waiting is None:
                    return
                self._calls.send(waiting, run)
            # Any: stores have errors of their own, and a thread that has ended sends nothing more.
            except Exception as error:  # noqa: BLE001
                self._failed(error)
                # What it knew of the run may be wrong: half of a call may have arrived.
                run = OpenRun(self._client, self._run_id)
                pause_s = self._pause(pause_s)
            else:
                self._took()
                pause_s = SHORTEST_PAUSE_S

    def _pause(self, pause_s: float) -> float:
        """Wait before the next attempt; gives how long to wait before the one after that."""
        with self._changed:
            was_ending = self._is_ending
            self._changed.wait_for(
                lambda: self._gave_up or self._is_ending is not was_ending, pause_s
            )
            return SHORTEST_PAUSE_S if self._is_ending else min(2 * pause_s, LONGEST_PAUSE_S)

    def _next(self) -> Path | None:
        """The oldest call, once there is one; None where the run has ended."""
        with self._changed:
            while not (waiting := self._calls.paths()) and not self._is_ending:
                self._changed.wait()
            return waiting[0] if waiting and not self._gave_up else None

    def _failed(self, error: Exception) -> None:
        if self._failure is None:
            where = self._calls.folder
            logger.warning("%s; what is logged waits in %s, and follows", reason(error), where)
        self._failure = error

    def _took(self) -> None:
        if self._calls.refusals and not self._is_refusal_told:
            why, where = reason(self._calls.refusals[0]), self._calls.aside
            logger.warning("%s; what is refused for good is kept in %s", why, where)
            self._is_refusal_told = True
        if self._failure is not None:
            logger.info("the MLflow store takes again what is logged")
        with self._changed:
            self._failure, self._taken_at = None, time.monotonic()
            self._changed.notify_all()
