import logging

import pytest
from mlflow.tracking import MlflowClient
from settings import train_config

from fvc.tracking.open_run import OpenRun
from fvc.tracking.store import experiment_id
from fvc.training.diagnostics import Diverged, EpochRow, require_finite
from fvc.training.reporting import reporting
from fvc.training.resuming import best_epoch

ROWS: list[EpochRow] = [
    {"epoch": epoch, "train/loss": loss, "validation/loss": loss}
    for epoch, loss in enumerate((0.7, 0.4, 9.0, 8.0, 9.0))
]
"""The loss explodes in the third epoch."""

WARNING = "exploding loss: epoch 3: the training loss rose to 9 from 0.4. Lower train."


@pytest.fixture
def run(store: MlflowClient) -> OpenRun:
    return OpenRun(store, store.create_run(experiment_id(store)).info.run_id)


def report(run: OpenRun, *lengths: int, broken_in: int | None = None) -> None:
    """As one process does that has seen so many epochs, and maybe one that it cannot end."""
    # Another process knows nothing of what this one remembers.
    anew = OpenRun(run.client, run.run_id)
    with reporting(anew, 0, train_config(), best_of=best_epoch, clips_per_step=4) as reporter:
        for length in lengths:
            reporter.on_epoch(ROWS[:length])
        if broken_in is not None:
            require_finite({"train/loss": float("nan")}, epoch=broken_in)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_condition_is_warned_of_once_and_marks_the_run(
    run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fvc")
    report(run, 1, 2)
    assert warnings_of(caplog) == []
    assert not [name for name in run.tags() if name.startswith("fvc.warning")]
    report(run, 2, 3, 4)
    [warning] = warnings_of(caplog)
    assert warning.startswith(WARNING)
    assert "exploding loss: " + run.tags()["fvc.warning.exploding_loss"] == warning
    report(run, 4, 5)
    assert warnings_of(caplog) == [warning], "a resumed training says it again"


def test_a_condition_that_nobody_has_told_yet_is_told_on_resumption(
    run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    report(run, 5)
    assert warnings_of(caplog)[0].startswith(WARNING)


def test_a_condition_is_told_within_the_epoch_and_not_once_more_at_its_end(
    run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    steps = [(33, {"train/loss": 0.4}), (65, {"train/loss": 9.0}), (97, {"train/loss": 9.0})]
    for _ in range(2):
        anew = OpenRun(run.client, run.run_id)
        with reporting(anew, 0, train_config(), best_of=best_epoch, clips_per_step=4) as reporter:
            reporter.on_epoch(ROWS[:2])
            for step, shown in steps:
                reporter.on_step(2, step - 1, 200, 0.5, {})
                reporter.on_step(2, step, 200, 0.5, shown)
            [warning] = warnings_of(caplog)
            assert warning.startswith("exploding loss: epoch 3, step 65: the training loss rose to")
            reporter.on_epoch(ROWS[:3])
    assert warnings_of(caplog) == [warning], "it says it again"
    assert "exploding loss: " + run.tags()["fvc.warning.exploding_loss"] == warning


def test_every_epoch_has_a_line_with_the_best_marked(
    run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fvc")
    report(run, 1, 2, 3)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [line.split("  ")[1] for line in lines] == ["epoch 1/5", "epoch 2/5", "epoch 3/5"]
    assert [line.split("  ")[-1] for line in lines] == [
        "best so far",
        "best so far",
        "best: epoch 2",
    ]


def test_no_step_of_a_metric_is_tracked_twice(run: OpenRun) -> None:
    report(run, 1, 2)
    report(run, 2, 3)
    points = run.client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.7), (2, 0.4), (3, 9.0)]


def test_the_store_is_asked_once_for_what_it_has(
    run: OpenRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = MlflowClient.get_metric_history

    def counted(client: MlflowClient, run_id: str, name: str) -> object:
        asked.append(name)
        return ask(client, run_id, name)

    monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
    report(run, 1, 2, 3)
    assert sorted(asked) == ["train/loss", "validation/loss"], "tracking slows every epoch down"


def test_a_training_that_diverged_leaves_its_mark(
    run: OpenRun, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Diverged):
        report(run, 2, broken_in=2)
    assert run.tags()["fvc.warning.nan"].startswith("epoch 3: train/loss is nan")
    assert warnings_of(caplog)[0].startswith("nan: epoch 3: train/loss is nan")
