"""What social platforms and those who post there do to a video: captions, small sizes, codecs."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator

from fvc.config import AugmentConfig, OverlayConfig
from fvc.recompression import recompress
from fvc.transforms.drawing import Frame, Plane, Step, happens

LEAST_GLYPH_PX = 3
"""Smaller strokes would be a grey line."""
BRIGHT = 128
"""Ink on a bar is black from this mean level on."""

Upload = Callable[[list[Frame]], list[Frame]]


def draw_overlay(
    height: int, width: int, config: OverlayConfig, generator: Generator
) -> Step | None:
    """A bar along the top or the bottom with strokes like text, as captions and tickers have."""
    if not happens(config.probability, generator):
        return None
    thickness = round(height * generator.uniform(config.min_height, config.max_height))
    opacity = generator.uniform(config.min_opacity, config.max_opacity)
    colour = generator.integers(0, 256, 3, dtype=np.uint8)
    top = 0 if happens(0.5, generator) else height - thickness
    if not thickness:
        return None
    bar = np.tile(colour, (thickness, width, 1))
    ink = np.full_like(bar, 0 if colour.mean() >= BRIGHT else 255)
    strokes = _draw_strokes(thickness, width, generator)

    def cover(frame: Frame) -> Frame:
        covered = frame[top : top + thickness]
        blend = cv2.addWeighted(covered, 1 - opacity, bar, opacity, 0.0)
        covered[:] = cv2.copyTo(ink, strokes, blend)
        return frame

    return cover


def _draw_strokes(height: int, width: int, generator: Generator) -> Plane:
    """Marks of one or two lines of words, each glyph a few strokes, of no alphabet."""
    marks = np.zeros((height, width), np.uint8)
    num_lines = 1 if height < 10 * LEAST_GLYPH_PX else int(generator.integers(1, 3))
    tall = round(height * generator.uniform(0.45, 0.75) / num_lines)
    if tall < LEAST_GLYPH_PX:
        return marks
    wide = max(round(0.6 * tall), 2)
    thick = max(round(tall / 9), 1)
    for line in range(num_lines):
        top = (2 * line + 1) * height // (2 * num_lines) - tall // 2
        left, end = wide, width - wide - int(generator.integers(0, max(width // 3, 1)))
        while left + wide <= end:
            for _ in range(int(generator.integers(2, 9))):
                if left + wide > end:
                    break
                corners = generator.random((int(generator.integers(3, 6)), 2)) * [wide, tall]
                points = np.rint(np.add(corners, (left, top))).astype(np.int32)
                cv2.polylines(marks, [points], False, 255, thick)
                left += wide + thick + 1
            left += wide
    return marks


def draw_upload(
    height: int, width: int, config: AugmentConfig, generator: Generator
) -> Upload | None:
    """Downscaling and re-compression: made small, encoded like that, enlarged to be seen."""
    shrinks = happens(config.downscale.probability, generator)
    kept = 1 - shrinks * config.downscale.max_loss * generator.uniform()
    small = (max(round(width * kept), 1), max(round(height * kept), 1))
    encodes = happens(config.recompression.probability, generator)
    crf = generator.uniform(config.recompression.min_crf, config.recompression.max_crf)
    resizes = small != (width, height)
    if not resizes and not encodes:
        return None

    def upload(frames: list[Frame]) -> list[Frame]:
        if resizes:
            frames = [cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in frames]
        if encodes:
            frames = recompress(frames, crf)
        if resizes:
            full, how = (width, height), cv2.INTER_CUBIC
            frames = [cv2.resize(frame, full, interpolation=how) for frame in frames]
        return frames

    return upload
