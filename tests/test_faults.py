"""What goes wrong in a training on purpose, and what must come of it."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from settings import clips_config
from small_training import (
    CONFIG,
    ENGINE,
    EVERY_STEP,
    MadeBatches,
    comparable,
    train,
    weights_of,
)
from torch import Tensor, nn

from fvc.config import EngineConfig
from fvc.errors import FvcError, Stopped
from fvc.networks import ClipClassifier
from fvc.training.state import Training

EIGHT = replace(CONFIG, batch_size=8, mixed_precision=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on pictures this small, and most where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_without_statistics() -> ClipClassifier:
    """Whose result does not depend on which clips pass through it together."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU())
    return ClipClassifier(features, channels=8, dropout=0.0, clips=clips_config(1, 2, 16))


class Memory:
    """So little of it that a pass of more than `room` clips fails, from one pass on."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int, since: int = 0) -> None:
        self.passes: list[int] = []
        forward = Training.forward

        def limited(training: Training, clips: Tensor, mask: Tensor | None) -> Tensor:
            self.passes.append(len(clips))
            logits = forward(training, clips, mask)
            if len(self.passes) > since and len(clips) > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return logits

        patch.setattr(Training, "forward", limited)


@pytest.mark.parametrize(("room", "since"), [(4, 0), (4, 3), (2, 1), (1, 2)])
def test_out_of_memory_leaves_the_steps_and_their_clips_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, since: int
) -> None:
    batches = MadeBatches(size=8)
    whole = network_without_statistics()
    _, expected = train(tmp_path / "whole", config=EIGHT, network=whole, batches=batches)
    Memory(monkeypatch, room, since)
    network = network_without_statistics()
    steps: list[int] = []
    _, result = train(
        tmp_path / "limited",
        config=EIGHT,
        network=network,
        batches=batches,
        on_step=lambda step: steps.append(step.epoch),
    )
    assert steps == [0, 1, 2, 3, 4], "a step was lost or made twice"
    for given, wanted in zip(result.history, expected.history, strict=True):
        assert given["train/loss"] == pytest.approx(wanted["train/loss"], abs=1e-5)
        assert given["train/learning_rate"] == wanted["train/learning_rate"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], atol=1e-4, rtol=1e-3)
    assert result.history[-1]["train/micro_batch_size"] == room
    assert result.history[-1]["train/batch_size"] == 8


def test_the_step_is_begun_anew_as_if_it_had_not_been_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch-norm statistics and dropout: those of a step with small parts from the beginning."""
    Memory(monkeypatch, room=4)
    batches = MadeBatches(size=8)
    _, failed = train(tmp_path / "failed", config=EIGHT, batches=batches)
    monkeypatch.undo()
    start = Training.begin_epoch

    def begin_small(training: Training, epoch: int) -> object:
        training.micro_batch = 4
        return start(training, epoch)

    monkeypatch.setattr(Training, "begin_epoch", begin_small)
    _, small = train(tmp_path / "small", config=EIGHT, batches=batches)
    assert comparable(failed.history) == comparable(small.history)


def test_memory_for_no_clip_at_all_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(monkeypatch, room=0)
    with caplog.at_level(logging.WARNING), pytest.raises(FvcError, match="memory"):
        train(tmp_path, config=EIGHT, batches=MadeBatches(size=8))
    assert memory.passes == [8, 4, 2, 1]
    assert caplog.text.count("ran out of memory") == 3


def test_after_a_stop_the_smaller_parts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(monkeypatch, room=2)
    seen: list[int] = []

    def is_stopped() -> bool:
        seen.append(1)
        return len(seen) == 3

    with pytest.raises(Stopped, match="stopped after 2 epochs and 1 steps"):
        train(tmp_path, config=EIGHT, batches=MadeBatches(size=8), is_stopped=is_stopped)
    memory.passes.clear()
    train(tmp_path, config=EIGHT, batches=MadeBatches(size=8))
    assert set(memory.passes) == {2}, "it ran out of memory again"


