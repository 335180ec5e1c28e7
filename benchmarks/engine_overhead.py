"""What the engine adds to a bare forward pass, backward pass and optimizer step.

    python benchmarks/engine_overhead.py [--steps 9] [--epochs 4] [--side 64] [--batch 8]

Trains at quickstart scale as stage `train` does, tracked by MLflow in a store of its own, and
before or after each step of the engine makes a bare one on the same batch, with the same network,
format and optimizer. Compares the CPU time of the two, medians over the steps, and adds what the
engine does once in an epoch: its sums, validation apart, and telling MLflow. Checkpoints, which
are written at most every few minutes and at the end of an epoch, are listed beside it. An epoch
of `make repro` has nine steps. Fails where the engine adds more than 3%.
"""

import copy
import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

# The package need not be installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import polars as pl
import torch
from measuring import surroundings, verdict
from torch.nn import functional

from fvc import tracking
from fvc.batches import Batch
from fvc.clip_files import save_clips
from fvc.config import Params, load_params
from fvc.dataset import ClipDataset
from fvc.loading import ClipLoader
from fvc.networks import ClipClassifier, build_network
from fvc.records import FOLDS
from fvc.tracking.open_run import OpenRun
from fvc.training.loop import Hooks, fit
from fvc.training.losses import make_loss
from fvc.training.state import Training, start_training

ROOT = Path(__file__).parents[1]
MOST = 0.03


