"""Where each pixel of a changed frame comes from: all geometry in one look-up."""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy.random import Generator

from fvc.config import AugmentConfig, ElasticConfig
from fvc.transforms.drawing import Step, happens, symmetric

ELASTIC_STEP_PX = 4
"""The distortion is smooth, so a coarse grid holds it."""


def picture_area(clip: UInt8[np.ndarray, "T C H W"]) -> tuple[slice, slice]:
    """Rows and columns of the picture, without the bars that a letterbox put around it.

    Bars are black to the last level in all frames. So are borders that were
    part of a video, and edges that stay dark throughout: nothing is seen there
    that could be changed. All of a clip that is black throughout is picture.
    """
    brightest = clip.reshape(-1, *clip.shape[2:]).max(axis=0)
    rows, columns = (np.flatnonzero(brightest.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, clip.shape[2]), slice(0, clip.shape[3])
    top, bottom, left, right = (int(side) for line in (rows, columns) for side in line[[0, -1]])
    return slice(top, bottom + 1), slice(left, right + 1)


def draw_warp(height: int, width: int, config: AugmentConfig, generator: Generator) -> Step | None:
    """One look-up for all geometry, of any number of channels; mirrored beyond the edges."""
    matrix, shift = _draw_affine(height, width, config, generator)
    bends = happens(config.elastic.probability, generator)
    if not bends and not shift.any() and np.array_equal(matrix, np.eye(2)):
        return None
    centre = (np.array([width, height]) - 1) / 2
    columns, rows = np.arange(width) - centre[0], np.arange(height) - centre[1]
    starts = centre + shift
    sources = np.empty((2, height, width), np.float32)
    for axis in range(2):
        line = matrix[axis, 0] * columns + starts[axis]
        np.add.outer(matrix[axis, 1] * rows, line, out=sources[axis], casting="same_kind")
    if bends:
        sources += _draw_elastic(height, width, config.elastic, generator)
    # Fixed-point maps: computed once, read by every frame.
    pixels, fractions = cv2.convertMaps(sources[0], sources[1], cv2.CV_16SC2)
    border = cv2.BORDER_REFLECT_101
    return lambda frame: cv2.remap(frame, pixels, fractions, cv2.INTER_LINEAR, borderMode=border)


def _draw_affine(
    height: int, width: int, config: AugmentConfig, generator: Generator
) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, " 2"]]:
    """From the result to the source: a map about the centre, and a shift in pixels."""
    matrix, shift = np.eye(2), np.zeros(2)
    sides = np.array([width, height])
    if happens(config.rotation.probability, generator):
        matrix = _turn(math.radians(symmetric(config.rotation.max_deg, generator)))
    if happens(config.affine.probability, generator):
        shear = np.tan(np.radians(generator.uniform(-1, 1, 2) * config.affine.shear_deg))
        scale = 1 + symmetric(config.affine.scale, generator)
        matrix = np.array([[1, shear[0]], [shear[1], 1]]) @ matrix / scale
        shift = generator.uniform(-1, 1, 2) * config.affine.translation * sides
    if happens(config.flip.probability, generator):
        matrix = np.diag([-1.0, 1.0]) @ matrix
    # Of the picture that the changes before it leave, so it cuts what they put at the edges.
    if happens(config.crop.probability, generator):
        cut = config.crop.max_share * generator.uniform()
        shift += matrix @ (generator.uniform(-1, 1, 2) * cut / 2 * sides)
        matrix = matrix * (1 - cut)
    return matrix, shift


def _draw_elastic(
    height: int, width: int, config: ElasticConfig, generator: Generator
) -> Float32[np.ndarray, "2 H W"]:
    """A smooth random displacement in x and y, in pixels.

    Source:
        Simard et al., "Best Practices for Convolutional Neural Networks Applied
        to Visual Document Analysis", ICDAR 2003.
    """
    grid = (2, math.ceil(height / ELASTIC_STEP_PX), math.ceil(width / ELASTIC_STEP_PX))
    noise = generator.uniform(-1, 1, grid).astype(np.float32)
    sigma = max(config.smoothness * max(height, width) / ELASTIC_STEP_PX, 0.1)
    smooth = [cv2.GaussianBlur(axis, (0, 0), sigma) for axis in noise]
    full = np.stack([cv2.resize(axis, (width, height)) for axis in smooth])
    largest = config.max_shift_px * generator.uniform()
    return full * np.float32(largest / np.abs(full).max())


def _turn(angle_rad: float) -> Float[np.ndarray, "2 2"]:
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cosine, -sine], [sine, cosine]])
