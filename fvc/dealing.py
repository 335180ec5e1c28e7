"""Dealing groups to parts, so that every part holds about as much of every class."""

import numpy as np
from jaxtyping import Float, Int64
from sklearn.utils import check_random_state

RELATIVE, ABSOLUTE = 1e-5, 1e-8
"""Two spreads that differ by no more are equal, as `numpy.isclose` has it."""


def deal(counts: Float[np.ndarray, "G C"], num_parts: int, seed: int) -> Int64[np.ndarray, " G"]:
    """Give each group the part in which it leaves the classes spread most evenly.

    Groups are shuffled and come with the least even first. Of parts that are
    about as good the one with the fewest videos gets the group. The result is
    that of scikit-learn's `StratifiedGroupKFold` to the last group, in time
    that grows with the groups and no more with the videos.

    Args:
        counts: Videos of each class in each group; no class is empty.
        num_parts: At least 2.
        seed: In [0, 2**32).

    Raises:
        ValueError: There are fewer groups than parts, or fewer videos of every class.

    Source:
        `StratifiedGroupKFold` of scikit-learn 1.9, after a kernel of Jakub Wasikowski.
    """
    totals = counts.sum(axis=0)
    if len(counts) < num_parts:
        raise ValueError(f"{len(counts)} groups do not fill {num_parts} parts")
    if totals.max() < num_parts:
        raise ValueError(f"{totals.max():.0f} videos of a label do not fill {num_parts} parts")
    order = np.arange(len(counts))
    check_random_state(seed).shuffle(order)
    uneven = np.std(counts[order], axis=1)
    turns = order[np.argsort(-uneven, kind="stable")]
    part_of = np.empty(len(counts), dtype=np.int64)
    held = np.zeros((num_parts, counts.shape[1]))
    num_videos = [0.0] * num_parts
    # Entry [i, j] is what part j has of each class, of all, if part i gets the group.
    tried = np.zeros((num_parts, num_parts, counts.shape[1]))
    own = np.einsum("iic->ic", tried)
    for group, found, size in zip(
        turns.tolist(), counts[turns], counts.sum(axis=1)[turns].tolist(), strict=True
    ):
        np.divide(held + found, totals, out=own)
        part = _best(_spreads(tried).tolist(), num_videos)
        part_of[group] = part
        num_videos[part] += size
        held[part] += found
        tried[:, part] = held[part] / totals
        # Its row of the diagonal was written over; the next turn writes it anew.
    return part_of


def _spreads(tried: Float[np.ndarray, "P P C"]) -> Float[np.ndarray, " P"]:
    """The standard deviation over parts, as the mean over classes.

    As `numpy.std` and `numpy.mean` do it, in the same order: parts often tie
    but for the last digit, which then decides. Calling them takes three times as long.
    """
    num_parts, _, num_classes = tried.shape
    off = tried - np.add.reduce(tried, axis=1, keepdims=True) / num_parts
    variance = np.add.reduce(np.multiply(off, off, out=off), axis=1) / num_parts
    return np.add.reduce(np.sqrt(variance, out=variance), axis=1) / num_classes


def _best(spreads: list[float], num_videos: list[float]) -> int:
    best, least, fewest = 0, np.inf, np.inf
    for part, (spread, size) in enumerate(zip(spreads, num_videos, strict=True)):
        # Neither is below zero, and a spread that is not below the least is above it or equal.
        if spread < least or (size < fewest and spread - least <= ABSOLUTE + RELATIVE * least):
            best, least, fewest = part, spread, size
    return best
