"""Augmentation of a whole clip: one draw for all frames, few passes over the pixels."""

import math
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, Int8, UInt8
from numpy.random import Generator

from fvc.config import AugmentConfig, ColourConfig, ElasticConfig, ShareConfig
from fvc.seeding import generator_for

TRANSFORMS_VERSION = 1
"""To be raised when equal draws would give other pixels: stored versions are made anew."""

LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in brightness (ITU-R BT.601)."""
YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""From RGB to where hue is an angle between the last two axes (NTSC, 1953)."""
MAX_CUTOUT_ASPECT = 2.0
ELASTIC_STEP_PX = 4
"""The distortion is smooth, so a coarse grid holds it."""
NOISE_SAMPLES = 2**20
"""Each frame takes its noise from a random place of one long sequence; drawing it anew
would take longer than all other steps together."""
NOISE_UNIT = 32.0
"""Steps of that sequence in a standard deviation."""

Frame = UInt8[np.ndarray, "H W C"]
Step = Callable[[Frame], Frame]


def augmented_version(
    clips: UInt8[np.ndarray, "N T C H W"],
    video_id: str,
    version: int,
    config: AugmentConfig,
    seed: int,
) -> UInt8[np.ndarray, "T C H W"]:
    """Make one version of a video, by the arguments alone: it changes clip `version` mod N.

    What is stored and what is made on the fly come from here: epoch e trains
    on versions e * A to e * A + A - 1, of which stage `augment` stores those of
    epoch 0.

    Args:
        clips: All clips of the video.
        video_id: The video's.
        version: At least 0, without end.
        config: What is changed.
        seed: Of the whole pipeline.
    """
    # One process per core is the parallelism; more threads would only compete.
    cv2.setNumThreads(1)
    generator = generator_for(seed, "augment", video_id, version)
    return augment_clip(clips[version % len(clips)], config, generator)


def augment_clip(
    clip: UInt8[np.ndarray, "T C H W"], config: AugmentConfig, generator: Generator
) -> UInt8[np.ndarray, "T C H W"]:
    """Change a clip at random; equal generators give equal clips.

    In this order, and each or not: one warp for rotation, affine map, flip and
    elastic distortion; one colour matrix; noise; blur; cut-out; and frames
    dropped, duplicated and reversed.
    """
    height, width = clip.shape[2:]
    steps = [
        _draw_warp(height, width, config, generator),
        _draw_colour(clip, config.colour, generator),
        _draw_noise(config, generator),
        _draw_blur(config, generator),
        _draw_cutout(clip, config.cutout, generator),
    ]
    order = draw_order(len(clip), config, generator)
    frames = []
    for planes in clip:
        frame = cv2.merge([*planes])
        for step in steps:
            frame = frame if step is None else step(frame)
        frames.append(np.stack(cv2.split(frame)))
    return np.stack([frames[number] for number in order])


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
    return order[::-1] if _happens(config.reverse.probability, generator) else order


def _happens(probability: float, generator: Generator) -> bool:
    return bool(generator.random() < probability)


def _draw_count(num_frames: int, config: ShareConfig, generator: Generator) -> int:
    largest = int(num_frames * config.max_share)
    if largest < 1 or not _happens(config.probability, generator):
        return 0
    return int(generator.integers(1, largest, endpoint=True))


def _draw_warp(height: int, width: int, config: AugmentConfig, generator: Generator) -> Step | None:
    """One look-up for all geometry: where each pixel of the result comes from."""
    matrix, shift = _draw_affine(config, generator)
    bends = _happens(config.elastic.probability, generator)
    if not bends and not shift.any() and np.array_equal(matrix, np.eye(2)):
        return None
    size = np.array([width, height])
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([columns, rows]).reshape(2, -1)
    centre = (size[:, None] - 1) / 2
    origins = matrix @ (places - centre) + centre + (shift * size)[:, None]
    sources = origins.reshape(2, height, width).astype(np.float32)
    if bends:
        sources += _draw_elastic(height, width, config.elastic, generator)
    # Fixed-point maps: computed once, read by every frame.
    pixels, fractions = cv2.convertMaps(sources[0], sources[1], cv2.CV_16SC2)
    border = cv2.BORDER_REFLECT_101
    return lambda frame: cv2.remap(frame, pixels, fractions, cv2.INTER_LINEAR, borderMode=border)