def bare_step(training: Training) -> Callable[[Batch], None]:
    """A step of a copy of the network, with nothing around it."""
    network, precision = copy.deepcopy(training.network), training.precision
    kind, settings = type(training.optimizer), training.optimizer.defaults
    optimizer = kind(network.parameters(), **settings)
    network.train()

    def step(batch: Batch) -> None:
        clips = network.normalise(batch.pixels.to(precision.device))
        with precision.autocast():
            logits = network(clips.contiguous(memory_format=precision.memory_format))
        labels = batch.labels.to(precision.device)
        loss = functional.binary_cross_entropy_with_logits(logits.squeeze(1).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@dataclass
class Interleaved:
    """Batches of a loader; before or after each the engine's step, a bare one is made."""

    loader: ClipLoader
    bare: Callable[[Batch], None]
    bare_s: list[float] = field(default_factory=list)
    engine_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    """When the last batch of an epoch was done."""

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Those of the loader."""
        for number, batch in enumerate(self.loader.batches(epoch, first=first)):
            # In turns, so that neither always finds what the other left in the caches.
            if number % 2:
                self._make_bare(batch)
            asked = time.process_time()
            yield batch
            self.engine_s.append(time.process_time() - asked)
            if not number % 2:
                self._make_bare(batch)
        self.ended_s = time.process_time()

    def _make_bare(self, batch: Batch) -> None:
        started = time.process_time()
        self.bare(batch)
        self.bare_s.append(time.process_time() - started)


@dataclass
class EpochEnds:
    """What the engine does once in an epoch, in seconds of CPU time."""

    batches: Interleaved
    run: OpenRun
    sums_s: list[float] = field(default_factory=list)
    checkpoint_s: list[float] = field(default_factory=list)
    tracking_s: list[float] = field(default_factory=list)
    validated_s: float = 0.0

    def validate(self, _: ClipClassifier) -> dict[str, float]:
        """Better in each epoch, so that the weights are written each time."""
        self.sums_s.append(time.process_time() - self.batches.ended_s)
        loss = 1 / (1 + len(self.sums_s))
        self.validated_s = time.process_time()
        return {"validation/loss": loss, "validation/roc_auc": 1 - loss, "validation/macro_f1": 0.5}

    def on_epoch(self, history: Sequence[dict[str, float | int]]) -> None:
        """Track it, as the stage does; what lies between validation and this is the checkpoint."""
        started = time.process_time()
        self.checkpoint_s.append(started - self.validated_s)
        self.run.log_history(history)
        self.tracking_s.append(time.process_time() - started)


def quickstart(side_px: int, batch_size: int, epochs: int) -> Params:
    """`params.yaml`, with as many epochs, and fewer pixels where that is asked for."""
    params = load_params(ROOT / "params.yaml")
    train = replace(params.train, batch_size=batch_size, epochs=epochs, patience=epochs)
    clips = replace(params.clips, num_frames=8, side_px=side_px)
    model = replace(params.model, pretrained="none")
    return replace(params, train=train, clips=clips, model=model)


def made_dataset(folder: Path, params: Params, videos: dict[str, int]) -> ClipDataset:
    """A clip of noise for each video."""
    generator = np.random.default_rng(0)
    shape = (1, params.clips.num_frames, 3, params.clips.side_px, params.clips.side_px)
    for name in videos:
        pixels = generator.integers(0, 256, shape, np.uint8)
        save_clips(folder / f"{name}.pt", pixels, "key")
    return ClipDataset(videos, folder, None)


def folds_of(videos: dict[str, int]) -> pl.DataFrame:
    """A table to track as the input of the run."""
    rows: list[dict[str, object]] = [
        {
            "video_id": name,
            "group": name,
            "label": "fake" if label else "real",
            "part": "fold",
            "fold": number % 5,
            "validates": [],
        }
        for number, (name, label) in enumerate(videos.items())
    ]
    return FOLDS.frame(rows)


def measure(folder: Path, params: Params, videos: dict[str, int]) -> EpochEnds:
    """Train, tracked, with a bare step beside each step."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    identity = tracking.Identity(params=params, data_sha256="0", folds_sha256="0")
    table = folds_of(videos)
    torch.manual_seed(0)
    network = build_network(params.model, params.clips)
    counts = (len(videos) // 2, len(videos) // 2)
    training = start_training(network, make_loss(params.train, counts), params.train, seed=0)
    loader = ClipLoader(
        made_dataset(folder / "clips", params, videos),
        params.train.batch_size,
        params.loader,
        imbalance=params.train.imbalance,
        seed=0,
        device=training.precision.device,
    )
    with (
        tracking.fold_run(identity, 0, table, binding="0", runs=folder / "runs") as run,
        loader,
    ):
        ends = EpochEnds(Interleaved(loader, bare_step(training)), run)
        fit(
            training,
            ends.batches,
            ends.validate,
            params.engine,
            checkpoints=folder / "checkpoints",
            binding="0",
            hooks=Hooks(on_epoch=ends.on_epoch),
        )
    return ends


def main() -> int:
    """Measure, print, and give 1 where the promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=9, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=4, help="the first one does not count")
    parser.add_argument("--side", type=int, default=64, help="of a clip, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="clips in a batch")
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs is below 2, and the first one does not count")
    print(surroundings(("torch", "mlflow")))
    params = quickstart(args.side, args.batch, args.epochs)
    videos = {f"v{number:03}": number % 2 for number in range(args.batch * args.steps)}
    with tempfile.TemporaryDirectory() as folder:
        ends = measure(Path(folder), params, videos)
    bare, engine = (
        median(seconds[args.steps :]) for seconds in (ends.batches.bare_s, ends.batches.engine_s)
    )
    sums, tracked, written = (
        median(seconds[1:]) for seconds in (ends.sums_s, ends.tracking_s, ends.checkpoint_s)
    )
    rows = {
        "a bare step": bare,
        "a step of the engine": engine,
        "sums of an epoch": sums,
        "telling MLflow": tracked,
        "a checkpoint with new best weights": written,
    }
    print(f"batches of {args.batch} clips of 8 x {args.side} x {args.side}, epochs of {args.steps}")
    print("\n| | ms of CPU time |\n|---|--:|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds * 1e3:.4g} |")
    print()
    overhead = (engine - bare + (sums + tracked) / args.steps) / bare
    print(f"the checkpoint is another {written / args.steps / bare:.1%} of the steps of an epoch")
    return 0 if verdict({"percent that the engine adds": (-100 * overhead, -100 * MOST)}) else 1


if __name__ == "__main__":
    sys.exit(main())
