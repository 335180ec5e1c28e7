"""Traces of how a clip was made: noise, compression, blur and block borders, as named numbers.

They are sums of whole numbers up to the last step, so a clip has the same ones whatever it is
measured beside, on whatever machine.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64, Int, Int16, UInt8

SMALLEST = 16
"""Height and width in pixels from which a picture is measured: two blocks."""
BLOCK = 8
"""Height and width in pixels of what JPEG, MPEG-2, H.264 (High) and most since transform as one."""
QUIET = 0.1
"""The share of blocks with the least noise in them."""

TRANSFORM = np.array(
    [
        [8, 8, 8, 8, 8, 8, 8, 8],
        [12, 10, 6, 3, -3, -6, -10, -12],
        [8, 4, -4, -8, -8, -4, 4, 8],
        [10, -3, -12, -6, 6, 12, 3, -10],
        [8, -8, -8, 8, 8, -8, -8, 8],
        [6, -12, 3, 10, -10, -3, 12, -6],
        [4, -8, 8, -4, -4, 8, -8, 4],
        [3, -6, 10, -12, 12, -10, 6, -3],
    ],
    np.float32,
)
"""H.264's cosine transform of 8 numbers, in whole numbers: ITU-T H.264, clause 8.5.13. In two
dimensions its sums stay below 2**24, so float32 has them exactly, in whatever order."""
BANDS = {"low": (1, 2), "middle": (3, 5), "high": (6, 8), "highest": (9, 14)}
"""First and last sum of both frequencies of a coefficient."""

IN_FRAMES = (
    *("step_across", "step_down", "bend_across", "bend_down", "third_across", "third_down"),
    *("noise", "noise_of_red", "noise_of_blue", "noise_quiet", "noise_spread", "noise_to_steps"),
    *("flat", *(f"dct_{band}" for band in BANDS), "dct_slope", "sharpness", "reblur"),
    *("grid_across", "grid_down"),
)
"""What is measured in each frame."""
IN_PAIRS = ("motion", "still", "noise_kept", "grid_change")
"""What is measured from each frame to the next."""

FEATURES = (
    *(f"{name}_{what}" for name in IN_FRAMES for what in ("mean", "deviation", "change")),
    *(f"{name}_{what}" for name in IN_PAIRS for what in ("mean", "deviation")),
)
"""The names of the features: over time the mean, the standard deviation, and how much a number
changes from frame to frame."""

Frames = Int16[np.ndarray, "T _h _w"]
Measured = Float64[np.ndarray, "_T"]


def residual_features(clip: UInt8[np.ndarray, "T C H W"]) -> Float32[np.ndarray, "F"]:
    """Measure RGB frames inside their black bars, in the order of `FEATURES`.

    What cannot be measured is NaN: all of it where the picture is below
    `SMALLEST`, and what changes over time where there is one frame.

    Sources:
        Noise residuals: Fridrich and Kodovsky, "Rich Models for Steganalysis of
        Digital Images", IEEE TIFS 2012, the linear filters of first, second and
        third order and the square one of 3 x 3. Its spread over blocks: Mahdian
        and Saic, "Using noise inconsistencies for blind image forensics", 2009.
        Noise that lies still: Lukas, Fridrich and Goljan, "Digital Camera
        Identification from Sensor Pattern Noise", 2006. DCT bands: the mean size
        is the scale of Laplacian coefficients, Lam and Goodman, "A mathematical
        analysis of the DCT coefficient distributions for images", 2000.
        `sharpness` is the variance of the Laplacian: Pech-Pacheco et al., "Diatom
        autofocusing in brightfield microscopy", 2000. `reblur`: Crete et al.,
        "The Blur Effect", 2007. Block borders: Wang, Sheikh and Bovik, 2002,
        "No-reference perceptual quality assessment of JPEG compressed images",
        with the grid found as in Fan and de Queiroz, "Identification of bitmap
        compression history", 2003.
    """
    rows, columns = picture_of(clip)
    if min(rows.stop - rows.start, columns.stop - columns.start) < SMALLEST:
        return np.full(len(FEATURES), np.nan, np.float32)
    red, green, blue = np.moveaxis(clip[:, :, rows, columns], 1, 0).astype(np.int16)
    luma = (red + 2 * green + blue + 2) >> 2
    noise = _noise(luma)
    grids = [_grid(np.diff(luma, axis=2)), _grid(np.diff(luma.swapaxes(1, 2), axis=2))]
    found = {
        **_residuals(luma, noise),
        "noise_of_red": _size(_noise(red - green)),
        "noise_of_blue": _size(_noise(blue - green)),
        **_bands(luma),
        **_blur(luma),
        "grid_across": _grid_contrast(grids[0]),
        "grid_down": _grid_contrast(grids[1]),
    }
    values = [*_over_time(found, IN_FRAMES), *_over_time(_pairs(luma, noise, grids), IN_PAIRS)]
    return np.array(values, np.float32)


def picture_of(clip: UInt8[np.ndarray, "T C H W"]) -> tuple[slice, slice]:
    """The rows and columns between black bars; empty where all is black.

    A bar is 0 in every frame and channel.
    """
    lit = np.bitwise_or.reduce(clip, axis=(0, 1))
    return _extent(lit.any(axis=1)), _extent(lit.any(axis=0))


def _extent(lit: np.ndarray) -> slice:
    places = np.flatnonzero(lit)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _over_time(found: Mapping[str, Measured], names: tuple[str, ...]) -> list[float]:
    values: list[float] = []
    for name in names:
        series = found[name]
        # One frame has no next one: of nothing there is neither mean nor deviation.
        values += [series.mean(), series.std()] if len(series) else [np.nan, np.nan]
        if name in IN_FRAMES:
            values.append(np.abs(np.diff(series)).mean() if len(series) > 1 else np.nan)
    return values


def _mean(values: np.ndarray) -> Measured:
    """Over each frame, from a sum that is exact."""
    return values.sum(axis=(1, 2), dtype=np.int64) / (values.shape[1] * values.shape[2])


def _size(residual: Frames) -> Measured:
    return np.log1p(_mean(np.abs(residual)))


def _noise(plane: Frames) -> Frames:
    """What a fit to the neighbours leaves: the square filter, second differences both ways."""
    across = _bend(plane)
    return across[:, :-2] - 2 * across[:, 1:-1] + across[:, 2:]


def _bend(plane: Frames) -> Frames:
    return plane[:, :, :-2] - 2 * plane[:, :, 1:-1] + plane[:, :, 2:]


def _residuals(luma: Frames, noise: Frames) -> dict[str, Measured]:
    upright = luma.swapaxes(1, 2)
    size = np.abs(noise)
    cells = _cells(size).sum(axis=(2, 4), dtype=np.int64).reshape(len(luma), -1)
    found = {
        "step_across": _size(np.diff(luma, axis=2)),
        "step_down": _size(np.diff(upright, axis=2)),
        "bend_across": _size(_bend(luma)),
        "bend_down": _size(_bend(upright)),
        "third_across": _size(np.diff(_bend(luma), axis=2)),
        "third_down": _size(np.diff(_bend(upright), axis=2)),
        "noise": np.log1p(_mean(size)),
        "noise_quiet": np.log1p(np.quantile(cells, QUIET, axis=1, method="lower") / BLOCK**2),
        # One more, for cells that are all flat.
        "noise_spread": _deviation(cells) / (cells.mean(axis=1) + 1),
        "flat": _mean(size == 0),
    }
    steps = (found["step_across"] + found["step_down"]) / 2
    return {**found, "noise_to_steps": found["noise"] - steps}


def _deviation(rows: Int[np.ndarray, "T N"]) -> Measured:
    return np.sqrt(np.maximum((rows * rows).mean(axis=1) - rows.mean(axis=1) ** 2, 0))


def _cells(plane: np.ndarray) -> np.ndarray:
    """Whole blocks from the top left: frames, rows of blocks, rows, columns of blocks, columns."""
    high, wide = (side // BLOCK for side in plane.shape[1:])
    whole = plane[:, : high * BLOCK, : wide * BLOCK]
    return whole.reshape(len(plane), high, BLOCK, wide, BLOCK)


def _bands(luma: Frames) -> dict[str, Measured]:
    cells = _cells(luma).astype(np.float32)
    frames, high, _, wide, _ = cells.shape
    down = TRANSFORM @ cells.reshape(frames, high, BLOCK, wide * BLOCK)
    both = np.abs(down.reshape(frames, high, BLOCK, wide, BLOCK) @ TRANSFORM.T)
    # In float64 sums of so few whole numbers are exact.
    means = both.sum(axis=(1, 3), dtype=np.float64) / (high * wide)
    lengths = np.sqrt((TRANSFORM.astype(np.float64) ** 2).sum(axis=1))
    means /= np.outer(lengths, lengths)
    frequency = np.add.outer(np.arange(BLOCK), np.arange(BLOCK))
    found = {
        f"dct_{name}": np.log1p(means[:, (frequency >= first) & (frequency <= last)].mean(axis=1))
        for name, (first, last) in BANDS.items()
    }
    return {**found, "dct_slope": found["dct_highest"] - found["dct_low"]}


def _blur(luma: Frames) -> dict[str, Measured]:
    middle = luma[:, 1:-1, 1:-1]
    laplacian = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    laplacian -= 4 * middle
    wide = laplacian.astype(np.int32)
    variance = _mean(wide * wide) - _mean(wide) ** 2
    # A mean of three pixels in a row steps by a third of how the outer ones differ.
    blurred = np.log1p(_mean(np.abs(luma[:, :, 3:] - luma[:, :, :-3])) / 3)
    return {
        "sharpness": np.log1p(np.maximum(variance, 0)),
        "reblur": blurred - _size(np.diff(luma, axis=2)),
    }


def _grid(steps: Frames) -> Float64[np.ndarray, "T 8"]:
    """The mean step between columns, by the place of the columns in a grid of blocks."""
    profile = np.abs(steps).sum(axis=1, dtype=np.int64)
    by_place = [profile[:, place::BLOCK].mean(axis=1) for place in range(BLOCK)]
    return np.stack(by_place, axis=1) / steps.shape[1]


def _grid_contrast(grid: Float64[np.ndarray, "T 8"]) -> Measured:
    """How far the place with the largest steps stands out: a crop moves the grid."""
    largest = grid.max(axis=1)
    others = (grid.sum(axis=1) - largest) / (BLOCK - 1)
    return np.log1p(largest) - np.log1p(others)


def _pairs(
    luma: Frames, noise: Frames, grids: list[Float64[np.ndarray, "T 8"]]
) -> dict[str, Measured]:
    moved = np.abs(np.diff(luma, axis=0))
    shapes = [grid / (grid.sum(axis=1, keepdims=True) + 1 / BLOCK) for grid in grids]
    return {
        "motion": np.log1p(_mean(moved)),
        "still": _mean(moved == 0),
        "noise_kept": _correlation(noise),
        "grid_change": sum(np.abs(np.diff(shape, axis=0)).sum(axis=1) for shape in shapes),
    }


def _correlation(noise: Frames) -> Measured:
    """Of the noise of each frame with that of the next; 0 where there is none."""
    wide = noise.astype(np.int32)
    together = (wide[:-1] * wide[1:]).sum(axis=(1, 2), dtype=np.int64)
    alone = (wide * wide).sum(axis=(1, 2), dtype=np.int64).astype(np.float64)
    lengths = np.sqrt(alone[:-1] * alone[1:])
    return np.divide(together, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
