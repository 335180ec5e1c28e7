"""Optical flow between the frames of a clip, kept as clips are: as bytes."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

FLOW_VERSION = 1
"""Raised by every change that gives other bytes."""
LARGEST_PX = 20.0
"""What moves farther from one frame to the next is kept as if it moved so far.

Source:
    Wang et al., "Temporal Segment Networks", arXiv:1608.00859, whose flow is cut there, too.
"""
STILL = 128
"""The byte that stands for no movement, so that what stands still is kept exactly."""
STEPS = 127
"""Bytes on either side of it."""


def flow_between(
    first: UInt8[np.ndarray, "H W"], second: UInt8[np.ndarray, "H W"]
) -> Float32[np.ndarray, "2 H W"]:
    """How far, in pixels to the right and down, what is in one grey frame has moved in the next.

    Source:
        Kroeger et al., "Fast Optical Flow using Dense Inverse Search", arXiv:1603.03590, in
        OpenCV's medium preset.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # A field to begin with is asked for by type alone.
    moved = search.calc(first, second, np.zeros((*first.shape, 2), np.float32))
    return np.ascontiguousarray(moved.transpose(2, 0, 1))


def clip_flow(clip: UInt8[np.ndarray, "T 3 H W"]) -> UInt8[np.ndarray, "T 2 H W"]:
    """The flow from each frame of a clip to the next one, to the right and down.

    Nothing comes after the last frame, which has the flow of the one before
    it; a single frame stands still. Half a step of the bytes is 0.08 pixels.
    """
    # A worker has one core, and a training has other uses for its own.
    cv2.setNumThreads(1)
    rows = np.ascontiguousarray(clip.transpose(0, 2, 3, 1))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rows]
    kept = np.full((len(clip), 2, *clip.shape[2:]), STILL, np.uint8)
    for number in range(len(clip) - 1):
        kept[number] = as_bytes(flow_between(grey[number], grey[number + 1]))
    if len(clip) > 1:
        kept[-1] = kept[-2]
    return kept


def as_bytes(flow: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Keep movements, in pixels, as bytes."""
    steps = np.rint(flow * (STEPS / LARGEST_PX))
    return (np.clip(steps, -STEPS, STEPS) + STILL).astype(np.uint8)


def in_pixels(kept: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Undo `as_bytes`."""
    return (kept.astype(np.float32) - STILL) * np.float32(LARGEST_PX / STEPS)
