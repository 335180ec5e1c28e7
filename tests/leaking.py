"""Train for two hundred steps and say what they left in memory: `leaking.py <folder> <kept>`.

In a process of its own: in that of other tests, a leak would fill memory that they have freed.
`kept` is how many of the features of each pass are kept, which is what a leak does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from settings import train_config
from small_training import MadeBatches, small_network, train
from torch import Tensor

from fvc.batches import Batch
from fvc.memory import memory_in_use_mib


class TenSteps(MadeBatches):
    def __len__(self) -> int:
        return 5 * super().__len__()

    def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
        return (5 * list(super().batches(epoch)))[first:]


def grown_mib(folder: Path, kept: int) -> float:
    """With validation and a checkpoint after each ten steps.

    The first forty fill caches and the allocator's free lists, and are not counted.
    """
    seen: list[float] = []
    leaked: list[Tensor] = []
    network = small_network()
    network.features.register_forward_hook(
        lambda _module, _given, result: leaked.extend([result] * kept)
    )
    train(
        folder,
        lambda _: seen.append(memory_in_use_mib(torch.device("cpu"))),
        train_config(epochs=20, patience=20, ema_decay=0.9),
        network=network,
        batches=TenSteps(),
    )
    assert len(seen) == 20
    return seen[-1] - seen[3]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(f"{grown_mib(Path(sys.argv[1]), int(sys.argv[2]))}\n")
