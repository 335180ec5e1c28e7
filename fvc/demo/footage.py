"""What a camera saw: a moving, shaking view over a scene with moving things and sensor noise."""

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from fvc.demo.motion import cross, step_of, tremble, wander
from fvc.demo.painting import Canvas, stretch
from fvc.demo.scenes import paint_scene
from fvc.demo.specifications import Footage
from fvc.demo.sprites import KINDS, Sprite, draw_sprite, place
from fvc.seeding import generator_for

SCENE_SHORT_SIDE_PX = 720
# A scene has three times the frame's pixels along each side, and the camera sees two of them.
SCENE_SCALE, VIEW_SCALE = 3, 2
# A manipulation may show up to twice as much footage as the clip is long.
SPARE = 2
NOISE_SIDE_PX = 512

Path = Int64[np.ndarray, "S 2"]
Noise = tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S 3"]]


class Camera:
    """The untouched frames of one footage, each by its number, in any order."""

    def __init__(self, footage: Footage) -> None:
        self.footage = footage
        self.scene = _scene_of(footage)
        generator = generator_for(footage.seed, "camera")
        steps = step_of(SPARE * footage.num_frames, footage.fps) + 1
        room = (footage.width, footage.height)
        shake = tremble(steps, max(room) // 110 + 1, generator)
        self.path = (wander(steps, room, generator) + shake).clip(0, room)
        self.things = [self._thing(steps, number) for number in range(1 + generator.integers(3))]
        self.noise = sensor_noise(int(generator.integers(3, 8)), generator)

    def _thing(self, steps: int, number: int) -> tuple[Sprite, Path]:
        generator = generator_for(self.footage.seed, "thing", number)
        height, width = self.scene.shape[:2]
        kind = KINDS[generator.integers(len(KINDS))]
        sprite = draw_sprite(kind, int(generator.integers(height // 12, height // 6)), generator)
        speed = int(generator.integers(width // 12, width // 5))
        # It comes in from outside the scene rather than out of nothing.
        margin = sprite.covers.shape[1]
        high, low = (
            (height // 10, height // 2) if kind == "bird" else (height // 2, height * 4 // 5)
        )
        path = cross(steps, (width + margin, low - high), speed, generator)
        if generator.integers(2):
            path[:, 0] = width + margin - path[:, 0]
        return sprite, path + np.array([-margin, high])

    def frame(self, number: int) -> Canvas:
        """Take one frame.

        Args:
            number: In [0, 2 x num_frames): more was filmed than is shown.
        """
        step = step_of(number, self.footage.fps)
        left, top = self.path[step]
        height, width = self.footage.height, self.footage.width
        seen = np.s_[top : top + VIEW_SCALE * height, left : left + VIEW_SCALE * width]
        view = self.scene[seen].copy()
        for sprite, path in self.things:
            place(view, sprite, int(path[step][0] - left), int(path[step][1] - top))
        return add_noise(stretch(view, height, width), self.noise, number)


def sensor_noise(strength: int, generator: np.random.Generator) -> Noise:
    """Make a field of noise of roughly normal distribution, as what it adds and what it takes.

    Args:
        strength: Its standard deviation, in levels of 255.
        generator: Decides the field.
    """
    shape = (4, NOISE_SIDE_PX, NOISE_SIDE_PX, 3)
    # Four uniform bytes have a sum of standard deviation 148.
    total = generator.integers(0, 256, size=shape, dtype=np.uint8).sum(axis=0, dtype=np.int32) - 510
    levels = total * strength // 148
    return levels.clip(0, 255).astype(np.uint8), (-levels).clip(0, 255).astype(np.uint8)


def add_noise(frame: Canvas, noise: Noise, number: int) -> Canvas:
    """Add another part of the noise to every frame."""
    height, width = frame.shape[:2]
    top = number * 101 % (NOISE_SIDE_PX - height)
    left = number * 57 % (NOISE_SIDE_PX - width)
    adds, takes = (field[top : top + height, left : left + width] for field in noise)
    return cv2.subtract(cv2.add(frame, adds), takes)


def _scene_of(footage: Footage) -> Canvas:
    height, width = SCENE_SCALE * footage.height, SCENE_SCALE * footage.width
    short = min(height, width)
    painted = paint_scene(
        footage.scene,
        footage.variant,
        footage.seed,
        height=height * SCENE_SHORT_SIDE_PX // short,
        width=width * SCENE_SHORT_SIDE_PX // short,
    )
    return cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA)
