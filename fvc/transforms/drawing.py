"""What the parts of the augmentation have in common: a step, and how chance decides."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator

Plane = UInt8[np.ndarray, "H W"]
Frame = UInt8[np.ndarray, "H W C"]
Step = Callable[[Frame], Frame]
"""A change whose amounts are drawn already; it may write into what it is given."""


def apply(steps: Iterable[Step | None], frame: Frame) -> Frame:
    """Make one change after another; None is a change that is not made."""
    for step in steps:
        frame = frame if step is None else step(frame)
    return frame


def happens(probability: float, generator: Generator) -> bool:
    """Whether a change is made."""
    return bool(generator.random() < probability)


def symmetric(largest: float, generator: Generator) -> float:
    """An amount to either side."""
    return largest * generator.uniform(-1, 1)
