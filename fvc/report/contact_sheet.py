"""Clips below each other in one picture, to look at."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from fvc.report.plots import CHANCE, DPI, INK

LABEL_PX = 260
HEAD_PX = 90
GAP_PX = 6
NAME_PX = 36
LEAST_FRAME_PX = 120
"""Smaller frames are enlarged by a whole factor, each pixel a square."""
MAX_FRAMES = 8
"""Of longer clips, as many are shown, evenly spaced, the first and the last among them."""


def contact_sheet(
    title: str, rows: Sequence[tuple[str, str, UInt8[np.ndarray, "T C H W"]]]
) -> Figure:
    """One row per clip, its frames side by side, each frame shown pixel by pixel.

    Args:
        title: Stands above.
        rows: Name, remark below it, and clip; all clips of one shape.
    """
    strips = [_strip(clip) for _, _, clip in rows]
    height, width = strips[0].shape[:2]
    full_height = HEAD_PX + len(rows) * (height + GAP_PX)
    full_width = LABEL_PX + width + GAP_PX
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)

    def write(left: int, top: int, text: str, colour: str = INK, **look: Any) -> None:
        across, up = left / full_width, 1 - top / full_height
        figure.text(across, up, text, color=colour, **look)

    write(GAP_PX, HEAD_PX // 2, title, size=11, weight="bold")
    numbers = _shown(len(rows[0][2]))
    for place, number in enumerate(numbers):
        middle = LABEL_PX + (2 * place + 1) * width // (2 * len(numbers))
        write(middle, HEAD_PX - 8, f"frame {number + 1}", CHANCE, size=9, ha="center")
    for row, ((name, remark, _), strip) in enumerate(zip(rows, strips, strict=True)):
        top = HEAD_PX + row * (height + GAP_PX)
        # Measured from the bottom, where figures have their origin.
        figure.figimage(strip, LABEL_PX, full_height - top - height)
        write(GAP_PX, top + NAME_PX, name, size=10, va="bottom")
        write(GAP_PX, top + NAME_PX, remark, CHANCE, size=7, va="top")
    return figure


def _shown(num_frames: int) -> list[int]:
    shown = min(num_frames, MAX_FRAMES)
    return np.rint(np.linspace(0, num_frames - 1, shown)).astype(int).tolist()


def _strip(clip: UInt8[np.ndarray, "T C H W"]) -> UInt8[np.ndarray, "h w C"]:
    zoom = math.ceil(LEAST_FRAME_PX / clip.shape[2])
    frames = clip[_shown(len(clip))].repeat(zoom, axis=2).repeat(zoom, axis=3)
    padded = np.pad(
        frames, ((0, 0), (0, 0), (0, 0), (0, GAP_PX)), mode="constant", constant_values=255
    )
    return np.ascontiguousarray(padded.transpose(2, 0, 3, 1)).reshape(padded.shape[2], -1, 3)
