"""What makes a fake: changes to the order of the frames and to their pixels, after the camera."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

import cv2
import numpy as np
from jaxtyping import Int64

from fvc.demo.motion import wander
from fvc.demo.painting import Canvas, add_noise, sensor_noise, stretch
from fvc.demo.sprites import KINDS, Sprite, draw_sprite, place

# So coarse that a clip of 64 pixels still shows it.
PATTERN_CELLS = 24

Generator = np.random.Generator
Order = Int64[np.ndarray, "F"]
"""Which frame of the footage each frame of the clip shows."""


def freeze(num_frames: int, generator: Generator) -> Order:
    """Hold one frame for about half of the clip."""
    order = np.arange(num_frames)
    length = num_frames * int(generator.integers(40, 61)) // 100
    start = int(generator.integers(num_frames - length + 1))
    order[start : start + length] = start
    return order


def repeat(num_frames: int, generator: Generator) -> Order:
    """Show a stretch of about a fifth of the clip three times in a row."""
    order = np.arange(num_frames)
    length = max(num_frames * int(generator.integers(15, 25)) // 100, 1)
    start = int(generator.integers(num_frames - 3 * length + 1))
    for again in (1, 2):
        order[start + again * length : start + (again + 1) * length] = order[start : start + length]
    return order


def retime(num_frames: int, generator: Generator) -> Order:
    """Let about half of the clip run at a quarter or at three times its speed."""
    length = num_frames * int(generator.integers(40, 51)) // 100
    start = int(generator.integers(num_frames - length + 1))
    steps = np.ones(num_frames, np.int64)
    if generator.integers(2):
        steps[start : start + length] = 3
    else:
        steps[start : start + length] = np.arange(length) % 4 == 0
    return np.cumsum(steps) - steps


class PixelChange(Protocol):
    """A manipulation of the frames of one clip, numbered as they are shown."""

    def __call__(self, frame: Canvas, number: int) -> Canvas:
        """Give the changed frame; the given one stays as it is."""


class Splice:
    """A thing from elsewhere, with another sensor's noise, that ignores how the camera moves."""

    def __init__(self, num_frames: int, height: int, width: int, generator: Generator) -> None:
        size = height * int(generator.integers(32, 46)) // 100
        kind = KINDS[generator.integers(len(KINDS))]
        self.sprite = draw_sprite(kind, size, generator)
        room = (max(width - self.sprite.covers.shape[1], 1), max(height - size, 1))
        self.path = wander(num_frames, room, generator)
        jitter = max(height // 80, 1)
        self.path += generator.integers(-jitter, jitter + 1, size=self.path.shape)
        self.noise = sensor_noise(int(generator.integers(18, 30)), generator)

    def __call__(self, frame: Canvas, number: int) -> Canvas:
        """Set the thing into the frame."""
        changed = frame.copy()
        noisy = add_noise(self.sprite.pixels, self.noise, number)
        left, top = self.path[number]
        place(changed, Sprite(noisy, self.sprite.covers), int(left), int(top))
        return changed


class Inpaint:
    """A hole filled with smears of what is around it, as removing a thing leaves it.

    Source:
        Telea, "An Image Inpainting Technique Based on the Fast Marching
        Method", 2004, as in `cv2.inpaint`; here at half the resolution.
    """

    def __init__(self, num_frames: int, height: int, width: int, generator: Generator) -> None:
        half = min(height, width) * int(generator.integers(22, 29)) // 100
        self.side = 2 * half
        self.path = wander(num_frames, (width - self.side, height - self.side), generator)
        self.hole = np.zeros((half, half), np.uint8)
        cv2.circle(self.hole, (half // 2, half // 2), half * 42 // 100, 255, -1)

    def __call__(self, frame: Canvas, number: int) -> Canvas:
        """Fill the hole."""
        changed = frame.copy()
        left, top = self.path[number]
        part = changed[top : top + self.side, left : left + self.side]
        half = self.side // 2
        filled = cv2.inpaint(stretch(part, half, half), self.hole, 3, cv2.INPAINT_TELEA)
        inside = np.kron(self.hole, np.ones((2, 2), np.uint8)) > 0
        part[inside] = stretch(filled, self.side, self.side)[inside]
        return changed


class Recompress:
    """A rectangle that went through JPEG at half the resolution and a very low quality."""

    def __init__(self, num_frames: int, height: int, width: int, generator: Generator) -> None:
        del num_frames
        high, wide = (side * int(generator.integers(50, 66)) // 200 * 2 for side in (height, width))
        top, left = int(generator.integers(height - high)), int(generator.integers(width - wide))
        self.region = np.s_[top : top + high, left : left + wide]
        self.quality = int(generator.integers(4, 10))

    def __call__(self, frame: Canvas, number: int) -> Canvas:
        """Compress the rectangle."""
        del number
        changed = frame.copy()
        part = changed[self.region]
        high, wide = part.shape[:2]
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.quality]
        _, packed = cv2.imencode(".jpg", stretch(part, high // 2, wide // 2), settings)
        unpacked = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        part[:] = cv2.resize(unpacked, (wide, high), interpolation=cv2.INTER_NEAREST_EXACT)
        return changed


class Refilm:
    """Filmed again off a screen, whose coarse pattern stays where it is while the scene moves."""

    def __init__(self, num_frames: int, height: int, width: int, generator: Generator) -> None:
        del num_frames
        grain_px = max(max(height, width) // PATTERN_CELLS, 1)
        self.pattern = sensor_noise(int(generator.integers(36, 52)), generator, grain_px)

    def __call__(self, frame: Canvas, number: int) -> Canvas:
        """Lay the pattern over the frame."""
        del number
        return add_noise(frame, self.pattern, 0)


IN_TIME: Mapping[str, Callable[[int, Generator], Order]] = MappingProxyType(
    {"freeze": freeze, "repeat": repeat, "retime": retime}
)
IN_SPACE: Mapping[str, Callable[[int, int, int, Generator], PixelChange]] = MappingProxyType(
    {"splice": Splice, "inpaint": Inpaint, "recompress": Recompress, "refilm": Refilm}
)
