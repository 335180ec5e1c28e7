"""A random batch of clips, by our loader and by the ways it could have been loaded.

    python benchmarks/loading.py [--batch 8] [--clips 64] [--rounds 12]

Makes its clip files, checks that every way gives the same bytes, then lets all take turns in one
process: CPU time of all threads and workers per batch, the least of the rounds, which other
users of the machine disturb least. The files are in the page cache throughout: this is the cost
of loading, not of a disk. It fails where ours takes more than 1.6 memory copies.
"""

import os
import resource
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

# Copies of this size gain nothing by threads, and ratios are of CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import psutil
import torch
from measuring import surroundings, verdict
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fvc.batches import EpochBatches
from fvc.clip_files import Job, load_clips, save_clips
from fvc.config import LoaderConfig, load_params
from fvc.dataset import Augmentation, ClipDataset
from fvc.loading import ClipLoader
from fvc.stages.augment import store_versions

SHAPE = (16, 3, 224, 224)
COPY_PLACES = 4
MOST_COPIES = 1.6
PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
PLAIN = LoaderConfig(
    num_workers=0,
    persistent_workers=False,
    prefetch_factor=2,
    prefetch_batches=0,
    pin_memory=False,
    cache="none",
)
THREAD = replace(PLAIN, prefetch_batches=2)
WORKERS = replace(PLAIN, num_workers=2, persistent_workers=True)
CPU = torch.device("cpu")
Epoch = Callable[[int], Iterator[Tensor]]
"""All batches of an epoch: uint8 of (B, T, C, H, W)."""


class Opened(Dataset[Tensor]):
    """Clips whose file is opened when an example is asked for: the usual way."""

    def __init__(self, files: list[Path], *, mmap: bool = False) -> None:
        self.files, self.mmap = files, mmap

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        tensor: Tensor = torch.load(self.files[index], mmap=self.mmap, weights_only=True)
        return tensor[0]


class Bench:
    """The files and the order in which all ways load them."""

    def __init__(self, root: Path, num_clips: int, batch_size: int) -> None:
        self.root, self.batch_size = root, batch_size
        self.videos = {f"v{number:03}": number % 2 for number in range(num_clips)}
        generator = np.random.default_rng(0)
        arrays = []
        for name in self.videos:
            pixels = generator.integers(0, 256, (1, *SHAPE), np.uint8)
            save_clips(root / "clips" / f"{name}.pt", pixels, "key")
            arrays.append(pixels[0])
        np.save(root / "all.npy", np.stack(arrays))
        (root / "float").mkdir()
        for name, array in zip(self.videos, arrays, strict=True):
            torch.save(torch.from_numpy(array[None]).float() / 255, root / "float" / f"{name}.pt")
        self.labels = np.array(list(self.videos.values()))

    def indices(self, epoch: int) -> list[list[int]]:
        """The examples of each batch."""
        batches = EpochBatches(self.labels, self.batch_size, 0, "balanced_batches")
        batches.epoch = epoch
        return [[index for _, index in batch] for batch in batches]

    def files(self, folder: str) -> list[Path]:
        """One for each clip."""
        return [self.root / folder / f"{name}.pt" for name in self.videos]

    def ours(self, config: LoaderConfig, versions: Path | Augmentation | None = None) -> ClipLoader:
        """The loader of stage train."""
        dataset = ClipDataset(self.videos, self.root / "clips", versions)
        return ClipLoader(
            dataset, self.batch_size, config, imbalance="balanced_batches", seed=0, device=CPU
        )


def loaded_by(loader: ClipLoader) -> Epoch:
    """A loader of ours as a way."""
    return lambda epoch: (batch.pixels for batch in loader.batches(epoch))


def stacked_by(bench: Bench, dataset: Dataset[Tensor]) -> Epoch:
    """Examples one after another, stacked into a new tensor as torch's collate function does."""

    def batches(epoch: int) -> Iterator[Tensor]:
        for batch in bench.indices(epoch):
            yield torch.stack([dataset[index] for index in batch])

    return batches


def workers_of_torch(bench: Bench) -> Epoch:
    """torch's DataLoader with two workers that stay, over files mapped for each example."""
    # Filled anew for each epoch: workers that stay belong to one loader.
    order: list[list[int]] = []
    loader = DataLoader(
        Opened(bench.files("clips"), mmap=True),
        batch_sampler=order,
        num_workers=2,
        persistent_workers=True,
    )

    def batches(epoch: int) -> Iterator[Tensor]:
        order[:] = bench.indices(epoch)
        return iter(loader)

    return batches


def memory_copy(bench: Bench) -> Epoch:
    """As many bytes, between places that were written to before and that no cache holds."""
    shape = (bench.batch_size, *SHAPE)
    places = [np.full(shape, value, np.uint8) for value in range(2 * COPY_PLACES)]

    def batches(epoch: int) -> Iterator[Tensor]:
        for number in range(len(bench.indices(epoch))):
            source, target = number % COPY_PLACES, COPY_PLACES + number % COPY_PLACES
            np.copyto(places[target], places[source])
            yield torch.from_numpy(places[target])

    return batches


def numpy_map(bench: Bench) -> Epoch:
    """One memory-mapped array of all clips, indexed by a batch."""
    whole = np.load(bench.root / "all.npy", mmap_mode="r")

    def batches(epoch: int) -> Iterator[Tensor]:
        for batch in bench.indices(epoch):
            yield torch.from_numpy(whole[batch])

    return batches


