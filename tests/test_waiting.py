import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from refusals import AWAY, StoreError, http_error
from test_tracking import IDENTITY

from fvc import process, tracking
from fvc.__main__ import main
from fvc.errors import FvcError, Stopped
from fvc.records import FOLDS
from fvc.stages import send
from fvc.tracking import sending, waiting
from fvc.tracking.answers import reason, refusal
from fvc.tracking.sending import Calls
from fvc.tracking.store import experiment_id
from fvc.tracking.waiting import WAITING, WaitingRun, send_waiting, waiting_run

CALLS = ("log_batch", "set_tag", "log_artifact", "set_terminated")
FOLD_ROW = {"video_id": "a", "group": "g", "label": "fake", "part": "fold", "fold": 0}
HISTORY = [{"epoch": epoch, "train/loss": 0.5 / (1 + epoch), "x": epoch} for epoch in range(20)]


@pytest.fixture
def run_id(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.2)
    monkeypatch.setattr(sending, "SHORTEST_PAUSE_S", 0.05)
    return store.create_run(experiment_id(store)).info.run_id


class Away:
    """A store that takes nothing, or answers nothing at all, while `is_away`."""

    def __init__(self, patch: pytest.MonkeyPatch, names: Sequence[str] = CALLS) -> None:
        self.is_away = True
        self.retries: set[str | None] = set()
        """What MLflow's client was allowed when it got no answer."""
        for name in names:
            patch.setattr(MlflowClient, name, self.unless_away(getattr(MlflowClient, name)))

    def unless_away(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if self.is_away:
                self.retries.add(os.environ.get(waiting.RETRIES))
                raise MlflowException(AWAY)
            return call(*args, **kwargs)

        return called


@pytest.fixture
def away(run_id: str, monkeypatch: pytest.MonkeyPatch) -> Away:
    del run_id
    return Away(monkeypatch)


def steps(client: MlflowClient, run_id: str, name: str = "train/loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, name)]


def fill(run_id: str, tmp_path: Path) -> None:
    """What a training logs, in its order."""
    source = tmp_path / "checkpoint.pt"
    with waiting_run(MlflowClient(), run_id) as run:
        for epoch in range(len(HISTORY)):
            run.log_history(HISTORY[: epoch + 1])
        source.write_bytes(b"weights")
        run.log_file(source)
        source.unlink()
        run.log_results({"test/roc_auc": 0.5})
        run.set_tags({"fvc.weights_sha256": "a"})
        assert run.tags()["fvc.weights_sha256"] == "a"


def assert_whole(client: MlflowClient, run_id: str) -> None:
    run = client.get_run(run_id)
    for name in ("train/loss", "x"):
        assert sorted(steps(client, run_id, name)) == list(range(1, len(HISTORY) + 1)), name
    assert steps(client, run_id, "test/roc_auc") == [0]
    assert run.data.tags["fvc.weights_sha256"] == "a"
    assert run.info.status == "FINISHED"
    stored = Path(client.download_artifacts(run_id, "checkpoint.pt"))
    assert stored.read_bytes() == b"weights"
    assert not (Path.cwd() / WAITING / run_id).exists(), "what was sent is kept"


def test_all_is_in_the_run_when_the_block_ends(
    store: MlflowClient, run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(run_id, tmp_path)
    assert capsys.readouterr().err == ""
    assert_whole(store, run_id)


def test_a_store_that_is_away_costs_no_run(
    store: MlflowClient,
    run_id: str,
    away: Away,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(run_id, tmp_path)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: 24 calls to MLflow wait in {tmp_path / WAITING / run_id} (")
    assert line.endswith("does not answer); 'fvc send' or the next 'dvc repro' sends them")
    with pytest.raises(FvcError, match=r"waits for MLflow to take it: .*does not answer"):
        send_waiting(store)
    away.is_away = False
    send.main([])
    assert "sent what waited, of 1 runs" in capsys.readouterr().err
    assert_whole(store, run_id)
    assert send_waiting(store) == 0


def test_a_store_that_comes_back_gets_all_in_the_same_run(
    store: MlflowClient,
    run_id: str,
    away: Away,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 60.0)
    threading.Timer(0.5, setattr, (away, "is_away", False)).start()
    fill(run_id, tmp_path)
    assert_whole(store, run_id)


def test_no_answer_after_the_store_took_it_makes_no_duplicate(
    store: MlflowClient, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unanswered: list[int] = []
    take = MlflowClient.log_batch

    def once_without_an_answer(client: MlflowClient, *args: Any, **kwargs: Any) -> None:
        take(client, *args, **kwargs)
        if len(unanswered) < 3:
            unanswered.append(0)
            raise MlflowException(AWAY)

    monkeypatch.setattr(MlflowClient, "log_batch", once_without_an_answer)
    monkeypatch.setattr(waiting, "PATIENCE_S", 20.0)
    fill(run_id, tmp_path)
    assert len(unanswered) == 3
    assert_whole(store, run_id)


def test_what_a_killed_process_left_goes_first_and_its_end_is_forgotten(
    store: MlflowClient, run_id: str, tmp_path: Path
) -> None:
    left = Calls(tmp_path / WAITING / run_id)
    left.add("log_history", history=HISTORY[:7], time_ms=7)
    left.add("end", status="KILLED", time_ms=8)
    (left.folder / ".00000003.json.partial").write_text("{")
    seen = []
    with waiting_run(store, run_id) as run:
        run.log_history(HISTORY)
        while left.paths():
            seen.append(store.get_run(run_id).info.status)
            time.sleep(0.01)
        run.log_results({"test/roc_auc": 0.5})
    assert "KILLED" not in seen
    assert sorted(steps(store, run_id)) == list(range(1, len(HISTORY) + 1))
    times = {point.timestamp for point in store.get_metric_history(run_id, "x")[:7]}
    assert times == {7}, "they are of the time at which they were logged"
    assert store.get_run(run_id).info.status == "FINISHED"


def test_nothing_in_the_block_waits_for_the_store(
    store: MlflowClient, run_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    may_go_on, upload = threading.Event(), MlflowClient.log_artifact

    def slow(*args: Any, **kwargs: Any) -> None:
        assert may_go_on.wait(60)
        upload(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_artifact", slow)
    source = tmp_path / "checkpoint.pt"
    with waiting_run(store, run_id) as run:
        for content in (b"first", b"second"):
            source.with_suffix(".new").write_bytes(content)
            source.with_suffix(".new").replace(source)
            run.log_file(source, name=f"{content.decode()}.pt")
        run.log_history(HISTORY)
        assert not store.list_artifacts(run_id), "it was waited for"
        may_go_on.set()
    for content in (b"first", b"second"):
        stored = Path(store.download_artifacts(run_id, f"{content.decode()}.pt"))
        assert stored.read_bytes() == content, "what was logged is what was there at the time"


@contextmanager
def ended_by(error: BaseException) -> Iterator[None]:
    with pytest.raises(type(error)):
        yield


@pytest.mark.parametrize(
    ("error", "status"),
    [(Stopped("a", "b", "c"), "KILLED"), (KeyboardInterrupt(), "KILLED"), (OSError(), "FAILED")],
)
def test_a_run_says_how_it_ended(
    store: MlflowClient, run_id: str, error: BaseException, status: str
) -> None:
    with ended_by(error), waiting_run(store, run_id):
        raise error
    assert store.get_run(run_id).info.status == status


@pytest.mark.usefixtures("away")
def test_one_that_was_asked_to_stop_does_not_wait_long(
    run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 600.0)
    monkeypatch.setattr(waiting, "STOPPED_S", 0.1)
    error, began = Stopped("a", "b", "c"), time.monotonic()
    with ended_by(error), waiting_run(MlflowClient(), run_id):
        raise error
    assert time.monotonic() - began < 30


def test_what_waits_for_a_deleted_run_or_another_store_holds_up_nobody(
    store: MlflowClient, run_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (run_id, "0" * 32):
        Calls(tmp_path / WAITING / number).add("set_tags", tags={"a": "b"})
    store.delete_run(run_id)
    assert send_waiting(store) == 1
    assert [path.name for path in (tmp_path / WAITING).iterdir()] == ["0" * 32]
    other, deleted = capsys.readouterr().err.splitlines()
    assert "this run is not in sqlite" in other
    assert deleted.startswith("warning: 1 calls to MLflow were refused for good and are kept in ")
    assert "must be in the 'active' state" in deleted
    assert [path.name for path in aside(tmp_path, run_id).iterdir()] == ["00000001.json"]


def aside(tmp_path: Path, run_id: str) -> Path:
    return tmp_path / "work/runs/refused" / run_id


def failing(patch: pytest.MonkeyPatch, name: str, errors: list[Exception]) -> None:
    """Let a call of MLflow's client fail with these, one after another, and then do it."""
    call = getattr(MlflowClient, name)

    def called(*args: Any, **kwargs: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return call(*args, **kwargs)

    patch.setattr(MlflowClient, name, called)


def test_errors_of_any_kind_are_survived(
    store: MlflowClient, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 60.0)
    failing(monkeypatch, "log_artifact", [StoreError(), KeyError("x"), RuntimeError()])
    fill(run_id, tmp_path)
    assert_whole(store, run_id)


def test_an_error_of_any_kind_that_stays_is_told_in_one_line(
    store: MlflowClient,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = "no entry to https://me:secret@s3.example.org/b"
    errors: list[Exception] = [StoreError(said)] * 1000
    failing(monkeypatch, "log_artifact", errors)
    fill(run_id, tmp_path)
    shown = "StoreError: no entry to https://s3.example.org/b"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 4 calls to MLflow wait in ")
    assert f" ({shown}); 'fvc send' or" in line
    with pytest.raises(FvcError) as left:
        send_waiting(store)
    assert f"waits for MLflow to take it: {shown}. Run 'fvc send'" in str(left.value)
    errors.clear()
    assert send_waiting(store) == 1
    assert_whole(store, run_id)


INVALID = MlflowException("no such value", INVALID_PARAMETER_VALUE)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: http_error(413), "takes nothing so long (413)"),
        (lambda: INVALID, "no such value"),
        (lambda: MlflowException("Run not found", RESOURCE_DOES_NOT_EXIST), "Run not found"),
    ],
)
def test_what_is_refused_for_good_holds_up_nothing_and_is_kept(
    store: MlflowClient,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Callable[[], Exception],
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "log_artifact", [error()])
        fill(run_id, tmp_path)
    [line] = capsys.readouterr().err.splitlines()
    kept, waits = aside(tmp_path, run_id), tmp_path / WAITING / run_id
    assert line.startswith(
        f"warning: 1 calls to MLflow were refused for good and are kept in {kept}"
    )
    assert said in line
    assert line.endswith(f"move them to {waits} and run 'fvc send'")
    assert store.get_run(run_id).info.status == "FINISHED"
    assert steps(store, run_id, "test/roc_auc") == [0], "what came after it was held up"
    assert sorted(path.suffix for path in kept.iterdir()) == [".file", ".json"]
    with waiting_run(store, run_id) as run:
        run.set_tags({"again": "b"})
        again = [path.name for path in waits.glob("*.json")]
    assert not {path.name for path in kept.iterdir()} & set(again), "one would replace the other"
    kept.rename(waits)
    assert send_waiting(store) == 1
    assert_whole(store, run_id)


def test_what_is_left_of_another_cross_validation_fails_no_evaluation(
    store: MlflowClient,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.set_tag(run_id, "fvc.cv_key", "theirs")
    for number in (run_id, other := store.create_run(experiment_id(store)).info.run_id):
        Calls(tmp_path / WAITING / number).add("log_results", metrics={"a": 1.0})
    with monkeypatch.context() as patch:
        failing(patch, "log_batch", [StoreError("full")] * 4)
        with pytest.raises(FvcError, match=rf"{run_id}: waits for MLflow to take it: StoreError"):
            send_waiting(store, "theirs")
        [warned] = capsys.readouterr().err.splitlines()
        assert f"{other}: waits for MLflow to take it: StoreError: full" in warned
        assert send_waiting(store, "ours") == 0
        assert capsys.readouterr().err.count("warning: ") == 2
    with monkeypatch.context() as patch:
        failing(patch, "get_run", [MlflowException("no", PERMISSION_DENIED)])
        assert send_waiting(store, "ours") == 1, "what one run may not holds up another"
        failing(patch, "get_run", [MlflowException(AWAY)])
        with pytest.raises(FvcError, match="does not answer"):
            send_waiting(store, "ours")
    assert send_waiting(store) == 1


def goes_on(tmp_path: Path, binding: str = "b") -> AbstractContextManager[WaitingRun]:
    folds = FOLDS.frame([{**FOLD_ROW, "validates": [1]}])
    return tracking.fold_run(IDENTITY, 0, folds, binding=binding, runs=tmp_path / "runs")


def test_a_fold_goes_on_without_the_store(
    store: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.1)
    with ended_by(Stopped("a", "b", "c")), goes_on(tmp_path) as run:
        run.log_history(HISTORY[:3])
        raise Stopped("a", "b", "c")
    store.set_tag(run.run_id, MLFLOW_RUN_NOTE, "my own words")
    before = store.get_run(run.run_id).data
    everything = [name for name in vars(MlflowClient) if not name.startswith("_")]
    with monkeypatch.context() as patch:
        away = Away(patch, everything)
        with goes_on(tmp_path) as again:
            assert again.run_id == run.run_id
            again.log_history(HISTORY)
        assert away.retries == {"0"}, "a start that needs no store waits minutes for it"
        goes, waits = capsys.readouterr().err.splitlines()
        with pytest.raises(MlflowException), goes_on(tmp_path, "code of today"):
            pass
    assert goes.endswith(f"does not answer; fold 0 goes on in its run {run.run_id}")
    assert "calls to MLflow wait in" in waits
    assert send_waiting(store) == 1
    assert sorted(steps(store, run.run_id)) == list(range(1, len(HISTORY) + 1))
    found = store.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == before.params
    assert found.data.tags == before.tags


@pytest.mark.parametrize("address", ["http://me:se@cr@host:1/", "postgresql://me:se@cr@host/db"])
def test_no_note_and_no_line_has_a_password(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: address)
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.1)
    with goes_on(tmp_path):
        pass
    [note] = (tmp_path / "runs").iterdir()
    said = [note.read_text(), str(refusal(MlflowException(f"{AWAY}: {address}")))]
    said += [reason(StoreError(f"at {address}")), str(refusal(http_error(403, address)))]
    for text in said:
        assert "host" in text
        assert not {"me", "se", "cr", "secret"} & set(re.findall(r"\w+", text)), text
    del store


def test_a_process_that_is_alive_sends_its_own(store: MlflowClient, run_id: str) -> None:
    with waiting_run(store, run_id) as run:
        run.log_history(HISTORY)
        send_waiting(store)
        with pytest.raises(FvcError, match="is already running"), waiting_run(store, run_id):
            pass
    assert len(steps(store, run_id)) == len(HISTORY)


def test_a_command_whose_server_is_away_ends_with_one_line(
    run_id: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del run_id

    def refuse(_: MlflowClient) -> int:
        raise MlflowException(AWAY)

    monkeypatch.setattr(send, "send_waiting", refuse)
    monkeypatch.setattr(process, "end_with_parent", lambda: None)
    assert main(["send"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: sqlite:///")
    assert "does not answer. Start it, or correct MLFLOW_TRACKING_URI" in line
