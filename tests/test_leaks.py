from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from settings import train_config
from small_training import MadeBatches, small_network, train
from torch import Tensor

from fvc.batches import Batch
from fvc.memory import memory_in_use_mib
from fvc.networks import ClipClassifier


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on pictures this small, and most where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TenSteps(MadeBatches):
    def __len__(self) -> int:
        return 5 * super().__len__()

    def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
        return (5 * list(super().batches(epoch)))[first:]


def grown_mib(folder: Path, network: ClipClassifier) -> float:
    """What two hundred steps, with validation and a checkpoint after each ten, leave in memory.

    The first forty fill caches and the allocator's free lists, and are not counted.
    """
    seen: list[float] = []
    train(
        folder,
        lambda _: seen.append(memory_in_use_mib(torch.device("cpu"))),
        train_config(epochs=20, patience=20, ema_decay=0.9),
        network=network,
        batches=TenSteps(),
    )
    assert len(seen) == 20
    return seen[-1] - seen[3]


@pytest.mark.slow
def test_memory_is_flat_over_two_hundred_steps(tmp_path: Path) -> None:
    assert grown_mib(tmp_path, small_network()) < 3


@pytest.mark.slow
def test_a_leak_would_be_seen(tmp_path: Path) -> None:
    kept: list[Tensor] = []
    network = small_network()
    network.features.register_forward_hook(lambda _module, _given, result: kept.append(result))
    assert grown_mib(tmp_path, network) > 6
