"""Training steps of our engine, and of the loop that one would write without it.

    python benchmarks/train_step.py [--size 16x112] [--batch 32] [--steps 8] [--rounds 5]
        [--workers 10] [--compile] [--profile]

On a GPU the sizes are 16x112 and 16x224, in batches of 32; without one 8x64, in batches of 8.
Clips are random numbers in files. All ways train the same network with the same optimizer and
take turns in one process: ours as stage `train` does, and the loop of torchvision's reference for
video classification (references/video_classification/train.py), which normalises in the workers
of a DataLoader and sends float32, in float32 and, on a GPU, in float16 with a loss scaler. Its
decoding, resizing and flipping are left out, so that it is given more than it has. Prints clips
per second, the share of the peak that the operations of the network make up, and the share of the
time in which the loop waited for a batch. Needs no MLflow, DVC or PyAV.
"""

import os
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# The package need not be installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import psutil
import torch
import yaml
from measuring import surroundings, verdict
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from fvc.clip_files import load_clips, save_clips
from fvc.config import ClipsConfig, LoaderConfig, ModelConfig, TrainConfig
from fvc.dataset import ClipDataset
from fvc.loading import ClipLoader
from fvc.networks import ClipClassifier, build_network
from fvc.precision import choose_precision, tune_cuda
from fvc.training.epoch import train_epoch
from fvc.training.losses import make_loss
from fvc.training.state import start_training
from fvc.training.tally import Tally

ROOT = Path(__file__).parents[1]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
DEVICE = choose_precision(mixed=True).device
ON_GPU = DEVICE.type == "cuda"
PEAKS = {"H200": 989e12}
"""bfloat16 without sparsity, in operations per second, by a part of the GPU's name."""
GEMM_SIDE = 8192 if ON_GPU else 2048
CLIPS_PER_S = {(16, 112): 1000.0, (16, 224): 250.0}
"""What one H200 is to reach."""


class Spent(NamedTuple):
    """One epoch of a way."""

    clock_s: float
    cpu_s: float
    """Of all threads and workers."""
    waited: float
    """Share of the time by the clock."""


class Case(NamedTuple):
    """What all ways train on."""

    folder: Path
    frames: int
    side_px: int
    batch: int
    steps: int
    workers: int

    @property
    def labels(self) -> dict[str, int]:
        """By the name of each file; as many real as fake."""
        return {f"v{number:04}": number % 2 for number in range(self.batch * self.steps)}

    def network(self) -> ClipClassifier:
        """A network with the same weights each time."""
        torch.manual_seed(0)
        clips = {"num_clips": 1, "num_frames": self.frames, "side_px": self.side_px}
        model = ModelConfig(**PARAMS["model"] | {"pretrained": "none"})
        return build_network(model, ClipsConfig(**PARAMS["clips"] | clips))

    def train_config(self, **changes: Any) -> TrainConfig:
        """That of `params.yaml` with this batch size."""
        return TrainConfig(**PARAMS["train"] | {"batch_size": self.batch} | changes)

    def save(self) -> None:
        """Write the files."""
        generator = np.random.default_rng(0)
        shape = (1, self.frames, 3, self.side_px, self.side_px)
        for name in self.labels:
            pixels = generator.integers(0, 256, shape, np.uint8)
            save_clips(self.folder / f"{name}.pt", pixels, "key")


