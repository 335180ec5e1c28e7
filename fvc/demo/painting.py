"""Colours, textures, light and noise, all in integers, so that equal seeds paint alike."""

import cv2
import numpy as np
from jaxtyping import Int16, UInt8

Colour = tuple[int, int, int]
Canvas = UInt8[np.ndarray, "H W 3"]
Noise = tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "S S 3"]]

NOISE_SIDE_PX = 512


def colour(generator: np.random.Generator, low: int = 40, high: int = 220) -> Colour:
    """Draw a muted colour of a brightness between two levels of 255."""
    return near((int(generator.integers(low, high)),) * 3, 24, generator)


def shade(base: Colour, percent: int) -> Colour:
    """Make a colour darker (below 100) or brighter."""
    red, green, blue = (min(255, part * percent // 100) for part in base)
    return red, green, blue


def near(base: Colour, spread: int, generator: np.random.Generator) -> Colour:
    """Draw a colour around another, each part at most so many levels away."""
    red, green, blue = (np.array(base) + generator.integers(-spread, spread + 1, size=3)).clip(
        0, 255
    )
    return int(red), int(green), int(blue)


def stretch(small: UInt8[np.ndarray, "..."], height: int, width: int) -> UInt8[np.ndarray, "..."]:
    """Resize smoothly, by OpenCV's interpolation that is the same on every processor."""
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)


def gradient(height: int, width: int, top: Colour, bottom: Colour) -> Canvas:
    """Fill a canvas from one colour to another, downwards."""
    return stretch(np.array([[top, top], [bottom, bottom]], np.uint8), height, width)


def texture(
    height: int, width: int, amplitude: int, generator: np.random.Generator
) -> Int16[np.ndarray, "H W"]:
    """Make value noise of four octaves, at most `amplitude` levels from zero."""
    total = np.zeros((height, width), np.int16)
    for octave in range(4):
        cells = 6 * 4**octave
        grid = generator.integers(0, 256, size=(cells * height // width + 2, cells), dtype=np.uint8)
        total += (stretch(grid, height, width).astype(np.int16) - 128) >> octave
    return ((total.astype(np.int32) * amplitude) // 240).astype(np.int16)


def roughen(
    canvas: Canvas, top: int, bottom: int, amplitude: int, generator: np.random.Generator
) -> None:
    """Add texture to the rows from `top` to `bottom`, in place."""
    if bottom <= top:
        return
    part = canvas[top:bottom]
    grain = texture(part.shape[0], part.shape[1], amplitude, generator)
    part[:] = (part.astype(np.int16) + grain[:, :, None]).clip(0, 255)


def illuminate(canvas: Canvas, generator: np.random.Generator) -> Canvas:
    """Cast light and shade over a canvas, in patches as large as a quarter of it."""
    height, width = canvas.shape[:2]
    grid = generator.choice(np.array([50, 85, 120, 145, 165], np.uint8), size=(5, 6))
    light = stretch(grid, height, width).astype(np.uint16)
    return ((canvas.astype(np.uint16) * light[:, :, None]) >> 7).clip(0, 255).astype(np.uint8)


def ridge(width: int, low: int, high: int, generator: np.random.Generator) -> list[int]:
    """Draw the height of a horizon or hill at every column, between two rows."""
    points = np.zeros(width, np.int64)
    for octave in range(3):
        grid = generator.integers(0, 256, size=(1, 4 * 2**octave + 1), dtype=np.uint8)
        points += stretch(grid, 1, width)[0].astype(np.int64) >> octave
    return [low + int(point) * (high - low) // 448 for point in points]


def fill_below(canvas: Canvas, rows: list[int], paint: Colour) -> None:
    """Fill everything below a ridge, in place."""
    height, width = canvas.shape[:2]
    outline = [[column, row] for column, row in enumerate(rows)]
    cv2.fillPoly(canvas, [np.array([*outline, [width, height], [0, height]], np.int32)], paint)


def box(canvas: Canvas, left: int, top: int, right: int, bottom: int, paint: Colour) -> None:
    """Fill a rectangle, in place; what lies outside the canvas is cut off."""
    canvas[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = paint


def sensor_noise(strength: int, generator: np.random.Generator, grain_px: int = 1) -> Noise:
    """Make a field of noise of roughly normal distribution, as what it adds and what it takes.

    Args:
        strength: Its standard deviation, in levels of 255.
        generator: Decides the field.
        grain_px: Side of the squares that have one value each.
    """
    shape = (4, *(-(-NOISE_SIDE_PX // grain_px),) * 2, 3)
    # Four uniform bytes have a sum of standard deviation 148.
    total = generator.integers(0, 256, size=shape, dtype=np.uint8).sum(axis=0, dtype=np.int32) - 510
    levels = (total * strength // 148).repeat(grain_px, axis=0).repeat(grain_px, axis=1)
    levels = levels[:NOISE_SIDE_PX, :NOISE_SIDE_PX]
    return levels.clip(0, 255).astype(np.uint8), (-levels).clip(0, 255).astype(np.uint8)


def add_noise(frame: Canvas, noise: Noise, number: int) -> Canvas:
    """Add another part of the noise to every frame."""
    height, width = frame.shape[:2]
    top = number * 101 % (NOISE_SIDE_PX - height)
    left = number * 57 % (NOISE_SIDE_PX - width)
    adds, takes = (field[top : top + height, left : left + width] for field in noise)
    return cv2.subtract(cv2.add(frame, adds), takes)
