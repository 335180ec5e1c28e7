"""Small things that move: painted once, then set into frame after frame."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from fvc.demo.painting import Canvas, box, colour, shade

KINDS = ("car", "person", "ball", "bird")
TRANSPARENT = (255, 0, 255)


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture and the pixels of it that cover what is behind."""

    pixels: UInt8[np.ndarray, "h w 3"]
    covers: Bool[np.ndarray, "h w"]


def draw_sprite(kind: str, size_px: int, generator: np.random.Generator) -> Sprite:
    """Paint one of `KINDS`, as high as `size_px` or, a car, twice as long."""
    size = max(size_px, 6)
    pixels = np.full((size, 2 * size if kind == "car" else size, 3), TRANSPARENT, np.uint8)
    paint = colour(generator, 60, 230)
    match kind:
        case "car":
            _car(pixels, size, paint)
        case "person":
            _person(pixels, size, paint, generator)
        case "ball":
            cv2.circle(pixels, (size // 2, size // 2), size // 2 - 1, paint, -1)
            cv2.circle(pixels, (size // 2, size // 2), size // 4, shade(paint, 45), -1)
        case _:
            _bird(pixels, size, shade(paint, 40))
    return Sprite(pixels, (pixels != TRANSPARENT).any(axis=2))


def _car(pixels: Canvas, size: int, paint: tuple[int, int, int]) -> None:
    box(pixels, size // 2, 0, size * 3 // 2, size // 2, shade(paint, 75))
    box(pixels, size * 6 // 10, size // 10, size * 14 // 10, size // 2, (190, 215, 225))
    box(pixels, 0, size * 4 // 10, 2 * size, size * 8 // 10, paint)
    for centre in (size * 4 // 10, size * 16 // 10):
        cv2.circle(pixels, (centre, size * 8 // 10), size // 5, (25, 25, 25), -1)


def _person(
    pixels: Canvas, size: int, paint: tuple[int, int, int], generator: np.random.Generator
) -> None:
    middle = size // 2
    box(pixels, middle - size // 7, size // 5, middle + size // 7, size * 6 // 10, paint)
    legs = colour(generator, 30, 110)
    box(pixels, middle - size // 8, size * 6 // 10, middle - size // 30, size, legs)
    box(pixels, middle + size // 30, size * 6 // 10, middle + size // 8, size, legs)
    cv2.circle(pixels, (middle, size // 9), size // 9, (214, 170, 140), -1)


def _bird(pixels: Canvas, size: int, paint: tuple[int, int, int]) -> None:
    wings = [
        [0, size // 4],
        [size // 2, size // 2],
        [size - 1, size // 4],
        [size // 2, size * 7 // 10],
    ]
    cv2.fillPoly(pixels, [np.array(wings, np.int32)], paint)
    cv2.circle(pixels, (size // 2, size * 6 // 10), max(size // 9, 1), paint, -1)


def place(frame: Canvas, sprite: Sprite, left: int, top: int) -> None:
    """Set a sprite into a frame, in place; what lies outside is cut off."""
    height, width = sprite.covers.shape
    rows = slice(max(top, 0), max(min(top + height, frame.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, frame.shape[1]), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    covers = sprite.covers[inside]
    frame[rows, columns][covers] = sprite.pixels[inside][covers]
