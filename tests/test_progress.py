import io
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from fvc.training.diagnostics import EpochRow
from fvc.training.progress import LiveLine, epoch_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Unread(torch.Tensor):
    """A loss that must not be looked at."""

    def __float__(self) -> float:
        raise AssertionError("a step waited for the device")


@pytest.fixture
def terminal(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Called in the test, since pytest puts its own standard error there after this."""
    del clock
    stream = Terminal()

    def take_place() -> Terminal:
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return take_place


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, in seconds, as its only member."""
    now = [100.0]
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now[0])
        patch.setattr("tqdm.std.tqdm.monitor_interval", 0)
        patch.setattr("tqdm.std.time", lambda: now[0])
        yield now


ROW: EpochRow = {
    "epoch": 2,
    "train/loss": 0.51234,
    "train/learning_rate": 1.0e-4,
    "train/clips_per_s": 123.4,
    "validation/loss": 0.6,
    "validation/roc_auc": 0.75,
    "validation/macro_f1": 0.7,
}


def test_the_line_of_an_epoch_has_what_matters() -> None:
    history: list[EpochRow] = [{"epoch": 0}, {"epoch": 1}, ROW]
    assert epoch_line(4, history, 30, best=2) == (
        "fold 4  epoch 3/30  train loss 0.5123  validation loss 0.6000  ROC-AUC 0.750  "
        "macro-F1 0.700  learning rate 1.00e-04  123 clips/s  best so far"
    )
    assert epoch_line(4, history, 30, best=1).endswith("clips/s  best: epoch 2")


def test_what_is_undefined_is_left_out() -> None:
    row: EpochRow = {name: value for name, value in ROW.items() if name != "validation/roc_auc"}
    assert "ROC-AUC" not in epoch_line(0, [row], 30, best=2)


def test_nothing_is_drawn_where_there_is_no_terminal(
    clock: list[float], terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = terminal()
    monkeypatch.setattr(stream, "isatty", lambda: False)
    with LiveLine(0, 30, clips_per_step=8) as live:
        for step in range(1, 5):
            clock[0] += 10
            live.on_step(0, step, 4, Unread())
    assert stream.getvalue() == ""


def test_it_is_drawn_once_a_second_with_speed_and_time_left(
    clock: list[float], terminal: Callable[[], Terminal]
) -> None:
    stream, drawn = terminal(), []
    with LiveLine(3, 30, clips_per_step=8) as live:
        for step in range(1, 101):
            due = step > 1 and (step - 1) % 8 == 0
            live.on_step(1, step, 1000, 0.5 if due else Unread())
            if due:
                drawn.append(stream.getvalue().split("\r")[-1])
            clock[0] += 0.125
    assert len(drawn) == 12
    assert drawn[0] == "fold 3  epoch 2/30  step 9/1000, loss 0.5000, 64.00 clips/s, 02:03 left"
    assert drawn[-1].endswith("64.00 clips/s, 01:52 left")
    assert not stream.getvalue().split("\r")[-1].strip(), "the line stayed behind"
    assert "\n" not in stream.getvalue()


def test_a_short_epoch_draws_nothing(clock: list[float], terminal: Callable[[], Terminal]) -> None:
    stream = terminal()
    with LiveLine(3, 30, clips_per_step=8) as live:
        for epoch in range(5):
            for step in range(1, 4):
                clock[0] += 0.3
                live.on_step(epoch, step, 3, Unread())
    assert "step" not in stream.getvalue()


def test_an_epoch_that_goes_on_in_its_middle_counts_its_own_steps(
    clock: list[float], terminal: Callable[[], Terminal]
) -> None:
    stream = terminal()
    with LiveLine(3, 30, clips_per_step=8) as live:
        live.on_step(1, 501, 1000, 0.5)
        clock[0] += 2
        live.on_step(1, 502, 1000, 0.5)
        assert "step 502/1000, loss 0.5000,  4.00 clips/s, 16:36 left" in stream.getvalue()
