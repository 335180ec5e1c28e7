from itertools import product

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from fvc.video.picture import Orientation, displayed_size, letterboxed, orientation, stretched_grey


def plain_frame(width: int, height: int, level: int = 200) -> VideoFrame:
    return VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), "rgb24")


@pytest.mark.parametrize("flags", list(product([False, True], repeat=3)))
def test_an_orientation_moves_pixels_as_its_flags_say(flags: tuple[bool, bool, bool]) -> None:
    transposed, rows_reversed, columns_reversed = flags
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turned = Orientation(*flags).apply(image)
    height, width = turned.shape
    for row, column in np.ndindex(height, width):
        y = height - 1 - row if rows_reversed else row
        x = width - 1 - column if columns_reversed else column
        assert turned[row, column] == (image[x, y] if transposed else image[y, x])


@pytest.mark.parametrize("quarters", range(4))
def test_the_rotation_of_an_orientation_is_clockwise(quarters: int) -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    turn = Orientation(quarters in (1, 3), quarters in (2, 3), quarters in (1, 2))
    assert turn.rotation_deg == 90 * quarters
    assert np.array_equal(turn.apply(image), np.rot90(image, -quarters))


def test_a_frame_without_a_display_matrix_is_upright() -> None:
    assert orientation(plain_frame(4, 4)) == Orientation(False, False, False)


@pytest.mark.parametrize(
    ("width", "height", "pixel_aspect", "expected"),
    [(64, 32, 1.0, (64, 32)), (33, 17, 2.0, (66, 17)), (720, 576, 16 / 15, (768, 576))],
)
def test_the_displayed_size_has_square_pixels(
    width: int, height: int, pixel_aspect: float, expected: tuple[int, int]
) -> None:
    assert displayed_size(plain_frame(width, height), pixel_aspect) == expected


@pytest.mark.parametrize(
    ("width", "height", "picture"),
    [(64, 32, (32, 64)), (32, 64, (64, 32)), (48, 48, (64, 64)), (1920, 16, (1, 64))],
)
def test_a_letterbox_keeps_the_shape_and_pads_with_black(
    width: int, height: int, picture: tuple[int, int]
) -> None:
    image = letterboxed(plain_frame(width, height), 1.0, (64, 64), VideoReformatter())
    lit = image.max(axis=2) > 100
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert (len(rows), len(columns)) == picture
    assert lit.sum() == picture[0] * picture[1], "the picture is no full rectangle"
    assert image[~lit].max(initial=0) == 0
    assert abs(int(rows[0]) - (63 - int(rows[-1]))) <= 1, "the picture is not in the middle"


def test_a_wide_pixel_widens_the_letterboxed_picture() -> None:
    image = letterboxed(plain_frame(32, 32), 2.0, (64, 64), VideoReformatter())
    assert (image.max(axis=2) > 100).sum() == 64 * 32


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuva420p", "gbrp"])
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_stay_so_in_every_pixel_format(pixel_format: str, level: int) -> None:
    frame = plain_frame(64, 64, level).reformat(format=pixel_format)
    image = letterboxed(frame, 1.0, (32, 32), VideoReformatter())
    assert image.min() == image.max() == level


def test_colours_keep_their_order() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    frame = VideoFrame.from_ndarray(red, "rgb24").reformat(format="yuv420p")
    image = letterboxed(frame, 1.0, (16, 16), VideoReformatter())
    assert image[..., 0].min() > 230
    assert image[..., 1:].max() < 20, "red and blue are exchanged"


def test_grey_frames_are_stretched_without_bars() -> None:
    image = stretched_grey(plain_frame(96, 32), 16, VideoReformatter())
    assert image.shape == (16, 16)
    assert image.min() > 150
