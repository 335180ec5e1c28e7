"""Paths of cameras and of things, as integers at 60 steps a second."""

from fractions import Fraction

import numpy as np
from jaxtyping import Int64

STEPS_PER_S = 60
LEG_STEPS = (60, 150)
EASE_STEPS = 40
SHAKES = ((4, 5), (17, 3))
"""Hand shake: the steps a tremor is averaged over, and its strength."""


def step_of(frame: int, fps: Fraction) -> int:
    """The step of time at which a frame is taken."""
    return int(frame * STEPS_PER_S / fps)


def smoothed(values: Int64[np.ndarray, "S 2"], steps: int) -> Int64[np.ndarray, "S 2"]:
    """Average over a window of steps, in integers; the ends are held."""
    padded = np.concatenate([np.repeat(values[:1], steps, axis=0), values])
    total = np.cumsum(padded, axis=0)
    return (total[steps:] - total[:-steps]) // steps


def wander(
    num_steps: int, room: tuple[int, int], generator: np.random.Generator
) -> Int64[np.ndarray, "S 2"]:
    """Move from place to place within a room of so many pixels across and down."""
    points = [_point(room, generator)]
    legs: list[Int64[np.ndarray, "S 2"]] = []
    while sum(map(len, legs)) < num_steps:
        points.append(_point(room, generator))
        steps = int(generator.integers(*LEG_STEPS))
        along = np.arange(steps, dtype=np.int64)[:, None]
        legs.append(points[-2] + (points[-1] - points[-2]) * along // steps)
    return smoothed(np.concatenate(legs)[:num_steps], EASE_STEPS)


def _point(room: tuple[int, int], generator: np.random.Generator) -> Int64[np.ndarray, "2"]:
    return generator.integers(0, np.array(room) + 1, dtype=np.int64)


def tremble(
    num_steps: int, unit_px: int, generator: np.random.Generator
) -> Int64[np.ndarray, "S 2"]:
    """Shake as a hand does: a fast and a slow tremor about zero.

    Args:
        num_steps: Length of the path.
        unit_px: Strength, in pixels; one percent of the frame looks natural.
        generator: Decides the path.
    """
    total = np.zeros((num_steps, 2), np.int64)
    for steps, strength in SHAKES:
        reach = 2 * strength * unit_px
        tremor = generator.integers(-reach, reach + 1, size=(num_steps, 2), dtype=np.int64)
        total += smoothed(tremor, steps)
    return total


def cross(
    num_steps: int, room: tuple[int, int], speed_px: int, generator: np.random.Generator
) -> Int64[np.ndarray, "S 2"]:
    """Cross a room from left to right at one height, and begin again.

    Args:
        num_steps: Length of the path.
        room: Pixels across, after which it begins again, and down.
        speed_px: Pixels per 16 steps.
        generator: Decides where it starts, and its bobbing.
    """
    start, height = _point(room, generator)
    steps = np.arange(num_steps, dtype=np.int64)
    across = (start + steps * speed_px // 16) % max(room[0], 1)
    bob = np.abs(steps % 30 - 15) * speed_px // 120
    return np.stack([across, height + bob], axis=1)
