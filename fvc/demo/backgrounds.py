"""What is filmed: views of photographs, and painted scenes."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import cv2
import numpy as np

from fvc.demo.painting import (
    Canvas,
    box,
    colour,
    fill_below,
    gradient,
    illuminate,
    near,
    ridge,
    roughen,
    shade,
    stretch,
)
from fvc.demo.specifications import Footage

Generator = np.random.Generator
PHOTO_PLACES = 6


def paint_background(footage: Footage, *, height: int, width: int) -> Canvas:
    """Paint what a footage shows, in another layout and light for each footage.

    Args:
        footage: Its scene, variant and seed count.
        height: Of the canvas, in pixels; much larger than a frame.
        width: Of the canvas, in pixels.
    """
    generator = footage.generator("scene")
    if footage.scene == "photo":
        canvas = _photo(footage.variant, height, width, generator)
    else:
        canvas = PAINTERS[footage.scene](height, width, generator)
        _foreground(canvas, generator)
    if generator.integers(2):
        canvas = canvas[:, ::-1]
    return illuminate(canvas, generator)


@cache
def _photographs() -> tuple[Canvas, ...]:
    # A stage that paints nothing must not wait for scikit-learn.
    from sklearn.datasets import load_sample_images

    return tuple(load_sample_images().images)


def _photo(variant: int, height: int, width: int, generator: Generator) -> Canvas:
    """Cut one of 24 views out of a photograph; later variants cut another size."""
    photo = _photographs()[variant % 2]
    if variant // 2 % 2:
        photo = photo[::-1] if variant % 2 else photo[:, ::-1]
    round_, place = divmod(variant // 4, PHOTO_PLACES)
    share = (78, 64, 92)[round_ % 3]
    high = min(photo.shape[0] * share // 100, photo.shape[1] * share * height // (100 * width))
    wide = high * width // height
    top = (photo.shape[0] - high) * (place // 3)
    left = (photo.shape[1] - wide) * (1 + place % 3) // 4
    view = stretch(np.ascontiguousarray(photo[top : top + high, left : left + wide]), height, width)
    tint = generator.integers(190, 257, size=3).astype(np.uint16)
    return ((view * tint) >> 8).astype(np.uint8)


def _street(height: int, width: int, generator: Generator) -> Canvas:
    sky = colour(generator, 90, 240)
    canvas = gradient(height, width, sky, near(sky, 60, generator))
    ground = int(generator.integers(height * 55 // 100, height * 80 // 100))
    left = 0
    while left < width:
        right = left + int(generator.integers(width // 14, width // 5))
        top = int(generator.integers(height // 20, ground * 85 // 100))
        wall = colour(generator, 50, 200)
        box(canvas, left, top, right, ground, wall)
        _windows(canvas, (left, top, right, ground), wall, generator)
        left = right + int(generator.integers(0, width // 25))
    box(canvas, 0, ground, width, height, colour(generator, 50, 110))
    box(canvas, 0, ground, width, ground + height // 25, colour(generator, 130, 190))
    for mark in range(0, width, width // 9):
        box(
            canvas, mark, ground + height // 8, mark + width // 20, ground + height // 7, (225,) * 3
        )
    roughen(canvas, 0, height, 14, generator)
    return canvas


def _windows(
    canvas: Canvas,
    wall: tuple[int, int, int, int],
    paint: tuple[int, int, int],
    generator: Generator,
) -> None:
    left, top, right, bottom = wall
    step = int(generator.integers(canvas.shape[0] // 18, canvas.shape[0] // 9))
    lit, dark = shade(paint, 170), shade(paint, 45)
    for row in range(top + step // 2, bottom - step // 2, step):
        for column in range(left + step // 3, right - step // 2, step):
            glass = lit if generator.integers(3) == 0 else dark
            box(canvas, column, row, column + step // 2, row + step * 6 // 10, glass)


def _night(height: int, width: int, generator: Generator) -> Canvas:
    canvas = _street(height, width, generator) // 3
    for _ in range(int(generator.integers(9, 16))):
        centre = int(generator.integers(width)), int(generator.integers(height))
        glow = colour(generator, 120, 256)
        radius = int(generator.integers(height // 30, height // 7))
        cv2.circle(canvas, centre, radius, shade(glow, 60), -1)
        cv2.circle(canvas, centre, radius * 6 // 10, glow, -1)
    roughen(canvas, 0, height, 10, generator)
    return canvas


def _room(height: int, width: int, generator: Generator) -> Canvas:
    wall = colour(generator, 110, 230)
    canvas = np.full((height, width, 3), wall, np.uint8)
    stripe = int(generator.integers(width // 40, width // 12))
    for left in range(0, width, 2 * stripe):
        box(canvas, left, 0, left + stripe, height, near(wall, 25, generator))
    floor = int(generator.integers(height * 60 // 100, height * 85 // 100))
    box(canvas, 0, floor, width, height, colour(generator, 60, 150))
    for _ in range(int(generator.integers(4, 8))):
        left, top = int(generator.integers(width)), int(generator.integers(floor * 7 // 10))
        right = left + int(generator.integers(width // 12, width // 4))
        bottom = top + int(generator.integers(height // 10, height // 3))
        box(canvas, left, top, right, bottom, colour(generator, 20, 120))
        inner = height // 50
        view = colour(generator, 60, 256)
        box(canvas, left + inner, top + inner, right - inner, bottom - inner, view)
    for _ in range(3):
        left = int(generator.integers(width * 8 // 10))
        right, top = left + width // 5, floor - int(generator.integers(height // 12, height // 4))
        box(canvas, left, top, right, floor + height // 15, colour(generator, 30, 200))
    roughen(canvas, 0, height, 10, generator)
    return canvas


def _hills(height: int, width: int, generator: Generator) -> Canvas:
    canvas = gradient(height, width, colour(generator, 70, 200), colour(generator, 150, 250))
    sun = int(generator.integers(width)), int(generator.integers(height // 2))
    cv2.circle(canvas, sun, int(generator.integers(height // 20, height // 8)), (252, 240, 190), -1)
    base = near((95, 105, 70), 40, generator)
    top = int(generator.integers(height // 10, height // 2))
    for layer in range(4):
        low = top + (height - top) * layer // 5
        rows = ridge(width, low, min(low + height * 45 // 100, height), generator)
        fill_below(canvas, rows, near(shade(base, 140 - 25 * layer), 18, generator))
        for column in generator.integers(width, size=6 * layer):
            _tree(canvas, int(column), rows[column], generator)
    roughen(canvas, top, height, 34, generator)
    return canvas


def _tree(canvas: Canvas, column: int, row: int, generator: Generator) -> None:
    size = int(generator.integers(canvas.shape[0] // 30, canvas.shape[0] // 9))
    box(canvas, column - size // 8, row - size, column + size // 8, row + size // 4, (70, 50, 35))
    crown = near((40, 95, 40), 30, generator)
    cv2.circle(canvas, (column, row - size), size * 6 // 10, crown, -1)


def _market(height: int, width: int, generator: Generator) -> Canvas:
    canvas = gradient(height, width, colour(generator), colour(generator))
    rows = int(generator.integers(2, 4))
    for row in range(rows):
        left = -int(generator.integers(width // 8))
        while left < width:
            right = left + int(generator.integers(width // 8, width // 3))
            top = height * row // rows + int(generator.integers(height // 10))
            bottom = top + height // rows * 8 // 10
            box(canvas, left, top, right, bottom, colour(generator, 30, 110))
            awning, stripe = colour(generator, 70, 250), width // 50
            for edge in range(left, right, 2 * stripe):
                box(canvas, edge, top, min(edge + stripe, right), top + height // 9, awning)
            for _ in range(9):
                centre = int(generator.integers(left, right)), int(generator.integers(top, bottom))
                cv2.circle(canvas, centre, height // 45, colour(generator, 90, 250), -1)
            left = right + int(generator.integers(width // 40, width // 10))
    roughen(canvas, 0, height, 18, generator)
    return canvas


def _coast(height: int, width: int, generator: Generator) -> Canvas:
    canvas = gradient(height, width, colour(generator, 90, 230), colour(generator, 150, 255))
    horizon = int(generator.integers(height * 20 // 100, height * 60 // 100))
    sea = near((50, 110, 150), 40, generator)
    canvas[horizon:] = gradient(height - horizon, width, sea, shade(sea, 60))
    cliff = ridge(width // 2, horizon - height // 5, horizon + height // 4, generator)
    fill_below(canvas[:, : width // 2], cliff, colour(generator, 60, 160))
    roughen(canvas, horizon, height, 40, generator)
    for _ in range(5):
        left, top = int(generator.integers(width)), int(generator.integers(horizon, height))
        size = int(generator.integers(width // 25, width // 9))
        box(canvas, left, top, left + size, top + size // 4, colour(generator))
        sail = [[left + size // 3, top], [left + size // 3, top - size], [left + size, top]]
        cv2.fillPoly(canvas, [np.array(sail, np.int32)], colour(generator, 150, 256))
    beach = ridge(width, height * 70 // 100, height, generator)
    fill_below(canvas, beach, near((205, 185, 140), 25, generator))
    roughen(canvas, height * 70 // 100, height, 16, generator)
    return canvas


def _pitch(height: int, width: int, generator: Generator) -> Canvas:
    grass = near((60, 130, 60), 35, generator)
    canvas = np.full((height, width, 3), grass, np.uint8)
    band = int(generator.integers(width // 14, width // 6))
    for left in range(0, width, 2 * band):
        box(canvas, left, 0, left + band, height, shade(grass, 82))
    stand = int(generator.integers(height // 8, height * 45 // 100))
    crowd = generator.integers(30, 240, size=(stand // 12 + 1, width // 12 + 1, 3), dtype=np.uint8)
    canvas[:stand] = cv2.resize(crowd, (width, stand), interpolation=cv2.INTER_NEAREST_EXACT)
    box(canvas, 0, stand, width, stand + height // 12, colour(generator, 60, 250))
    for _ in range(4):
        centre = int(generator.integers(width)), int(generator.integers(stand, height))
        radius = int(generator.integers(height // 8, height // 3))
        cv2.circle(canvas, centre, radius, (235, 240, 235), height // 90)
    for column in generator.integers(width, size=3):
        box(canvas, int(column), stand, int(column) + width // 120, height, (235, 240, 235))
    roughen(canvas, stand, height, 22, generator)
    return canvas


def _foreground(canvas: Canvas, generator: Generator) -> None:
    """Put large things close to the camera, which no two scenes have at the same places."""
    height, width = canvas.shape[:2]
    for _ in range(int(generator.integers(1, 4))):
        left = int(generator.integers(width))
        size = int(generator.integers(width // 14, width // 6))
        match generator.integers(3):
            case 0:
                box(canvas, left, 0, left + size, height, colour(generator, 20, 90))
                box(canvas, left, 0, left + size // 6, height, colour(generator, 90, 130))
            case 1:
                top = int(generator.integers(height // 4, height * 3 // 4))
                box(canvas, left, top, left + 2 * size, height, colour(generator, 30, 200))
                box(
                    canvas, left, top, left + 2 * size, top + size // 8, colour(generator, 150, 240)
                )
            case _:
                centre = np.array([left, generator.integers(height)])
                for leaf in generator.integers(-size, size, size=(14, 2)):
                    paint = near((50, 85, 45), 28, generator)
                    cv2.circle(canvas, (centre + leaf).tolist(), size // 2, paint, -1)


PAINTERS: Mapping[str, Callable[[int, int, Generator], Canvas]] = MappingProxyType(
    {
        "street": _street,
        "night": _night,
        "room": _room,
        "hills": _hills,
        "market": _market,
        "coast": _coast,
        "pitch": _pitch,
    }
)
"""The painted scenes, by name."""
