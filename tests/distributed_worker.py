"""What each rank of test_distributed.py does: `torchrun ... distributed_worker.py <folder>`.

The folder holds the clips; each rank writes what it found there.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from settings import clips_config, loader_config
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.nn import functional

from fvc.batches import Batch
from fvc.clip_files import save_clips
from fvc.dataset import ClipDataset
from fvc.distributed import World, not_averaged, share_statistics, world, wrapped
from fvc.errors import FvcError
from fvc.loading import ClipLoader
from fvc.networks import ClipClassifier

CPU = torch.device("cpu")
CLIPS = clips_config(1, 2, 16, fit="native")
PLAIN = loader_config(prefetch_batches=2)
STEPS = 10


class Case(NamedTuple):
    """One way to train."""

    batch_size: int
    batches_per_step: int = 1
    micro_batch: int = 100
    frozen_statistics: bool = True
    num_workers: int = 0
    unfrozen_at: int = 0
    """The step from which the convolution trains, too."""


# Ten clips in an epoch.
CASES = {
    "even": Case(4),
    "odd": Case(5),
    "a last batch of one clip": Case(3),
    "several batches in a step": Case(3, batches_per_step=2),
    "micro-batches": Case(9, micro_batch=2),
    "micro-batches of one clip": Case(9, micro_batch=1, num_workers=1),
    "unfreezing": Case(5, unfrozen_at=4),
}
OWN_STATISTICS = Case(4, frozen_statistics=False)


def meeting_point() -> tuple[TCPStore, dict[str, str]]:
    """Where two ranks find each other, and what torchrun would tell them of it.

    It lasts as long as the store is held.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return store, {**os.environ, **told}


def write_clips(folder: Path) -> None:
    """Three real and five fake videos of one clip each, in two sizes, so that some are padded."""
    generator = np.random.default_rng(0)
    for number in range(8):
        shape = (1, 2, 3, 16, 12 if number % 3 == 0 else 16)
        save_clips(folder / f"v{number}.pt", generator.integers(0, 256, shape, np.uint8), "key")


def network_of(case: Case) -> ClipClassifier:
    torch.manual_seed(0)
    normalisation = nn.BatchNorm3d(4).train(not case.frozen_statistics)
    convolutions = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 4, 1)
    features = nn.Sequential(*convolutions, normalisation, nn.ReLU())
    network = ClipClassifier(features, channels=4, dropout=0.0, clips=CLIPS)
    # As on a GPU.
    return network.to(memory_format=torch.channels_last_3d)


def loader_of(case: Case, folder: Path, around: World) -> ClipLoader:
    videos = {f"v{number}": int(number > 2) for number in range(8)}
    return ClipLoader(
        ClipDataset(videos, folder, None),
        case.batch_size,
        replace(PLAIN, num_workers=case.num_workers),
        imbalance="balanced_batches",
        seed=0,
        device=CPU,
        rank=around.rank,
        size=around.size,
    )


def steps_of(case: Case, loader: ClipLoader) -> Iterator[list[Batch]]:
    for epoch in count():
        batches = iter(loader.batches(epoch))
        while group := list(islice(batches, case.batches_per_step)):
            yield group


def micro_batches(group: Sequence[Batch], size: int) -> Iterator[tuple[Batch, int]]:
    """Parts of batches, and how many clips of each count."""
    for batch in group:
        for start in range(0, len(batch.labels), size):
            mask = None if batch.mask is None else batch.mask[start : start + size]
            part = Batch(
                batch.pixels[start : start + size], batch.labels[start : start + size], mask
            )
            yield part, min(max(batch.counted - start, 0), len(part.labels))


def summed_loss(network: nn.Module, bare: ClipClassifier, part: Batch, counted: int) -> Tensor:
    logits = network(bare.normalise(part.pixels, part.mask), part.mask).squeeze(1)
    losses = functional.binary_cross_entropy_with_logits(logits, part.labels, reduction="none")
    return losses[:counted].sum()


def train(case: Case, folder: Path, around: World) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of ten steps, and the state they end with."""
    network = network_of(case)
    convolution = network.get_submodule("features.0")
    convolution.requires_grad_(not case.unfrozen_at)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    whole, losses = wrapped(network, around), []
    with loader_of(case, folder, around) as loader:
        for step, group in enumerate(islice(steps_of(case, loader), STEPS)):
            if step == case.unfrozen_at:
                convolution.requires_grad_(True)
                whole = wrapped(network, around)
            parts = list(micro_batches(group, case.micro_batch))
            clips, total = sum(batch.counted_by_all for batch in group), 0.0
            for number, part in enumerate(parts, 1):
                with nullcontext() if number == len(parts) else not_averaged(whole):
                    loss = summed_loss(whole, network, *part)
                    torch.autograd.backward(loss * around.size / clips)
                total += loss.item()
            optimizer.step()
            optimizer.zero_grad()
            share_statistics(network, around)
            losses.append(sum(around.gather(total)) / clips)
    return losses, network.state_dict()


def messages(around: World) -> dict[str, Any]:
    """What each kind of exchange gives this rank."""
    around.barrier()
    return {
        "agreed": [around.agree_max(value) for value in (around.rank, -around.rank, 7)],
        "gathered": around.gather({"rank": around.rank, "logits": torch.ones(around.rank)}),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    with world(CPU) as around:
        if "fail" in sys.argv:
            if around.rank == 1:
                raise FvcError("rank 1", "fails", "Nothing helps")
            around.barrier()
        found: dict[str, Any] = {
            "around": (around.rank, around.size),
            "messages": messages(around),
            "trained": {name: train(case, folder, around) for name, case in CASES.items()},
            "own statistics": train(OWN_STATISTICS, folder, around)[1],
        }
    torch.save(found, folder / f"rank{around.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
