"""Memory that runs out in a training: it goes on with fewer clips at once, and ends the same."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_training
import torch
from settings import clips_config, loader_config
from small_training import (
    CONFIG,
    EVERY_STEP,
    EVERYTHING,
    LABELS,
    MadeBatches,
    comparable,
    made_clips,
    train,
    weights_of,
)
from torch import Tensor, nn

from fvc.clip_files import save_clips
from fvc.dataset import ClipDataset
from fvc.errors import FvcError, Stopped
from fvc.loading import ClipLoader
from fvc.networks import ClipClassifier
from fvc.training import epoch, resuming
from fvc.training.epoch import StepDone
from fvc.training.loop import FitResult
from fvc.training.state import Training

pytestmark = pytest.mark.usefixtures("one_thread")

EIGHT = replace(CONFIG, batch_size=8, mixed_precision=False)


def network_without_statistics() -> ClipClassifier:
    """Whose result does not depend on which clips pass through it together."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU())
    return ClipClassifier(features, channels=8, dropout=0.0, clips=clips_config(1, 2, 16))


NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


def fail(*_: object) -> None:
    raise torch.OutOfMemoryError(NO_ROOM)


def fail_in_backward(training: Training) -> None:
    """The next backward pass fails, after most gradients were added to those before."""

    def failing(_: Tensor) -> None:
        handle.remove()
        fail()

    handle = training.moving[0].register_hook(failing)  # type: ignore[no-untyped-call]


class Memory:
    """So little of it that a pass of more than `room` clips fails, from one pass on."""

    def __init__(
        self, patch: pytest.MonkeyPatch, room: int, since: int = 0, backward: bool = False
    ) -> None:
        self.passes: list[int] = []
        forward = Training.forward

        def limited(training: Training, clips: Tensor, mask: Tensor | None) -> Tensor:
            self.passes.append(len(clips))
            logits = forward(training, clips, mask)
            if len(self.passes) > since and len(clips) > room:
                fail_in_backward(training) if backward else fail()
            return logits

        patch.setattr(Training, "forward", limited)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(
    ("size", "room", "since"),
    [(8, 4, 0), (8, 4, 3), (8, 2, 1), (8, 1, 2), (2, 1, 0), (2, 1, 1), (3, 1, 4)],
)
def test_out_of_memory_leaves_the_steps_and_their_clips_as_they_were(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    room: int,
    since: int,
    backward: bool,
) -> None:
    """Batches below four are summed, two to a step."""
    config, batches = replace(EIGHT, batch_size=size), MadeBatches(size)
    whole, network = network_without_statistics(), network_without_statistics()
    made: dict[str, list[StepDone]] = {"whole": [], "limited": []}
    _, expected = train(
        tmp_path / "whole",
        config=config,
        network=whole,
        batches=batches,
        on_step=made["whole"].append,
    )
    Memory(monkeypatch, room, since, backward)
    _, result = train(
        tmp_path / "limited",
        config=config,
        network=network,
        batches=batches,
        on_step=made["limited"].append,
    )
    places = {run: [step[:3] for step in steps] for run, steps in made.items()}
    assert places["limited"] == places["whole"], "a step was lost or made twice"
    for given, wanted in zip(result.history, expected.history, strict=True):
        assert given["train/loss"] == pytest.approx(wanted["train/loss"], abs=1e-5)
        assert given["train/learning_rate"] == wanted["train/learning_rate"]
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], atol=1e-4, rtol=1e-3)
    assert result.history[-1]["train/micro_batch_size"] == room
    assert result.history[-1]["train/batch_size"] == size


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


