"""Clips with and without a trace, and a classifier that was fitted to them in moments."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from settings import clips_config, model_config, train_config
from torch import Tensor

from fvc.config import ModelConfig
from fvc.networks import ClipClassifier, build_network
from fvc.training.boosting import boost, measure

MODEL: ModelConfig = replace(model_config(), network="forensic", head="linear", dropout=0.0)
CLIPS = clips_config(1, 4, 32)


def scene(seed: int, frames: int = 4, high: int = 32, wide: int = 32) -> np.ndarray:
    """A smooth picture that moves a little, (T, C, H, W) of uint8."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(40, 200, (4, 4, 3)).astype(np.float32)
    large = cv2.resize(coarse, (wide + frames, high), interpolation=cv2.INTER_CUBIC)
    moving = np.stack([large[:, shift : shift + wide] for shift in range(frames)])
    return moving.clip(20, 235).round().astype(np.uint8).transpose(0, 3, 1, 2)


def noisy(clip: UInt8[np.ndarray, "T C H W"], deviation: float = 6.0) -> np.ndarray:
    """The clip with noise that is new in each frame."""
    noise = np.random.default_rng(int(clip.sum())).normal(0, deviation, clip.shape)
    return (clip + noise).clip(1, 255).round().astype(np.uint8)


def noisy_quarter(clip: UInt8[np.ndarray, "T C H W"], quarter: int) -> np.ndarray:
    """The clip with strong noise in one quarter of its picture."""
    made, (high, wide) = clip.copy(), (side // 2 for side in clip.shape[2:])
    top, left = high * (quarter // 2), wide * (quarter % 2)
    own = made[:, :, top : top + high, left : left + wide]
    own[:] = noisy(own, 12.0)
    return made


def examples(first: int, count: int) -> list[tuple[Tensor, int]]:
    """Clips and labels in turn; fakes carry noise, one of three in a quarter alone."""
    made = []
    for number in range(count):
        clip = scene(first + number)
        if number % 2:
            clip = noisy(clip) if number % 3 else noisy_quarter(clip, number // 2 % 4)
        made.append((torch.from_numpy(clip), number % 2))
    return made


def fitted(scratch: Path, seed: int = 0) -> ClipClassifier:
    """A classifier that tells noise."""
    network = build_network(MODEL, CLIPS)
    others = examples(seed + 40, 12)
    measured = measure(
        network,
        examples(seed, 40),
        [clip[None] for clip, _ in others],
        [label for _, label in others],
        lambda: False,
    )
    boost(network, measured, train_config(), seed=seed, scratch=scratch)
    return network
