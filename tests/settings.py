"""Parameters for tests that care about a few of them."""

from typing import Any

from fvc.config import ClipsConfig, LoaderConfig, ModelConfig, ServingConfig, TrainConfig
from fvc.networks import ARCHITECTURES

TRAINED = [name for name, each in ARCHITECTURES.items() if each.classifier is None]
"""The networks that gradients pass through; the others are fitted as a whole."""


def clips_config(num_clips: int, num_frames: int, side_px: int, **changes: Any) -> ClipsConfig:
    """Letterboxed clips of equal spans, unless something else is said."""
    usual: dict[str, Any] = {
        "views": "spans",
        "window_s": 4.0,
        "stride_s": 2.0,
        "sampling": "exact",
        "fit": "letterbox",
        "timeout_s": 60.0,
    }
    fields = usual | changes
    return ClipsConfig(num_clips=num_clips, num_frames=num_frames, side_px=side_px, **fields)


def model_config(pretrained: str = "none") -> ModelConfig:
    """A narrow head on the default network."""
    return ModelConfig(
        network="r3d_18", pretrained=pretrained, head="inception", head_channels=16, dropout=0.5
    )


def train_config(**changes: Any) -> TrainConfig:
    """Short and plain: a constant learning rate, everything trains, nothing is made up for."""
    usual: dict[str, Any] = {
        "loss": "bce",
        "focal_gamma": 2.0,
        "class_balanced_beta": 0.999,
        "imbalance": "balanced_batches",
        "label_smoothing": 0.0,
        "mixup_alpha": 0.0,
        "optimizer": "adam",
        "learning_rate": 3.0e-3,
        "backbone_rate_factor": 1.0,
        "weight_decay": 1.0e-4,
        "gradient_clip_norm": 5.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "step_epochs": 10,
        "step_factor": 0.1,
        "ema_decay": 0.0,
        "fine_tuning": "full",
        "unfreeze_epochs": (1, 2),
        "frozen_batch_norm_below": 0,
        "batch_size": 4,
        "epochs": 5,
        "patience": 5,
        "best_by": "validation/loss",
        "mixed_precision": True,
        "compile": False,
    }
    return TrainConfig(**usual | changes)


def loader_config(prefetch_batches: int = 0) -> LoaderConfig:
    """Nothing in advance, unless that is said, and nothing kept."""
    return LoaderConfig(
        num_workers=0,
        persistent_workers=False,
        prefetch_factor=2,
        prefetch_batches=prefetch_batches,
        pin_memory=True,
        cache="none",
    )


def serving_config(**changes: Any) -> ServingConfig:
    """Limits that no video of a test reaches."""
    usual: dict[str, Any] = {
        "max_mib": 1.0,
        "max_duration_s": 600.0,
        "max_megapixels": 1.0,
        "max_frames": 10_000,
        "timeout_s": 60.0,
        "max_memory_mib": 512,
    }
    return ServingConfig(**(usual | changes))