class Shortage:
    """Memory that runs out at chosen calls of something, after it has done its work."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.called = calls, 0

    def after(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def limited(*arguments: Any, **named: Any) -> Any:
            done = work(*arguments, **named)
            self.called += 1
            if self.called in self.calls:
                fail()
            return done

        return limited


BESIDE_THE_CLIPS: dict[str, tuple[object, str]] = {
    "optimizer": (Training, "step"),
    "optimizer's room": (Training, "begin_epoch"),
    "gradients' norms": (epoch, "gradient_norms"),
    "next batch": (MadeBatches, "batches"),
    "validation": (small_training, "video_logits"),
    "checkpoint": (resuming, "save_checkpoint"),
}


@pytest.mark.parametrize("calls", [(2,), (3, 4), (2, 4, 5)])
@pytest.mark.parametrize("place", BESIDE_THE_CLIPS)
def test_memory_that_runs_out_beside_the_clips_costs_no_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    calls: tuple[int, ...],
) -> None:
    config, batches = replace(EIGHT, ema_decay=0.5), MadeBatches(size=8)
    whole, expected = train(
        tmp_path / "whole",
        config=config,
        network=network_without_statistics(),
        batches=batches,
    )
    shortage = Shortage(*calls)
    owner, name = BESIDE_THE_CLIPS[place]
    monkeypatch.setattr(owner, name, shortage.after(getattr(owner, name)))
    seen: list[int] = []
    network, result = train(
        *(tmp_path / "short", lambda history: seen.append(len(history)), config),
        network=network_without_statistics(),
        batches=batches,
        engine=EVERY_STEP,
    )
    assert shortage.called >= max(calls), "memory never ran out"
    assert caplog.text.count("out of memory beside the clips") == len(calls)
    assert sorted({*seen}) == [1, 2, 3, 4, 5], "an epoch was never told of"
    assert result.history[-1]["train/micro_batch_size"] == 8 / 2 ** len(calls)
    for given, wanted in zip(result.history, expected.history, strict=True):
        assert given["train/loss"] == pytest.approx(wanted["train/loss"], abs=1e-5)
        assert given["train/learning_rate"] == wanted["train/learning_rate"]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("call", [1, 2, 3, 6])
def test_to_go_back_is_to_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Checkpoints come after epochs, in which stages are freed, so whole steps are made again."""

    class Killed(Exception):
        """Stands for the end of the process."""

    def kill(_: Training) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", Shortage(call).after(Training.step))
        network, result = train(tmp_path / "back", config=EVERYTHING)
    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", Shortage(call).after(Training.step))
        patch.setattr(Training, "require_alone", kill)
        with pytest.raises(Killed):
            train(tmp_path / "again", config=EVERYTHING)
    again, expected = train(tmp_path / "again", config=EVERYTHING)
    assert expected.history[-1]["train/micro_batch_size"] == 2
    assert weights_of(network) == weights_of(again)
    assert comparable(result.history) == comparable(expected.history)


def test_memory_that_never_suffices_beside_the_clips_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Training, "step", fail)
    with pytest.raises(FvcError, match=rf"too small for one clip at a time \({NO_ROOM}\)"):
        train(tmp_path, config=EIGHT, batches=MadeBatches(8))
    assert caplog.text.count("out of memory beside the clips") == 3
    monkeypatch.undo()
    _, result = train(tmp_path, config=EIGHT, batches=MadeBatches(8))
    assert result.history[-1]["train/micro_batch_size"] == 1, "it did not know what fits"


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"prefetch_batches": 2},
        {"num_workers": 1},
        {"num_workers": 1, "persistent_workers": True},
    ],
    ids=["no thread", "thread", "worker", "persistent worker"],
)
def test_memory_that_runs_out_while_a_batch_is_made_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    """In the midst of an epoch, where the batch is made: a thread or a process may do that."""
    for number, pixels in enumerate(made_clips().numpy()):
        save_clips(tmp_path / f"v{number}.pt", pixels[None], "key")
    labels = {f"v{row}": int(label) for row, label in enumerate(LABELS)}
    dataset = ClipDataset(labels, tmp_path, None)
    config = replace(EIGHT, batch_size=2)
    get, failed = ClipDataset.__getitem__, tmp_path / "failed"

    def fails_once(dataset: ClipDataset, key: tuple[int, int]) -> tuple[Tensor, int]:
        if key[0] == 2 and key[1] == 5 and not failed.exists():
            failed.touch()
            raise MemoryError
        return get(dataset, key)

    def trained(name: str) -> tuple[ClipClassifier, FitResult]:
        loader = ClipLoader(
            *(dataset, config.batch_size, replace(loader_config(), **way)),
            imbalance="none",
            seed=0,
            device=torch.device("cpu"),
        )
        with loader:
            return train(
                tmp_path / name,
                config=config,
                network=network_without_statistics(),
                batches=loader,
            )

    whole, expected = trained("whole")
    monkeypatch.setattr(ClipDataset, "__getitem__", fails_once)
    network, result = trained("short")
    assert failed.exists(), "memory never ran out"
    assert result.history[-1]["train/micro_batch_size"] == 1
    for given, wanted in zip(result.history, expected.history, strict=True):
        assert given["train/loss"] == pytest.approx(wanted["train/loss"], abs=1e-5)
        assert given["train/learning_rate"] == wanted["train/learning_rate"]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key], atol=1e-4, rtol=1e-3)
