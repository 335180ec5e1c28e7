"""A background and the things that move before it, seen through a moving frame."""

import cv2
import numpy as np
from jaxtyping import Int64, UInt8

from fvc.demo.backgrounds import paint_background
from fvc.demo.motion import cross
from fvc.demo.specifications import Footage
from fvc.demo.sprites import KINDS, Sprite, draw_sprite, place

Path = Int64[np.ndarray, "S 2"]

SHORT_SIDE_PX = 720
"""In which backgrounds are painted, whatever their size in the end."""


class Scene:
    """All there is to be seen, at every step of time."""

    def __init__(self, footage: Footage, *, height: int, width: int, num_steps: int) -> None:
        short = min(height, width)
        painted = paint_background(
            footage, height=height * SHORT_SIDE_PX // short, width=width * SHORT_SIDE_PX // short
        )
        self.background = cv2.resize(painted, (width, height), interpolation=cv2.INTER_AREA)
        num_things = 1 + footage.generator("things").integers(3)
        self.things = [
            self._thing(footage.generator("thing", number), num_steps)
            for number in range(num_things)
        ]

    def _thing(self, generator: np.random.Generator, num_steps: int) -> tuple[Sprite, Path]:
        height, width = self.background.shape[:2]
        kind = KINDS[generator.integers(len(KINDS))]
        sprite = draw_sprite(kind, int(generator.integers(height // 12, height // 6)), generator)
        speed = int(generator.integers(width // 12, width // 5))
        # It comes in from outside the scene rather than out of nothing.
        margin = sprite.covers.shape[1]
        high, low = (10, 50) if kind == "bird" else (50, 80)
        room = (width + margin, (low - high) * height // 100)
        path = cross(num_steps, room, speed, generator)
        if generator.integers(2):
            path[:, 0] = width + margin - path[:, 0]
        return sprite, path + np.array([-margin, high * height // 100])

    def view(
        self, step: int, left: int, top: int, *, height: int, width: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Look at a part of the scene, which must lie within it, at one step of time."""
        seen = self.background[top : top + height, left : left + width].copy()
        for sprite, path in self.things:
            across, down = path[step].tolist()
            place(seen, sprite, across - left, down - top)
        return seen
