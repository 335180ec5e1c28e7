"""What people do to a video before they post it again."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64, UInt8

from fvc.demo.painting import Canvas, box, stretch
from fvc.demo.specifications import Video

Resized = UInt8[np.ndarray, "h w 3"]

MIN_SIDE_PX = 96
TRIM_PERCENT = 12
DROPPED_PERCENT = 25


def timeline(video: Video) -> tuple[Int64[np.ndarray, "F"], list[float] | None]:
    """Choose the original's frames that a copy holds, and when each is shown.

    Returns:
        Their numbers, and their times in seconds where the rate is variable.
    """
    total = video.footage.num_frames
    start, end = 0, total
    if "trim" in video.edits:
        cuts = video.generator("trim").integers(TRIM_PERCENT + 1, size=2)
        start, end = total * int(cuts[0]) // 100, total - total * int(cuts[1]) // 100
    step = video.footage.fps / video.fps
    numbers = np.array([start + int(row * step) for row in range(-(-(end - start) // step))])
    if video.one_frame:
        return numbers[:1], None
    if not video.variable_rate:
        return numbers, None
    kept = video.generator("dropped").integers(100, size=len(numbers)) >= DROPPED_PERCENT
    kept[0] = True
    rows = np.flatnonzero(kept)
    return numbers[rows], [float(row / video.fps) for row in rows.tolist()]


def crop(frame: Canvas, *, video: Video) -> Resized:
    """Cut away a few percent at each side."""
    height, width = frame.shape[:2]
    top, bottom, left, right = video.generator("crop").integers(0, 4, size=4).tolist()
    return frame[
        height * top // 100 : height - height * bottom // 100,
        width * left // 100 : width - width * right // 100,
    ]


def brightness(frame: Canvas, *, video: Video) -> Canvas:
    """Make all darker or brighter, by up to a third."""
    percent = video.generator("brightness").choice([70, 80, 120, 130])
    return (frame.astype(np.uint16) * percent // 100).clip(0, 255).astype(np.uint8)


def watermark(frame: Canvas, *, video: Video) -> Canvas:
    """Set a page's half-transparent mark into a corner."""
    height, width = frame.shape[:2]
    generator = video.generator("watermark")
    mark = np.zeros((height // 10, height * 3 // 10, 3), np.uint8)
    for number in range(6):
        left = mark.shape[1] * number // 6
        tall = int(generator.integers(mark.shape[0] // 2, mark.shape[0] + 1))
        box(mark, left, mark.shape[0] - tall, left + mark.shape[1] // 9, mark.shape[0], (255,) * 3)
    marked = frame.copy()
    row, column = generator.integers(2, size=2)
    top = height // 30 if row else height - height // 30 - mark.shape[0]
    left = width // 30 if column else width - width // 30 - mark.shape[1]
    corner = marked[top : top + mark.shape[0], left : left + mark.shape[1]]
    corner[:] = corner // 2 + mark // 2
    return marked


def scale(frame: Canvas, *, video: Video) -> Resized:
    """Resize, but not to less than a thumbnail."""
    height, width = frame.shape[:2]
    percent = max(video.scale_percent, -(-100 * MIN_SIDE_PX // min(height, width)))
    return stretch(frame, height * percent // 100, width * percent // 100)


def letterbox(frame: Canvas, *, video: Video) -> Resized:
    """Add black bars, above and below or at the sides, of a tenth to a fifth of the frame."""
    height, width = frame.shape[:2]
    generator = video.generator("letterbox")
    share = int(generator.integers(10, 21))
    bars = (0, width * share // 100) if generator.integers(2) else (height * share // 100, 0)
    return np.pad(frame, ((bars[0], bars[0]), (bars[1], bars[1]), (0, 0)))


EDITS: Mapping[str, Callable[..., Canvas]] = MappingProxyType(
    {
        "crop": crop,
        "brightness": brightness,
        "watermark": watermark,
        "scale": scale,
        "letterbox": letterbox,
    }
)
"""All that change pixels; `trim` changes the timeline."""


def edited(frame: Canvas, video: Video) -> Resized:
    """Make all the edits of a copy to one frame, as it is displayed."""
    for name in video.edits:
        if name in EDITS:
            frame = EDITS[name](frame, video=video)
    return _fitted(frame, video)


def _fitted(frame: Canvas, video: Video) -> Resized:
    """Resize by at most a pixel, to sides that are odd or even as planned."""
    height, width = (side | 1 if video.odd_size else side & ~1 for side in frame.shape[:2])
    if (height, width) == frame.shape[:2]:
        return frame
    return stretch(np.ascontiguousarray(frame), height, width)
