"""What goes wrong in a training on purpose, and what must come of it."""

import os
import subprocess
import time
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from settings import loader_config
from small_training import (
    CONFIG,
    ENGINE,
    EVERY_STEP,
    EVERYTHING,
    LABELS,
    comparable,
    made_clips,
    train,
    weights_of,
)

from fvc.clip_files import save_clips
from fvc.config import EngineConfig
from fvc.dataset import ClipDataset
from fvc.errors import FvcError, Stopped
from fvc.loading import ClipLoader
from fvc.networks import ClipClassifier
from fvc.process import stop_on_sigterm
from fvc.training.epoch import StepDone
from fvc.training.state import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("steps", range(1, 10))
def test_stopped_within_an_epoch_it_goes_on_from_that_step(tmp_path: Path, steps: int) -> None:
    whole, expected = train(tmp_path / "whole", config=EVERYTHING)
    asked: list[int] = []

    def is_stopped() -> bool:
        asked.append(1)
        return len(asked) == steps

    with pytest.raises(Stopped):
        train(tmp_path / "stopped", config=EVERYTHING, is_stopped=is_stopped)
    done: list[tuple[int, int]] = []
    network, result = train(
        tmp_path / "stopped",
        config=EVERYTHING,
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


@pytest.mark.parametrize("persistent", [False, True])
def test_the_signal_to_loading_processes_as_well_leaves_a_checkpoint(
    tmp_path: Path, persistent: bool
) -> None:
    """A cluster signals every process of a job."""
    for number, pixels in enumerate(made_clips().numpy()):
        save_clips(tmp_path / f"v{number}.pt", pixels[None], "key")
    labels = {f"v{number}": int(label) for number, label in enumerate(LABELS)}
    config = replace(loader_config(), num_workers=2, persistent_workers=persistent)
    dataset = ClipDataset(labels, tmp_path, None)

    def loader() -> ClipLoader:
        return ClipLoader(dataset, 2, config, imbalance="none", seed=0, device=torch.device("cpu"))

    settings = replace(CONFIG, batch_size=2)
    done: list[tuple[int, int]] = []

    def signal_all(step: StepDone) -> None:
        done.append((step.epoch, step.done))
        if done[-1] == (1, 1):
            # Not from here: a loading process takes its parent's for the end of its work.
            pids = [os.getpid(), *(process.pid for process in active_children())]
            assert len(pids) == 3, "nothing loads"
            subprocess.run(["kill", "-TERM", *map(str, pids)], check=True)
            # What a process that was killed would do to this one, it has done by then.
            time.sleep(0.2)

    with loader() as batches:
        whole, _ = train(tmp_path / "whole", config=settings, batches=batches)
    with loader() as batches, stop_on_sigterm() as is_stopped, pytest.raises(Stopped):
        train(
            tmp_path / "stopped",
            config=settings,
            batches=batches,
            on_step=signal_all,
            is_stopped=is_stopped,
        )
    with loader() as batches:
        network, _ = train(
            tmp_path / "stopped",
            config=settings,
            batches=batches,
            on_step=lambda step: done.append((step.epoch, step.done)),
        )
    assert done == [(epoch, step) for epoch in range(5) for step in (1, 2)]
    assert weights_of(network) == weights_of(whole)
