"""Augmentations one at a time, and clips to try them on."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fvc.config import AugmentConfig, load_params

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml").augment
CHANGES = [
    field.name for field in fields(AugmentConfig) if is_dataclass(getattr(COMMITTED, field.name))
]
IN_TIME = ["drop", "duplicate", "reverse"]
IN_SPACE = [name for name in CHANGES if name not in IN_TIME]
ALIKE = [name for name in IN_SPACE if name != "noise"]
"""What makes equal frames of equal frames."""

Clip = UInt8[np.ndarray, "T C H W"]


def only(*names: str, **settings: float) -> AugmentConfig:
    """The committed parameters, with these changes always made and all others never."""
    sections = {
        name: replace(getattr(COMMITTED, name), probability=float(name in names), **settings)
        if name in names
        else replace(getattr(COMMITTED, name), probability=0.0)
        for name in CHANGES
    }
    return replace(COMMITTED, **sections)


def smooth_clip(num_frames: int = 8, height: int = 48, width: int = 64) -> Clip:
    """Frames with soft colour gradients, each a little brighter than the one before."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([60 + rows, 60 + columns, 180 - rows])
    return np.stack([picture + 4 * number for number in range(num_frames)]).astype(np.uint8)


def still_clip(num_frames: int = 8) -> Clip:
    return np.repeat(smooth_clip(1), num_frames, axis=0)


def textured_clip(num_frames: int = 4, height: int = 64, width: int = 96) -> Clip:
    """Frames with detail of all sizes, moving a pixel a frame."""
    rows, columns = np.mgrid[:height, : width + num_frames]
    waves = sum(np.sin(rows / size + columns * 1.3 / size) for size in (1.5, 3, 6, 12))
    grain = np.random.default_rng(5).normal(0, 12, rows.shape)
    picture = np.clip(128 + 20 * waves + grain, 2, 255)
    frames = [picture[:, shift : shift + width] for shift in range(num_frames)]
    # Nearly grey: codecs keep a quarter of the colour.
    return np.stack([np.stack([frame, 0.9 * frame, frame]) for frame in frames]).astype(np.uint8)