def _draw_affine(
    config: AugmentConfig, generator: Generator
) -> tuple[Float[np.ndarray, "2 2"], Float[np.ndarray, " 2"]]:
    """From places in the result to places in the source: about the centre, and a shift in sides."""
    matrix, shift = np.eye(2), np.zeros(2)
    if _happens(config.rotation.probability, generator):
        matrix = _turn(math.radians(_symmetric(config.rotation.max_deg, generator)))
    if _happens(config.affine.probability, generator):
        shear = np.tan(np.radians(generator.uniform(-1, 1, 2) * config.affine.shear_deg))
        scale = 1 + _symmetric(config.affine.scale, generator)
        matrix = np.array([[1, shear[0]], [shear[1], 1]]) @ matrix / scale
        shift = generator.uniform(-1, 1, 2) * config.affine.translation
    if _happens(config.flip.probability, generator):
        matrix = np.diag([-1.0, 1.0]) @ matrix
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


def _draw_colour(
    clip: UInt8[np.ndarray, "T C H W"], config: ColourConfig, generator: Generator
) -> Step | None:
    """One affine map of RGB: hue, saturation and brightness, then contrast about the mean."""
    if not _happens(config.probability, generator):
        return None
    hue = 2 * math.pi * _symmetric(config.hue, generator)
    saturation = 1 + _symmetric(config.saturation, generator)
    brightness = 1 + _symmetric(config.brightness, generator)
    contrast = 1 + _symmetric(config.contrast, generator)
    turn = np.eye(3)
    turn[1:, 1:] = _turn(hue)
    grey = np.tile(LUMA, (3, 1))
    matrix = (saturation * np.eye(3) + (1 - saturation) * grey) @ np.linalg.inv(YIQ) @ turn @ YIQ
    mean = brightness * float(LUMA @ clip.mean(axis=(0, 2, 3)))
    offset = np.full((3, 1), (1 - contrast) * mean)
    affine = np.hstack([contrast * brightness * matrix, offset]).astype(np.float32)
    return lambda frame: cv2.transform(frame, affine)


def _draw_noise(config: AugmentConfig, generator: Generator) -> Step | None:
    """Gaussian noise, from a new place of the noise sequence for every frame."""
    if not _happens(config.noise.probability, generator):
        return None
    std = config.noise.max_std * generator.uniform()

    def add_noise(frame: Frame) -> Frame:
        bank = _noise_bank(max(NOISE_SAMPLES, 4 * frame.size))
        start = int(generator.integers(0, len(bank) - frame.size))
        noise = bank[start : start + frame.size].reshape(frame.shape)
        return cv2.addWeighted(frame, 1.0, noise, std / NOISE_UNIT, 0.0, dtype=cv2.CV_8U)

    return add_noise


@lru_cache(maxsize=1)
def _noise_bank(num_samples: int) -> Int8[np.ndarray, " samples"]:
    noise = generator_for(0, "noise").standard_normal(num_samples, np.float32)
    return np.clip(np.rint(noise * NOISE_UNIT), -128, 127).astype(np.int8)


def _draw_blur(config: AugmentConfig, generator: Generator) -> Step | None:
    if not _happens(config.blur.probability, generator):
        return None
    sigma = max(config.blur.max_sigma_px * generator.uniform(), 0.1)
    return lambda frame: cv2.GaussianBlur(frame, (0, 0), sigma)


def _draw_cutout(
    clip: UInt8[np.ndarray, "T C H W"], config: ShareConfig, generator: Generator
) -> Step | None:
    """A rectangle in the clip's mean colour.

    Source:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural
        Networks with Cutout", arXiv:1708.04552.
    """
    if not _happens(config.probability, generator):
        return None
    area = config.max_share * generator.uniform() * clip.shape[2] * clip.shape[3]
    aspect = MAX_CUTOUT_ASPECT ** generator.uniform(-1, 1)
    height = min(round(math.sqrt(area * aspect)), clip.shape[2])
    width = min(round(math.sqrt(area / aspect)), clip.shape[3])
    top = int(generator.integers(0, clip.shape[2] - height, endpoint=True))
    left = int(generator.integers(0, clip.shape[3] - width, endpoint=True))
    colour = np.rint(clip.mean(axis=(0, 2, 3))).astype(np.uint8)

    def cut_out(frame: Frame) -> Frame:
        frame[top : top + height, left : left + width] = colour
        return frame

    return cut_out


def _symmetric(largest: float, generator: Generator) -> float:
    return largest * generator.uniform(-1, 1)


def _turn(angle_rad: float) -> Float[np.ndarray, "2 2"]:
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cosine, -sine], [sine, cosine]])
