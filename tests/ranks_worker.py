"""What each rank of test_several_ranks.py does: it trains by the stage's own function.

Started by torchrun, or alone, as `ranks_worker.py <folder>`: then it makes the second rank by a
fork, since most of the time goes into imports. The folder holds the clips, and each rank writes
what it found beside them.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from distributed_worker import CPU
from source_tree import ROOT
from torch import Tensor, nn

from fvc import networks
from fvc.clip_files import save_clips
from fvc.config import ClipsConfig, ModelConfig, Params, load_params
from fvc.distributed import World, world
from fvc.errors import FvcError, Stopped
from fvc.predict import video_logits
from fvc.process import end_with_parent
from fvc.stages import train
from fvc.training import loop, validating
from fvc.training.diagnostics import EpochRow
from fvc.training.epoch import StepDone
from fvc.training.state import Training, start_training

EPOCHS = 3
Place = tuple[int, int]
"""An epoch, and the steps of it that are done."""


class Case(NamedTuple):
    """One way to train on eleven clips."""

    batch_size: int
    micro_batch: int = 100
    changes: dict[str, Any] = {}  # noqa: RUF012, as nobody changes it


# Eleven clips in an epoch, or twelve where the classes are made equal in number.
CASES = {
    "a last batch of one clip": Case(5),
    "micro-batches, balanced": Case(7, 2, {"imbalance": "balanced_batches"}),
    "several batches in a step": Case(3, 1),
    "no clip for a rank": Case(1),
    "gradual unfreezing": Case(5, 2, {"fine_tuning": "gradual", "unfreeze_epochs": (1, 2)}),
}
STOPPED = CASES["several batches in a step"]
STOP = (1, 1)
SHORT_OF_MEMORY = CASES["a last batch of one clip"]
FITTING = 1
"""So many clips at once do not take too much memory."""
PARTS = {
    "train": {f"v{number}": number % 2 for number in range(11)},
    "validation": {f"v{number}": number % 2 for number in range(11, 16)},
}


class Found(NamedTuple):
    """How a training went on one rank."""

    history: tuple[EpochRow, ...]
    weights: dict[str, Tensor]
    steps: list[Place]
    """Those that this process made."""


def write_clips(folder: Path) -> None:
    """Sixteen videos of one clip in two sizes, so that some are padded; fakes are brighter."""
    generator = np.random.default_rng(0)
    for number in range(16):
        shape = (1, 2, 3, 16, 12 if number % 3 == 0 else 16)
        pixels = generator.integers(0, 200, shape, np.uint8) + np.uint8(30 * (number % 2))
        save_clips(folder / f"v{number}.pt", pixels, "key")


def small_features(model: ModelConfig, _clips: ClipsConfig) -> nn.Module:
    """With a backbone of two stages, as what is really trained."""
    features = nn.Sequential()
    features.add_module(
        "backbone",
        nn.Sequential(nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU()),
    )
    features.add_module("head", nn.Conv3d(4, model.head_channels, 1))
    return features


def params_of(case: Case) -> Params:
    """Random and small-batch effects, which depend on the number of ranks, are off."""
    params = load_params(ROOT / "params.yaml")
    settings = replace(
        params.train,
        imbalance="none",
        label_smoothing=0.1,
        learning_rate=3e-3,
        ema_decay=0.8,
        frozen_batch_norm_below=100,
        mixed_precision=False,
        batch_size=case.batch_size,
        epochs=EPOCHS,
        patience=EPOCHS,
    )
    return replace(
        params,
        clips=replace(params.clips, num_frames=2, side_px=16, fit="native"),
        model=replace(params.model, head_channels=4, dropout=0.0),
        augment=replace(params.augment, versions=0),
        train=replace(settings, **case.changes),
        engine=replace(params.engine, checkpoint_minutes=0.0),
    )


@contextmanager
def small_network(micro_batch: int) -> Iterator[None]:
    """Train that network, in parts of so many clips."""

    def started(*arguments: Any, **named: Any) -> Training:
        training = original(*arguments, **named)
        training.micro_batch = min(training.micro_batch, micro_batch)
        return training

    original = start_training
    with (
        patch.object(train, "start_training", started),
        patch.object(networks, "build_features", small_features),
    ):
        yield


@contextmanager
def little_memory(is_short: Callable[[], bool], place: str = "forward") -> Iterator[list[int]]:
    """More than FITTING clips at once take too much memory; gives the clips of each pass.

    `place` is the method of a training in which it runs out.
    """

    def limited(training: Training, *arguments: Any) -> Any:
        clips = len(arguments[0]) if place == "forward" else training.micro_batch
        passed.append(clips)
        if is_short() and clips > FITTING:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(training, *arguments)

    original, passed = getattr(Training, place), list[int]()
    with patch.object(Training, place, limited):
        yield passed


def trained(
    case: Case,
    root: Path,
    around: World,
    checkpoints: str,
    on_step: Callable[[Place], object] = lambda _: None,
) -> Found:
    """Fit a fold, as the stage does it."""
    steps: list[Place] = []

    def after(step: StepDone) -> None:
        steps.append((step.epoch, step.done))
        on_step(steps[-1])

    with small_network(case.micro_batch):
        network, result = train.train_fold(
            params_of(case),
            PARTS,
            fold=0,
            clips=root,
            augmented=root,
            flow=None,
            checkpoints=root / checkpoints,
            binding="binding",
            ranks=around,
            on_step=after,
        )
    return Found(tuple(result.history), network.state_dict(), steps)


def stopped(root: Path, around: World, checkpoints: str, rank: int) -> list[Place]:
    """The steps that are made until one of the ranks has the signal to stop."""
    steps: list[Place] = []

    def on_step(place: Place) -> None:
        steps.append(place)
        if place == STOP and around.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        trained(STOPPED, root, around, checkpoints, on_step)
    except Stopped:
        return steps
    raise AssertionError("it was not stopped")


def stopped_in_validation(root: Path, around: World, checkpoints: str) -> list[Place]:
    """The steps that are made until rank 1, which scores fewer videos, has the signal to stop."""
    steps: list[Place] = []

    def score(network: networks.ClipClassifier, videos: Iterator[Tensor]) -> Any:
        first = next(videos)
        if around.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return video_logits(network, chain([first], videos))

    try:
        with patch.object(validating, "video_logits", score):
            trained(STOPPED, root, around, checkpoints, steps.append)
    except Stopped:
        return steps
    raise AssertionError("it was not stopped")


def out_of_memory(
    root: Path, around: World, checkpoints: str, ranks: tuple[int, ...], place: str = "forward"
) -> str:
    """How a training ends in which memory becomes short after the first epoch on some ranks."""
    steps: list[Place] = []
    with little_memory(lambda: around.rank in ranks and steps[-1:] == [(1, 1)], place):
        try:
            trained(SHORT_OF_MEMORY, root, around, checkpoints, steps.append)
        except (FvcError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
    return "it did not end"


def writes_below(folder: Path) -> list[str]:
    """What this process writes there from now on, while it goes on."""
    written: list[str] = []

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(arguments[0]).startswith(str(folder)):
            written.append(str(arguments[0]))

    sys.addaudithook(on_event)
    return written


def found_on(around: World, root: Path) -> dict[str, Any]:
    """What happens to one training after another, the last of which breaks the group."""
    written = writes_below(root)
    return {
        "whole": {name: tuple(trained(CASES[name], root, around, name)) for name in CASES},
        "stopped": stopped(root, around, "two, then one", rank=1),
        "stopped in validation": stopped_in_validation(root, around, "validation"),
        "resumed": tuple(trained(STOPPED, root, around, "one, then two")),
        "written": list(written),
        "all short of memory": out_of_memory(root, around, "all short", (0, 1)),
        "beside short of memory": out_of_memory(root, around, "beside short", (0, 1), "step"),
        "one short of memory": out_of_memory(root, around, "one short", (1,)),
    }


def restarted(around: World, root: Path) -> dict[str, Any]:
    """A training that has never had enough memory for its clips at once."""
    with little_memory(lambda: True) as passed:
        whole = trained(SHORT_OF_MEMORY, root, around, "restarted")
    return {"whole": tuple(whole), "passed": passed}


def main(root: Path, name: str) -> None:
    child = None
    if "RANK" not in os.environ:
        child = os.fork()
        os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
        if not child:
            end_with_parent()
    # Collecting what the imports have left would take most of the time.
    gc.freeze()
    with patch.object(loop, "settled", nullcontext), world(CPU) as around:
        found = restarted(around, root) if name == "restarted" else found_on(around, root)
        torch.save(found, root / f"{name}{around.rank}.pt")
        if child:
            os.waitpid(child, 0)
        # Not the usual way: the ranks may be no group any more.
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
