"""Perceptual fingerprints of videos: hashes of their frames that survive a repost."""

from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8, UInt64

FRAME_SIDE_PX = 128
"""What `fingerprint` is meant for: hashes keep only the coarse structure of a frame."""
HASH_SIDE = 16
HASH_BITS = HASH_SIDE * HASH_SIDE
VIEWS = 2
"""Hashes of a frame: of all of it, and of its middle, which is what a crop of it shows."""
FRAME_BYTES = VIEWS * HASH_BITS // 8
CROP_SHARE = 0.05
"""Of either side, cut away all around to get the middle."""
BAR_LEVEL = 32
"""A row or column that stays darker, noise and a logo's edge aside, is a bar."""
BAR_SHARE = 0.98
PICTURE_LEVEL = 44
PICTURE_SHARE = 0.4
"""Of a row beside a bar with text in it that must be brighter than `PICTURE_LEVEL`."""
MAX_BAR_SHARE = 0.4
"""Of a side; a dark row further inside is no edge of a bar with text."""
MIN_PICTURE_SHARE = 0.3
"""Of a side; a darker video is taken as it is."""
MIN_CONTRAST = 8.0
"""Standard deviation of the grey levels below which a frame shows nothing to compare."""

Hashes = UInt64[np.ndarray, "_ 2 4"]
"""The hashes of the frames of a video, first the whole frame, in four words each."""


def fingerprint(frames: UInt8[np.ndarray, "F H W"]) -> bytes:
    """Hash the grey frames of one video, less black bars and frames without contrast.

    A bit tells whether one of the lowest frequencies of a frame is above
    their median, so it survives scaling, brightness and compression.

    Returns:
        `FRAME_BYTES` for each frame that is kept; nothing for a flat video.

    Source:
        The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual
        Image Hash Functions" (2010), section 3.2.1, with 256 bits.
    """
    picture = remove_bars(frames)
    shown = picture[picture.std(axis=(1, 2)) >= MIN_CONTRAST]
    return np.stack([_hash(shown), _hash(_middle(shown))], axis=1).tobytes()


def unpack(value: bytes) -> Hashes:
    """The hashes in a fingerprint."""
    return np.frombuffer(value, dtype=np.uint64).reshape(-1, VIEWS, HASH_BITS // 64)


def mirrored(hashes: UInt64[np.ndarray, "*N 4"]) -> UInt64[np.ndarray, "*N 4"]:
    """The hashes of the same frames with left and right exchanged.

    That turns the sign of each coefficient with an odd number of half waves
    from left to right; its bit turns too, as the median is close to zero.
    """
    odd = np.tile(np.arange(HASH_SIDE) % 2 == 1, HASH_SIDE)
    return hashes ^ np.packbits(odd).view(np.uint64)


def _hash(frames: UInt8[np.ndarray, "F H W"]) -> UInt8[np.ndarray, "F B"]:
    height, width = frames.shape[1:]
    coefficients = _cosines(height) @ frames.astype(np.float64) @ _cosines(width).T
    flat = coefficients.reshape(len(frames), HASH_BITS)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    # The mean brightness says nothing.
    bits[:, 0] = False
    return np.packbits(bits, axis=1)


@cache
def _cosines(length: int) -> Float[np.ndarray, "K L"]:
    """The lowest frequencies of the cosine transform (type II) of `length` samples."""
    frequencies = np.arange(HASH_SIDE)[:, None]
    return np.cos(np.pi * frequencies * (2 * np.arange(length) + 1) / (2 * length))


def _middle(frames: UInt8[np.ndarray, "F H W"]) -> UInt8[np.ndarray, "F h w"]:
    height, width = frames.shape[1:]
    top, left = round(height * CROP_SHARE), round(width * CROP_SHARE)
    return frames[:, top : height - top, left : width - left]


def remove_bars(frames: UInt8[np.ndarray, "F H W"]) -> UInt8[np.ndarray, "F h w"]:
    """Cut off the bars at the borders that are black in all frames, but for text in them."""
    for axis, others in ((1, (0, 2)), (2, (0, 1))):
        dark = (frames <= BAR_LEVEL).mean(axis=others) >= BAR_SHARE
        shown = (frames > PICTURE_LEVEL).mean(axis=others) >= PICTURE_SHARE
        part = _picture(dark, shown)
        frames = frames[:, part] if axis == 1 else frames[:, :, part]
    return frames


def _picture(dark: Bool[np.ndarray, " L"], shown: Bool[np.ndarray, " L"]) -> slice:
    """What lies between two bars, without text in them where too little would be left."""
    length = len(dark)
    for bar in (_bar_with_text, _plain_bar):
        start, rest = bar(dark, shown), bar(dark[::-1], shown[::-1])
        if length - start - rest >= MIN_PICTURE_SHARE * length:
            return slice(start, length - rest)
    return slice(None)


def _plain_bar(dark: Bool[np.ndarray, " L"], _: Bool[np.ndarray, " L"]) -> int:
    return len(dark) if dark.all() else int(dark.argmin())


def _bar_with_text(dark: Bool[np.ndarray, " L"], shown: Bool[np.ndarray, " L"]) -> int:
    """Where the last dark row ends that has the picture right behind it.

    Bar and picture may mix in the row between. Night scenes have no such
    edge: they fade.
    """
    rows = np.arange(min(int(MAX_BAR_SHARE * len(dark)), len(dark) - 2))
    edges = np.flatnonzero(dark[rows] & shown[rows + 2])
    return max(_plain_bar(dark, shown), int(edges[-1]) + 1 if len(edges) else 0)
