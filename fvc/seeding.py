"""One seed in `params.yaml`, one independent seed for each purpose and each video."""

import hashlib

import numpy as np


def seed_for(seed: int, *purpose: str | int) -> int:
    """Derive the seed of one purpose, in [0, 2**63).

    The result depends on its arguments alone, never on the order of calls,
    the worker or the time, so work may be divided and resumed at will:
    `seed_for(seed, "augment", video_id, version)`.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator_for(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator seeded by `seed_for`."""
    return np.random.default_rng(seed_for(seed, *purpose))
