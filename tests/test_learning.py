"""Whether the engine learns what is there to learn, and nothing else."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import sem, t
from settings import clips_config, model_config, train_config
from sklearn.metrics import roc_auc_score
from small_training import CONFIG, MadeBatches, small_network, train
from torch import Tensor

from fvc.batches import Batch
from fvc.networks import build_network
from fvc.predict import video_logits
from fvc.training.epoch import train_epoch
from fvc.training.losses import make_loss
from fvc.training.state import start_training
from fvc.training.tally import Tally

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = [
    *(0.771008, 0.743088, 0.778278, 0.54494, 0.673724),
    *(0.644507, 0.625675, 0.661169, 0.693446, 0.713117),
]
"""Of `ten_losses`: without steps they are off by up to 4e-3, with more threads by 3e-6."""


def noisy_clips(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise, with the contrast of every second clip halved: those are fake."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 256, (count, 2, 3, 16, 16), generator=generator)
    return (noise * (2 - labels)[:, None, None, None, None] // 2).to(torch.uint8), labels


class Clips(MadeBatches):
    """Any clips, eight at a time, in an order of each epoch's own."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        super().__init__(8, labels)
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels) // 8

    def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(len(self.pixels), generator=generator)
        return [
            Batch(self.pixels[rows], self.labels[rows].float()) for rows in torch.split(order, 8)
        ][first:]


def test_eight_clips_are_learnt_by_heart(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=60, patience=60, learning_rate=2.0e-2)
    _, result = train(tmp_path, config=config, network=small_network(dropout=0.0))
    assert result.history[-1]["train/loss"] < 0.01 < 0.5 < result.history[0]["train/loss"]


SHUFFLES = 6


def auc_of_unseen(folder: Path, labels: Tensor) -> float:
    """Train on 64 clips under these labels, and score others under their true ones."""
    pixels, _ = noisy_clips(64, seed=1)
    unseen, truth = noisy_clips(100, seed=3)
    epochs = itertools.count()
    network, _ = train(
        folder,
        config=replace(CONFIG, batch_size=8, epochs=3, learning_rate=1.0e-2),
        batches=Clips(pixels, labels),
        # The last epoch is kept: to choose one by the true labels would be to learn them.
        validate=lambda _: {"validation/loss": -float(next(epochs))},
    )
    return float(roc_auc_score(truth.numpy(), video_logits(network, unseen[:, None])))


def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    _, labels = noisy_clips(64, seed=1)
    generator = torch.Generator().manual_seed(2)
    values = [
        auc_of_unseen(tmp_path / str(number), labels[torch.randperm(64, generator=generator)])
        for number in range(SHUFFLES)
    ]
    # One direction separates these clips, so each training has it the right way round or not.
    low, high = t.interval(0.95, SHUFFLES - 1, np.mean(values), sem(values))
    assert low <= 0.5 <= high, f"a network saw labels that it was not given: {values}"
    assert auc_of_unseen(tmp_path / "true", labels) > 0.95, "there is nothing to be learnt"


def ten_losses() -> list[float]:
    """Of the real network, from its first weights, in float32."""
    config = train_config(mixed_precision=False, learning_rate=3.0e-6)
    torch.manual_seed(0)
    network = build_network(model_config(), clips_config(1, 8, 32))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    training = start_training(network, make_loss(config, (4, 4)), config, seed=0)
    losses: list[float] = []
    train_epoch(
        training,
        [Batch(clips, torch.tensor([0.0, 1.0, 0.0, 1.0])) for clips in torch.split(pixels, 4)],
        Tally(),
        epoch=0,
        steps=10,
        after_step=lambda step: losses.append(step.loss.item()),
    )
    return losses


def test_ten_steps_follow_the_stored_curve() -> None:
    np.testing.assert_allclose(ten_losses(), GOLDEN, atol=1e-4)
