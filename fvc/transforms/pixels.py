"""Changes of what the pixels show, where they are: blur, colour, noise, cut-out."""

import math
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy.random import Generator

from fvc.config import BlurConfig, ColourConfig, NoiseConfig, ShareConfig
from fvc.seeding import generator_for
from fvc.transforms.drawing import Frame, Step, happens, symmetric

LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From RGB to where hue is an angle between the last two axes (NTSC, 1953)."""
MAX_CUTOUT_ASPECT = 2.0
NOISE_SAMPLES = 2**19
"""Each frame takes its noise from a random place of one long sequence; drawing it anew
would take longer than all other steps together."""
NOISE_UNIT = 32.0
"""Steps of that sequence in a standard deviation."""


def colour_of(picture: UInt8[np.ndarray, "T C H W"]) -> Float[np.ndarray, " C"]:
    """The mean colour of a clip."""
    planes = picture.reshape(-1, picture.shape[2] * picture.shape[3])
    # 32 bits hold the sum of a plane of 8 megapixels.
    sums = cv2.reduce(planes, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
    return sums.reshape(picture.shape[:2]).mean(axis=0) / planes.shape[1]


def draw_blur(config: BlurConfig, generator: Generator) -> Step | None:
    """Gaussian blur, of any number of channels."""
    if not happens(config.probability, generator):
        return None
    sigma = max(config.max_sigma_px * generator.uniform(), 0.1)
    return lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma)


def draw_colour(
    mean_colour: Float[np.ndarray, " C"], config: ColourConfig, generator: Generator
) -> Step | None:
    """One affine map of RGB: hue, saturation and brightness, then contrast about the mean."""
    if not happens(config.probability, generator):
        return None
    hue = 2 * math.pi * symmetric(config.hue, generator)
    saturation = 1 + symmetric(config.saturation, generator)
    brightness = 1 + symmetric(config.brightness, generator)
    contrast = 1 + symmetric(config.contrast, generator)
    turn = np.eye(3)
    cosine, sine = math.cos(hue), math.sin(hue)
    turn[1:, 1:] = [[cosine, -sine], [sine, cosine]]
    grey = np.tile(LUMA, (3, 1))
    matrix = (saturation * np.eye(3) + (1 - saturation) * grey) @ np.linalg.inv(YIQ) @ turn @ YIQ
    mean = brightness * float(LUMA @ mean_colour)
    offset = np.full((3, 1), (1 - contrast) * mean)
    affine = np.hstack([contrast * brightness * matrix, offset]).astype(np.float32)
    return lambda frame: cv2.transform(frame, affine)


def draw_noise(config: NoiseConfig, generator: Generator) -> Step | None:
    """Gaussian noise, from a new place of the noise sequence for every frame."""
    if not happens(config.probability, generator):
        return None
    std = config.max_std * generator.uniform()
    levels = np.rint(np.arange(-128, 128) * std / NOISE_UNIT)
    tables = [np.clip(side * levels, 0, 255).astype(np.uint8) for side in (1, -1)]
    sequences: list[UInt8[np.ndarray, " samples"]] = []

    def add_noise(frame: Frame) -> Frame:
        if not sequences:
            bank = _noise_bank(max(NOISE_SAMPLES, 2 ** math.ceil(math.log2(2 * frame.size))))
            sequences.extend(cv2.LUT(bank, table).ravel() for table in tables)
        start = int(generator.integers(0, len(sequences[0]) - frame.size))
        above, below = (each[start : start + frame.size] for each in sequences)
        # One of the two is 0 everywhere; each saturates, as a sensor does.
        brighter = cv2.add(frame, above.reshape(frame.shape))
        return cv2.subtract(brighter, below.reshape(frame.shape))

    return add_noise


@lru_cache(maxsize=4)
def _noise_bank(num_samples: int) -> UInt8[np.ndarray, " samples"]:
    """Normal noise in steps of a `NOISE_UNIT`th, 128 steps up."""
    noise = generator_for(0, "noise").standard_normal(num_samples, np.float32)
    return np.clip(np.rint(noise * NOISE_UNIT) + 128, 0, 255).astype(np.uint8)


def draw_cutout(
    height: int,
    width: int,
    mean_colour: Float[np.ndarray, " C"],
    config: ShareConfig,
    generator: Generator,
) -> Step | None:
    """A rectangle in the clip's mean colour.

    Source:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural
        Networks with Cutout", arXiv:1708.04552.
    """
    if not happens(config.probability, generator):
        return None
    area = config.max_share * generator.uniform() * height * width
    aspect = MAX_CUTOUT_ASPECT ** generator.uniform(-1, 1)
    tall = min(round(math.sqrt(area * aspect)), height)
    wide = min(round(math.sqrt(area / aspect)), width)
    top = int(generator.integers(0, height - tall, endpoint=True))
    left = int(generator.integers(0, width - wide, endpoint=True))
    patch = np.tile(np.rint(mean_colour).astype(np.uint8), (tall, wide, 1))

    def cut_out(frame: Frame) -> Frame:
        frame[top : top + tall, left : left + wide] = patch
        return frame

    return cut_out