def ways_of(bench: Bench, stack: ExitStack) -> dict[str, Epoch]:
    """Every way to load, by its name in the table; the first is what all are compared with."""
    ours = {
        "ours, no thread": PLAIN,
        "ours: one thread": THREAD,
        "ours, cache in RAM": replace(THREAD, cache="ram"),
        "ours, 2 workers": WORKERS,
    }
    ways = {"memory copy": memory_copy(bench)}
    ways |= {
        name: loaded_by(stack.enter_context(bench.ours(config))) for name, config in ours.items()
    }
    clips = bench.files("clips")
    opened = [load_clips(path, "clips")[0] for path in clips]
    return ways | {
        "mapped once, torch.stack": stacked_by(bench, opened),  # type: ignore[arg-type]
        "memory-mapped NumPy array": numpy_map(bench),
        ".pt with mmap=True, opened per clip": stacked_by(bench, Opened(clips, mmap=True)),
        ".pt read, opened per clip": stacked_by(bench, Opened(clips)),
        ".pt of float32, opened per clip": stacked_by(bench, Opened(bench.files("float"))),
        "torch DataLoader, 2 workers": workers_of_torch(bench),
    }


def workers_cpu_s() -> float:
    """CPU time so far of workers that run or have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return ended.ru_utime + ended.ru_stime + sum(each.user + each.system for each in running)


def spent_ms(way: Epoch, epoch: int) -> tuple[float, float]:
    """CPU and wall milliseconds per batch of one epoch."""
    # Asking for the workers' time takes time: it is done outside what is timed.
    workers = workers_cpu_s()
    own, clock = time.process_time(), time.perf_counter()
    count = sum(1 for _ in way(epoch))
    own, clock = time.process_time() - own, time.perf_counter() - clock
    return (own + workers_cpu_s() - workers) / count * 1e3, clock / count * 1e3


def least(ways: dict[str, Epoch], rounds: int) -> dict[str, tuple[float, float]]:
    """CPU and wall milliseconds per batch of each way, the least of all rounds."""
    found = {name: (float("inf"), float("inf")) for name in ways}
    for epoch in range(rounds):
        for name, way in ways.items():
            spent = spent_ms(way, epoch)
            if epoch:  # The first epoch starts workers and maps pages.
                found[name] = min(found[name][0], spent[0]), min(found[name][1], spent[1])
    return found


def check_equal(bench: Bench, ways: dict[str, Epoch]) -> None:
    """Refuse to time ways that load different bytes."""
    for name, way in ways.items():
        if name == "memory copy":
            continue
        for given, batch in zip(way(0), bench.indices(0), strict=True):
            files = [bench.files("clips")[index] for index in batch]
            expected = torch.stack([load_clips(path, "clips")[0] for path in files])
            pixels = (given * 255).round().byte() if given.is_floating_point() else given
            if not torch.equal(pixels, expected):
                sys.exit(f"error: {name}: other bytes than in the files")


def print_table(found: dict[str, tuple[float, float]], base: str) -> None:
    """Milliseconds and ratios as a table for docs/benchmarks.md."""
    print("\n| | CPU ms | ratio | ms by the clock |\n|---|--:|--:|--:|")
    for name, (cpu, clock) in found.items():
        print(f"| {name} | {cpu:.2f} | {cpu / found[base][0]:.2f} | {clock:.1f} |")


def main() -> int:
    """Time loading, then augmentation stored and on the fly; 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64, help="examples, each a file")
    parser.add_argument("--batch", type=int, default=8, help="clips in a batch")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    size = args.batch * np.prod(SHAPE) / 1e6
    print(surroundings(("torch", "numpy", "opencv-python-headless")))
    print(
        f"batches of {args.batch} clips of {SHAPE}, {size:.1f} MB, page cache warm; least of rounds"
    )
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bench = Bench(Path(folder), args.clips, args.batch)
        ways = ways_of(bench, stack)
        check_equal(bench, ways)
        found = least(ways, args.rounds)
        print_table(found, "memory copy")
        compare_modes(bench, stack, max(args.rounds // 3, 2))
    ratio = found["ours: one thread"][0] / found["memory copy"][0]
    print()
    return 0 if verdict({"ours in memory copies": (-ratio, -MOST_COPIES)}) else 1


def compare_modes(bench: Bench, stack: ExitStack, rounds: int) -> None:
    """Half of each epoch is augmented versions, stored or made by the thread or by workers."""
    config = replace(PARAMS.augment, versions=1, mode="stored")
    for path in bench.files("clips"):
        store_versions(
            Job(path, bench.root / "augmented" / path.name, "key"), config=config, seed=0
        )
    live = Augmentation(config=config, seed=0)
    loaders = {
        "stored, one thread": (THREAD, bench.root / "augmented"),
        "on the fly, one thread": (THREAD, live),
        "on the fly, 2 workers": (WORKERS, live),
    }
    ways = {
        name: loaded_by(stack.enter_context(bench.ours(loader, versions)))
        for name, (loader, versions) in loaders.items()
    }
    first = [batch.clone() for batch in ways["stored, one thread"](0)]
    for name in loaders:
        if not all(map(torch.equal, ways[name](0), first)):
            sys.exit(f"error: {name}: the first epoch differs from what is stored")
    print_table(least(ways, rounds), "stored, one thread")


if __name__ == "__main__":
    sys.exit(main())
