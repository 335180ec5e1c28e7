"""Training in float16, as on a GPU without bfloat16: its loss scaler skips steps that overflow."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import EVERYTHING, MadeBatches, comparable, train, weights_of
from test_out_of_memory import Memory

from fvc.errors import Stopped
from fvc.precision import Precision
from fvc.training.state import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Those of each step of a training in float16, whose scaler begins too high and soon rises."""
    half = Precision(torch.device("cpu"), torch.float16)
    monkeypatch.setattr("fvc.training.state.choose_precision", lambda _: half)
    step, seen = Training.step, list[float]()

    def scaler(_: Precision) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)

    def noting(training: Training, *arguments: Any) -> None:
        step(training, *arguments)
        seen.append(training.scaler.get_scale())

    monkeypatch.setattr(Precision, "scaler", scaler)
    monkeypatch.setattr(Training, "step", noting)
    return seen


HALF = replace(EVERYTHING, epochs=8, patience=8, learning_rate=1.0e-2)


def test_float16_skips_what_overflows_and_goes_on_where_it_was_stopped(
    tmp_path: Path, scales: list[float]
) -> None:
    whole, expected = train(tmp_path / "whole", config=HALF)
    assert expected.precision == "cpu float16"
    assert any(later < scale for scale, later in pairwise(scales)), "nothing overflowed"
    assert any(later > scale for scale, later in pairwise(scales)), "it never rose again"
    assert expected.history[-1]["train/loss"] < expected.history[0]["train/loss"]
    whole_scales = scales.copy()
    for steps in (1, 4, 9):
        scales.clear()
        folder = tmp_path / str(steps)
        with pytest.raises(Stopped):
            train(folder, config=HALF, is_stopped=lambda steps=steps: len(scales) == steps)
        network, result = train(folder, config=HALF)
        assert scales == whole_scales
        assert weights_of(network) == weights_of(whole)
        assert comparable(result.history) == comparable(expected.history)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_out_of_memory_leaves_the_scale_of_float16_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scales: list[float], backward: bool
) -> None:
    config, start = replace(HALF, batch_size=8), Training.begin_epoch

    def begin_small(training: Training, epoch: int) -> None:
        training.micro_batch = 4
        start(training, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "begin_epoch", begin_small)
        small, _ = train(tmp_path / "small", config=config, batches=MadeBatches(8))
    whole_scales = scales.copy()
    scales.clear()
    Memory(monkeypatch, 4, backward=backward)
    network, _ = train(tmp_path / "short", config=config, batches=MadeBatches(8))
    assert scales == whole_scales
    assert weights_of(network) == weights_of(small)
