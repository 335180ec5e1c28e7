"""A clip with a map of where the network looked laid over it: side by side, and moving."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from fvc.report.plots import DPI

ANIMATED_SIDE_PX = 192
"""Longer edge of each animated panel."""
GAP_PX = 6
FRAME_MS = 250
LAST_FRAME_MS = 750
"""So that the end is told from the beginning."""
QUALITY = 80
"""Of JPEG, which knows up to 100."""
QUALITIES = (80, 65, 50, 35, 20)
"""Of WebP, tried in turn until an animation is small enough; the last one stays."""
SMALL_BYTES = 300_000
"""A page holds several animations."""


def jpeg(figure: Figure) -> bytes:
    """A figure of photographs as a small file; equal figures give equal bytes."""
    file = BytesIO()
    figure.savefig(file, format="jpeg", dpi=DPI, pil_kwargs={"quality": QUALITY})
    return file.getvalue()


def animation(panels: Sequence[UInt8[np.ndarray, "T C H W"]]) -> bytes:
    """Clips of one shape side by side, played again and again, as WebP.

    Equal clips give equal bytes. Small frames are enlarged, large ones reduced,
    to the same size; of much detail, less is kept.
    """
    _, _, height, width = panels[0].shape
    scale = ANIMATED_SIDE_PX / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    frames = [_side_by_side(frames, size) for frames in zip(*panels, strict=True)]
    for quality in QUALITIES:
        encoded = _webp(frames, quality)
        if len(encoded) <= SMALL_BYTES:
            break
    return encoded


def _webp(frames: Sequence[Image.Image], quality: int) -> bytes:
    file = BytesIO()
    frames[0].save(
        file,
        format="webp",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS],
        loop=0,
        quality=quality,
    )
    return file.getvalue()


def _side_by_side(
    frames: Sequence[UInt8[np.ndarray, "C H W"]], size: tuple[int, int]
) -> Image.Image:
    width, height = size
    sheet = Image.new("RGB", (len(frames) * (width + GAP_PX) - GAP_PX, height), "white")
    for place, frame in enumerate(frames):
        image = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
        sheet.paste(image.resize(size, Image.Resampling.BICUBIC), (place * (width + GAP_PX), 0))
    return sheet
