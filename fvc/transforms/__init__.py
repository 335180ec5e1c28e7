"""Augmentation of a whole clip: one draw for all frames, few passes over the pixels."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator

from fvc.config import AugmentConfig
from fvc.seeding import generator_for
from fvc.transforms.drawing import Step, apply
from fvc.transforms.geometry import draw_warp, picture_area
from fvc.transforms.pixels import colour_of, draw_blur, draw_colour, draw_cutout, draw_noise
from fvc.transforms.platforms import draw_overlay, draw_upload
from fvc.transforms.timing import draw_order

__all__ = [
    "BLOCK_FRAMES",
    "TRANSFORMS_VERSION",
    "augment_clip",
    "augmented_version",
    "draw_order",
    "picture_area",
]

TRANSFORMS_VERSION = 2
"""To be raised when equal draws would give other pixels: stored versions are made anew."""

BLOCK_FRAMES = 16
"""Frames that are warped and blurred as channels of one picture. OpenCV reads the map, or the
kernel, once for all of them; from 16 channels on that is two to three times faster than frame
by frame, and it knows at most 128."""


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

    In the order in which it happens to a video, and each or not: one warp for
    rotation, affine map, flip, elastic distortion and crop; blur; one colour
    matrix; noise; cut-out; an overlay; downscaling and re-compression; and
    frames dropped, duplicated and reversed. All frames get the same draw,
    except for noise, which is new in every frame.

    The bars of a letterbox stay as they are, black and upright. Whoever turned,
    edited or uploaded a video did so before `read_clips` put it between bars,
    so everything happens to the picture between them; else the bars of training
    would not look like those the network meets when it is used.
    """
    chosen = config.at_strength()
    rows, columns = picture_area(clip)
    picture = np.ascontiguousarray(clip[:, :, rows, columns])
    height, width = picture.shape[2:]
    mean_colour = colour_of(picture)
    wide = [draw_warp(height, width, chosen, generator), draw_blur(chosen.blur, generator)]
    deep = [
        draw_colour(mean_colour, chosen.colour, generator),
        draw_noise(chosen.noise, generator),
        draw_cutout(height, width, mean_colour, chosen.cutout, generator),
        draw_overlay(height, width, chosen.overlay, generator),
    ]
    upload = draw_upload(height, width, chosen, generator)
    order = draw_order(len(clip), chosen, generator)
    if all(step is None for step in (*wide, *deep, upload)):
        return clip[order]
    frames = [cv2.merge([*planes]) for planes in _warped(picture, wide)]
    frames = [apply(deep, frame) for frame in frames]
    frames = frames if upload is None else upload(frames)
    changed = np.zeros_like(clip)
    for target, number in zip(changed, order, strict=True):
        for plane, result in zip(target, cv2.split(frames[number]), strict=True):
            plane[rows, columns] = result
    return changed


def _warped(
    picture: UInt8[np.ndarray, "T C H W"], steps: Sequence[Step | None]
) -> UInt8[np.ndarray, "T C H W"]:
    """What reads a map or a kernel, on many frames at once."""
    if all(step is None for step in steps):
        return picture
    num_channels, height, width = picture.shape[1:]
    size = BLOCK_FRAMES * num_channels
    planes = picture.reshape(-1, height * width)
    blocks = []
    for first in range(0, len(planes), size):
        # Planes to channels and back is a transposition, which OpenCV does ten times faster
        # than `merge` and `split`.
        block = cv2.transpose(planes[first : first + size]).reshape(height, width, -1)
        blocks.append(cv2.transpose(apply(steps, block).reshape(height * width, -1)))
    return np.concatenate(blocks).reshape(picture.shape)
