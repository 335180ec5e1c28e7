"""A training of moments, for tests of what happens to one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from settings import clips_config, train_config
from torch import Tensor, nn

from fvc.batches import Batch
from fvc.config import EngineConfig, TrainConfig
from fvc.networks import ClipClassifier
from fvc.predict import video_logits
from fvc.training.diagnostics import MEASURED_SERIES, EpochRow
from fvc.training.epoch import Loader
from fvc.training.loop import FitResult, Hooks, fit
from fvc.training.losses import make_loss
from fvc.training.state import start_training
from fvc.validation import validation_series

CONFIG = train_config()
LABELS = torch.arange(8) % 2
ENGINE = EngineConfig(checkpoint_minutes=60.0, collect_every=0)
EVERY_STEP = EngineConfig(checkpoint_minutes=0.0, collect_every=1)
EVERYTHING = replace(
    CONFIG,
    ema_decay=0.9,
    mixup_alpha=0.4,
    label_smoothing=0.1,
    schedule="cosine",
    warmup_epochs=0.5,
    fine_tuning="gradual",
    unfreeze_epochs=(1, 2),
)
"""All that has a state, or draws lots."""


def small_network(dropout: float = 0.5) -> ClipClassifier:
    torch.manual_seed(0)
    clips = clips_config(1, 2, 16)
    features = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.Conv3d(8, 8, 3, padding=1),
        nn.ReLU(),
    )
    return ClipClassifier(features, channels=8, dropout=dropout, clips=clips)


def made_clips() -> Tensor:
    """Noise, with the contrast of fakes halved."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, 2, 3, 16, 16), generator=generator)
    contrast = (2 - LABELS)[:, None, None, None, None]
    return (noise * contrast // 2).to(torch.uint8)


class MadeBatches:
    """The eight clips in an order of each epoch's own, four at a time."""

    def __init__(self, size: int = 4, labels: Tensor = LABELS) -> None:
        self.size, self.labels = size, labels

    def __len__(self) -> int:
        return -(-8 // self.size)

    def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
        order = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
        pixels, parts = made_clips(), torch.split(order, self.size)
        return [Batch(pixels[rows], self.labels[rows].float()) for rows in parts[first:]]


def validate(network: ClipClassifier) -> dict[str, float]:
    logits = video_logits(network, made_clips()[:, None])
    return validation_series(logits, LABELS.numpy())


def train(
    checkpoints: Path,
    on_epoch: Callable[[Sequence[EpochRow]], None] = lambda _: None,
    config: TrainConfig = CONFIG,
    *,
    network: ClipClassifier | None = None,
    batches: Loader | None = None,
    validate: Callable[[ClipClassifier], Mapping[str, float]] = validate,
    engine: EngineConfig = ENGINE,
    binding: str = "binding",
    **hooks: Any,
) -> tuple[ClipClassifier, FitResult]:
    """Fit a small network on eight clips."""
    network = small_network() if network is None else network
    training = start_training(network, make_loss(config, (4, 4)), config, seed=0)
    result = fit(
        training,
        MadeBatches() if batches is None else batches,
        validate,
        engine,
        checkpoints=checkpoints,
        binding=binding,
        hooks=Hooks(on_epoch=on_epoch, **hooks),
    )
    return network, result


def weights_of(network: ClipClassifier) -> list[bytes]:
    return [value.numpy().tobytes() for value in network.state_dict().values()]


def comparable(history: Sequence[EpochRow]) -> list[EpochRow]:
    return [
        {name: value for name, value in row.items() if name not in MEASURED_SERIES}
        for row in history
    ]
