"""Perceptual fingerprints of videos, and the near-duplicates they find."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt64

FRAME_SIDE_PX = 64
"""What `fingerprint` is meant for: hashes keep only the coarse structure of a frame."""
HASH_SIDE = 16
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8
BAR_LEVEL = 32
"""A row or column that stays darker, noise and a logo's edge aside, is a bar."""
BAR_QUANTILE = 0.98
MIN_PICTURE_SHARE = 0.3
"""Of either side; a darker video is taken as it is."""
MIN_CONTRAST = 8.0
"""Standard deviation of the grey levels below which a frame shows nothing to compare."""
BLOCK_FRAMES = 512
"""Frames compared with as many at once: their distances stay in the processor's cache."""


def fingerprint(frames: UInt8[np.ndarray, "F H W"]) -> bytes:
    """Hash the grey frames of one video, less black bars and frames without contrast.

    A bit tells whether one of the lowest frequencies of a frame is above
    their median, so it survives scaling, brightness and compression.

    Returns:
        `HASH_BYTES` for each frame that is kept; nothing for a flat video.

    Source:
        The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual
        Image Hash Functions" (2010), section 3.2.1, with 256 bits.
    """
    picture = remove_bars(frames)
    shown = picture[picture.std(axis=(1, 2)) >= MIN_CONTRAST]
    height, width = shown.shape[1:]
    coefficients = _cosines(height) @ shown.astype(np.float64) @ _cosines(width).T
    flat = coefficients.reshape(len(shown), HASH_SIDE * HASH_SIDE)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    # The mean brightness says nothing; without it a distance fits into one byte.
    bits[:, 0] = False
    return np.packbits(bits, axis=1).tobytes()


@cache
def _cosines(length: int) -> Float[np.ndarray, "K L"]:
    """The lowest frequencies of the cosine transform (type II) of `length` samples."""
    frequencies = np.arange(HASH_SIDE)[:, None]
    return np.cos(np.pi * frequencies * (2 * np.arange(length) + 1) / (2 * length))


def remove_bars(frames: UInt8[np.ndarray, "F H W"]) -> UInt8[np.ndarray, "F h w"]:
    """Cut off the rows and columns at the borders that are black in all frames."""
    rows = np.quantile(frames, BAR_QUANTILE, axis=(0, 2)) > BAR_LEVEL
    columns = np.quantile(frames, BAR_QUANTILE, axis=(0, 1)) > BAR_LEVEL
    return frames[:, _extent(rows), _extent(columns)]


def _extent(shows: Bool[np.ndarray, " L"]) -> slice:
    (places,) = np.nonzero(shows)
    if not len(places) or np.ptp(places) + 1 < MIN_PICTURE_SHARE * len(shows):
        return slice(None)
    return slice(places[0], places[-1] + 1)


def near_duplicates(
    fingerprints: Sequence[bytes], *, max_distance: int, min_share: float
) -> list[tuple[int, int]]:
    """Find the pairs of videos whose frames look alike, as positions in `fingerprints`.

    A frame matches a video when the nearest of its frames differs in at most
    `max_distance` bits. Two videos match when at least `min_share` of the
    shorter one's frames match the other. A video without frames matches none.

    Cost: all pairs of frames, 32 bytes each, in blocks.
    """
    kept = [place for place, value in enumerate(fingerprints) if value]
    hashes = [_unpacked(fingerprints[place]) for place in kept]
    blocks = list(_blocks([len(frames) for frames in hashes]))
    pairs = []
    for start_a, end_a in blocks:
        for start_b, end_b in blocks:
            if start_b < start_a:
                continue
            shares = match_shares(hashes[start_a:end_a], hashes[start_b:end_b], max_distance)
            found = np.argwhere(shares >= min_share)
            pairs += [(kept[start_a + a], kept[start_b + b]) for a, b in found.tolist()]
    return sorted({(a, b) for a, b in pairs if a < b})


def _unpacked(value: bytes) -> UInt64[np.ndarray, "F 4"]:
    return np.frombuffer(value, dtype=np.uint64).reshape(-1, HASH_BYTES // 8)


def _blocks(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ranges of whole videos with about `BLOCK_FRAMES` frames each."""
    start, frames = 0, 0
    for place, length in enumerate(lengths):
        if place > start and frames + length > BLOCK_FRAMES:
            yield start, place
            start, frames = place, 0
        frames += length
    if start < len(lengths):
        yield start, len(lengths)


def match_shares(
    left: Sequence[UInt64[np.ndarray, "_ 4"]],
    right: Sequence[UInt64[np.ndarray, "_ 4"]],
    max_distance: int,
) -> Float[np.ndarray, "L R"]:
    """Share of the shorter video's frames that match the other, for every pair of videos.

    Args:
        left: Hashes of the frames of L videos, none without frames.
        right: The same of R videos.
        max_distance: Most bits in which matching frames differ.
    """
    frames_left, frames_right = np.concatenate(left), np.concatenate(right)
    distances = np.zeros((len(frames_left), len(frames_right)), dtype=np.uint8)
    for word in range(frames_left.shape[1]):
        distances += np.bitwise_count(frames_left[:, None, word] ^ frames_right[None, :, word])
    alike = distances <= max_distance
    lengths_left = np.array([len(frames) for frames in left])
    lengths_right = np.array([len(frames) for frames in right])
    starts_left = np.cumsum(lengths_left) - lengths_left
    starts_right = np.cumsum(lengths_right) - lengths_right
    matched_left = np.add.reduceat(
        np.logical_or.reduceat(alike, starts_right, axis=1), starts_left, axis=0, dtype=np.int64
    )
    matched_right = np.add.reduceat(
        np.logical_or.reduceat(alike, starts_left, axis=0), starts_right, axis=1, dtype=np.int64
    )
    left_is_shorter = lengths_left[:, None] <= lengths_right[None, :]
    shorter = np.minimum(lengths_left[:, None], lengths_right[None, :])
    return np.where(left_is_shorter, matched_left, matched_right) / shorter
