"""Changes of a clip in time."""

import numpy as np
from jaxtyping import Int
from numpy.random import Generator

from fvc.config import AugmentConfig, ShareConfig
from fvc.transforms.drawing import happens


def draw_order(
    num_frames: int, config: AugmentConfig, generator: Generator
) -> Int[np.ndarray, " T"]:
    """Which frame is shown at each place after dropping, duplication and reversal.

    Dropping leaves a shorter clip, which is resampled to the full length;
    duplication delays the frames after it, of which the last are cut off.
    """
    order = np.arange(num_frames)
    dropped = _draw_count(num_frames, config.drop, generator)
    if dropped:
        kept = np.sort(generator.choice(num_frames, num_frames - dropped, replace=False))
        order = kept[np.arange(num_frames) * len(kept) // num_frames]
    doubled = _draw_count(num_frames, config.duplicate, generator)
    if doubled:
        places = generator.integers(0, num_frames - doubled, doubled)
        order = order[np.sort(np.concatenate([np.arange(num_frames), places]))[:num_frames]]
    return order[::-1] if happens(config.reverse.probability, generator) else order


def _draw_count(num_frames: int, config: ShareConfig, generator: Generator) -> int:
    largest = int(num_frames * config.max_share)
    if largest < 1 or not happens(config.probability, generator):
        return 0
    return int(generator.integers(1, largest, endpoint=True))