def test_another_error_is_not_taken_for_a_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Training, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        train(tmp_path)


@pytest.mark.parametrize("steps", range(1, 10))
def test_stopped_within_an_epoch_it_goes_on_from_that_step(tmp_path: Path, steps: int) -> None:
    """With everything that has a state: averages, mixed clips, dropout, a falling rate."""
    config = replace(
        CONFIG,
        ema_decay=0.9,
        mixup_alpha=0.4,
        label_smoothing=0.1,
        schedule="cosine",
        warmup_epochs=0.5,
        fine_tuning="gradual",
        unfreeze_epochs=(1, 2),
        epochs=5,
    )
    whole, expected = train(tmp_path / "whole", config=config)
    asked: list[int] = []

    def is_stopped() -> bool:
        asked.append(1)
        return len(asked) == steps

    with pytest.raises(Stopped):
        train(tmp_path / "stopped", config=config, is_stopped=is_stopped)
    done: list[tuple[int, int]] = []
    network, result = train(
        tmp_path / "stopped",
        config=config,
        on_step=lambda step: done.append((step.epoch, step.done)),
    )
    assert len(done) == 10 - steps, "a step was made twice"
    assert weights_of(network) == weights_of(whole)
    assert comparable(result.history) == comparable(expected.history)


def test_stopped_in_validation_no_step_is_made_again(tmp_path: Path) -> None:
    def stopping(_: ClipClassifier) -> dict[str, float]:
        raise Stopped("validation", "was stopped", "Go on")

    whole, _ = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", validate=stopping)
    done: list[int] = []
    network, _ = train(tmp_path / "stopped", on_step=lambda step: done.append(step.epoch))
    assert done == [1, 1, 2, 2, 3, 3, 4, 4]
    assert weights_of(network) == weights_of(whole)


def test_a_checkpoint_at_every_step_changes_nothing(tmp_path: Path) -> None:
    whole, expected = train(tmp_path / "whole")
    network, result = train(tmp_path / "often", engine=EVERY_STEP)
    assert weights_of(network) == weights_of(whole)
    assert comparable(result.history) == comparable(expected.history)


def test_a_full_disk_ends_in_one_line_and_costs_no_finished_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(tmp_path / "whole")
    save = torch.save
    written: list[int] = []

    def full(*arguments: Any) -> None:
        written.append(1)
        if len(written) > 7:
            raise OSError(28, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(FvcError, match=r"cannot be written \(No space left on device\)\. Free"):
            train(tmp_path / "full", engine=EVERY_STEP)
    done: list[int] = []
    network, _ = train(tmp_path / "full", on_step=lambda step: done.append(step.epoch))
    assert 0 < len(done) < 10
    assert weights_of(network) == weights_of(whole)


@pytest.mark.parametrize("name", ["classifier.bias", "running_var"], ids=["weight", "statistic"])
@pytest.mark.parametrize("engine", [ENGINE, EVERY_STEP])
def test_what_is_no_number_takes_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineConfig, name: str
) -> None:
    step, made = Training.step, []

    def overflowing(training: Training, *arguments: Any) -> None:
        step(training, *arguments)
        made.append(1)
        if len(made) == 4:
            state = training.network.state_dict()
            [*_, poisoned] = [value for key, value in state.items() if key.endswith(name)]
            poisoned.fill_(torch.inf)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", overflowing)
        with pytest.raises(FvcError, match="diverged"):
            train(tmp_path, engine=engine, is_stopped=lambda: len(made) == 4)
    network, _ = train(tmp_path)
    assert all(value.isfinite().all() for value in network.state_dict().values()), "resumed"


def test_memory_that_runs_out_beside_the_clips_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Training, "step", failing)
    with pytest.raises(FvcError, match=r"ran out beside the clips \(CUDA out of memory"):
        train(tmp_path)