class Ours:
    """Our loader and engine."""

    def __init__(self, case: Case, stack: ExitStack, *, cache: str = "none", **changes: Any):
        config = case.train_config(**changes)
        labels = case.labels
        loss = make_loss(config, (len(labels) // 2, len(labels) // 2))
        self.training = start_training(case.network(), loss, config, seed=0)
        dataset = ClipDataset(labels, case.folder, None)
        loader = replace(LoaderConfig(**PARAMS["loader"]), cache=cache)  # type: ignore[arg-type]
        self.loader = stack.enter_context(
            ClipLoader(
                dataset, case.batch, loader, imbalance=config.imbalance, seed=0, device=DEVICE
            )
        )

    def __call__(self, epoch: int) -> float:
        """Train for an epoch."""
        tune_cuda(fixed_size=True)
        batches = self.loader.batches(epoch)
        steps = len(self.loader)
        series = train_epoch(self.training, batches, Tally(), epoch=epoch, steps=steps)
        return series["train/data_wait_share"]


class FloatClips(Dataset[tuple[Tensor, float]]):
    """Normalised clips of (3, T, H, W) and their labels."""

    def __init__(self, case: Case, mean: Tensor, std: Tensor) -> None:
        self.clips = [load_clips(case.folder / f"{name}.pt", "clips") for name in case.labels]
        self.labels = list(case.labels.values())
        self.mean, self.std = (each.cpu()[:, None, None] for each in (mean, std))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        clip = (self.clips[index][0].float() / 255 - self.mean) / self.std
        return clip.transpose(0, 1).contiguous(), float(self.labels[index])


class Plain:
    """The reference's loop, with our network, its loss and its optimizer."""

    def __init__(self, case: Case, *, half: bool) -> None:
        self.model = case.network()
        # The faults of bfloat16 on a CPU do not concern float32: nothing is mended here.
        dataset = FloatClips(case, self.model.mean, self.model.std)
        self.model.to(DEVICE)
        self.loader = DataLoader(
            dataset,
            batch_size=case.batch,
            shuffle=True,
            num_workers=case.workers,
            pin_memory=ON_GPU,
            # Its own starts them anew in each epoch, which would count more than it should here.
            persistent_workers=case.workers > 0,
        )
        self.criterion = nn.BCEWithLogitsLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [10**6])
        self.scaler = torch.amp.GradScaler(DEVICE.type) if half else None

    def __call__(self, _: int) -> float:
        """Train for an epoch."""
        # As its script and PyTorch have them.
        torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
        self.model.train()
        waited, begun = 0.0, time.perf_counter()
        batches = iter(self.loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if batch is None:
                return waited / (time.perf_counter() - begun)
            self._step(*batch)

    def _step(self, video: Tensor, target: Tensor) -> None:
        video, target = video.to(DEVICE), target.to(DEVICE, torch.float32)
        dtype = torch.float16 if self.scaler else None
        with torch.autocast(DEVICE.type, dtype, enabled=self.scaler is not None):
            output = self.model(video).squeeze(1)
            loss = self.criterion(output, target)
        self.optimizer.zero_grad()
        if self.scaler is not None:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.step()
        # What it logs after each step.
        loss.item()
        ((output >= 0) == (target == 1)).float().mean().item()
        self.scheduler.step()


Way = Callable[[int], float]
"""Trains for an epoch; gives the share of the time in which it waited."""


def ways_of(case: Case, stack: ExitStack, with_compiled: bool) -> dict[str, Way]:
    """Every way to train, by its name in the table."""
    ways: dict[str, Way] = {"ours": Ours(case, stack)}
    ways["ours, float32"] = Ours(case, stack, mixed_precision=False)
    if ON_GPU:
        ways["ours, clips on the GPU"] = Ours(case, stack, cache="device")
    if with_compiled:
        ways["ours, compiled"] = Ours(case, stack, compile=True)
    ways["plain loop, float32"] = Plain(case, half=False)
    if ON_GPU:
        ways["plain loop, float16"] = Plain(case, half=True)
    return ways


def spent(way: Way, epoch: int) -> Spent:
    """What one epoch takes, all that it left to a GPU included."""
    synchronise()
    cpu, clock = cpu_s(), time.perf_counter()
    waited = way(epoch)
    synchronise()
    return Spent(time.perf_counter() - clock, cpu_s() - cpu, waited)


def synchronise() -> None:
    """Wait for the GPU."""
    if ON_GPU:
        torch.cuda.synchronize()


def cpu_s() -> float:
    """CPU time of this process and of the workers that it has."""
    children = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(each.user + each.system for each in children)


def gemm(dtype: torch.dtype) -> Callable[[], float]:
    """A product of two large matrices; gives its operations."""
    left, right = (torch.randn(GEMM_SIDE, GEMM_SIDE, device=DEVICE).to(dtype) for _ in range(2))

    def multiply() -> float:
        for _ in range(5):
            left @ right
        return 5 * 2.0 * GEMM_SIDE**3

    return multiply


def rates(function: Callable[[], float]) -> tuple[float, float]:
    """Operations per second by the clock and of CPU time."""
    synchronise()
    cpu, clock = time.process_time(), time.perf_counter()
    operations = function()
    synchronise()
    return operations / (time.perf_counter() - clock), operations / (time.process_time() - cpu)


def operations_per_clip(case: Case) -> float:
    """Of the products and convolutions of a training step, forward and backward."""
    network = case.network().to(DEVICE)
    # Batch normalisation refuses to train on a single value for each channel.
    pair = torch.zeros(2, 3, case.frames, case.side_px, case.side_px, device=DEVICE)
    with FlopCounterMode(display=False) as counter:
        network(pair).sum().backward()
    return counter.get_total_flops() / len(pair)


class Found(NamedTuple):
    """Everything measured of one case."""

    epochs: dict[str, list[Spent]]
    products: dict[torch.dtype, list[tuple[float, float]]]


def measure(ways: dict[str, Way], rounds: int) -> Found:
    """Let all ways and the products take turns; what the first round compiles does not count."""
    multiply = {dtype: gemm(dtype) for dtype in (torch.float32, choose_precision(mixed=True).dtype)}
    found = Found({name: [] for name in ways}, {dtype: [] for dtype in multiply})
    for number in range(rounds + 1):
        for name, way in ways.items():
            epoch = spent(way, number)
            if number:
                found.epochs[name].append(epoch)
        for dtype, function in multiply.items():
            both = rates(function)
            if number:
                found.products[dtype].append(both)
    return found


def peak_of(found: Found, dtype: torch.dtype) -> tuple[float, str]:
    """Operations per second that can be had, and what that is; of CPU time without a GPU."""
    if ON_GPU:
        known = [part for part in PEAKS if part in torch.cuda.get_device_name()]
        if known and dtype == torch.bfloat16:
            return PEAKS[known[0]], f"{PEAKS[known[0]] / 1e12:.0f} TFLOP/s, {known[0]}"
    best = max(both[0 if ON_GPU else 1] for both in found.products[dtype])
    return best, f"{best / 1e9:.0f} GFLOP/s, products of this run"


def print_figures(case: Case, found: Found) -> dict[str, float]:
    """Print the table; return the CPU seconds, on a GPU the seconds, of a clip by way."""
    operations = operations_per_clip(case)
    mixed = choose_precision(mixed=True).dtype
    print(
        f"\nclips of {case.frames} x {case.side_px} x {case.side_px}, batches of {case.batch}: "
        f"{operations / 1e9:.1f} GFLOP a clip; medians of epochs of {case.steps} steps"
    )
    for dtype in found.products:
        print(f"peak in {dtype}: {peak_of(found, dtype)[1]}")
    print("\n| | clips/s | CPU ms a clip | ratio | share of peak | waited |")
    print("|---|--:|--:|--:|--:|--:|")
    seconds = {
        name: median(each.clock_s if ON_GPU else each.cpu_s for each in epochs) / len(case.labels)
        for name, epochs in found.epochs.items()
    }
    for name, epochs in found.epochs.items():
        clock, cpu, waited = (median(values) for values in zip(*epochs, strict=True))
        dtype = torch.float32 if "float32" in name else mixed
        share = operations / seconds[name] / peak_of(found, dtype)[0]
        ratio = seconds[name] / seconds["ours"]
        clips_per_s, cpu_ms = len(case.labels) / clock, cpu / len(case.labels) * 1e3
        cells = f"{clips_per_s:.4g} | {cpu_ms:.4g} | {ratio:.2f} | {share:.0%} | {waited:.1%}"
        print(f"| {name} | {cells} |")
    print(flush=True)
    return seconds


def claims_of(case: Case, found: Found, seconds: dict[str, float]) -> dict[str, Any]:
    """What was measured and what is promised of it."""
    if ON_GPU:
        size = f"{case.frames}x{case.side_px}"
        waited = median(each.waited for each in found.epochs["ours"])
        claims = {f"percent waited for batches at {size}": (-100 * waited, -2)}
        if (case.frames, case.side_px) in CLIPS_PER_S:
            least = CLIPS_PER_S[case.frames, case.side_px]
            claims[f"clips/s at {size}"] = (1 / seconds["ours"], least)
        return claims
    mixed = choose_precision(mixed=True).dtype
    if mixed == torch.float32:  # The processor does not compute in bfloat16.
        return {}
    share = operations_per_clip(case) / seconds["ours"] / peak_of(found, mixed)[0]
    return {
        "float32 over bfloat16, CPU time": (seconds["ours, float32"] / seconds["ours"], 1.9),
        "share of the rate of large products": (share, 0.9),
    }


def print_profile(way: Way) -> None:
    """What an epoch spends its time in."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if ON_GPU else [])]
    with profile(activities=activities) as profiler:
        way(0)
        synchronise()
    order = "self_cuda_time_total" if ON_GPU else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60))


def main() -> int:
    """Measure each size; 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", help="frames x side, 16x224; may be repeated")
    parser.add_argument("--batch", type=int, default=32 if ON_GPU else 8)
    parser.add_argument("--steps", type=int, default=16 if ON_GPU else 2, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    workers = min(10, os.cpu_count() or 1) if ON_GPU else 0
    parser.add_argument("--workers", type=int, default=workers, help="of the plain loop")
    parser.add_argument("--compile", action="store_true", help="ours through torch.compile, too")
    parser.add_argument("--profile", action="store_true", help="say what ours spends its time in")
    args = parser.parse_args()
    print(surroundings(("torch", "torchvision", "numpy")))
    chip = torch.cuda.get_device_name() if ON_GPU else f"CPU, {torch.get_num_threads()} threads"
    print(f"{chip}; cuDNN {torch.backends.cudnn.version() if ON_GPU else 'not used'}")
    claims: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in args.size or (["16x112", "16x224"] if ON_GPU else ["8x64"]):
            frames, side_px = map(int, size.split("x"))
            place = Path(folder) / size
            case = Case(place, frames, side_px, args.batch, args.steps, args.workers)
            case.save()
            with ExitStack() as stack:
                ways = ways_of(case, stack, args.compile)
                found = measure(ways, args.rounds)
                claims |= claims_of(case, found, print_figures(case, found))
                if args.profile:
                    print_profile(ways["ours"])
    return 0 if verdict(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
