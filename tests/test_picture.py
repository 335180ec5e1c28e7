from itertools import product

import numpy as np
import pytest
from av.video.frame import VideoFrame
from hypothesis import given
from hypothesis import strategies as st

from fvc.video.picture import (
    Orientation,
    Viewer,
    fitted,
    native_shape,
    orientation,
)


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
    assert Viewer().displayed_size(plain_frame(width, height), pixel_aspect) == expected


@pytest.mark.parametrize(
    ("width", "height", "picture"),
    [(64, 32, (32, 64)), (32, 64, (64, 32)), (48, 48, (64, 64)), (1920, 16, (1, 64))],
)
def test_a_letterbox_keeps_the_shape_and_pads_with_black(
    width: int, height: int, picture: tuple[int, int]
) -> None:
    image = Viewer().letterboxed(plain_frame(width, height), 1.0, (64, 64))
    lit = image.max(axis=2) > 100
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert (len(rows), len(columns)) == picture
    assert lit.sum() == picture[0] * picture[1], "the picture is no full rectangle"
    assert image[~lit].max(initial=0) == 0
    assert abs(int(rows[0]) - (63 - int(rows[-1]))) <= 1, "the picture is not in the middle"


def test_a_wide_pixel_widens_the_letterboxed_picture() -> None:
    image = Viewer().letterboxed(plain_frame(32, 32), 2.0, (64, 64))
    assert (image.max(axis=2) > 100).sum() == 64 * 32


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le", "yuva420p", "gbrp"])
@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_stay_so_in_every_pixel_format(pixel_format: str, level: int) -> None:
    frame = plain_frame(64, 64, level).reformat(format=pixel_format)
    image = Viewer().letterboxed(frame, 1.0, (32, 32))
    assert image.min() == image.max() == level


def test_colours_keep_their_order() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    frame = VideoFrame.from_ndarray(red, "rgb24").reformat(format="yuv420p")
    image = Viewer().letterboxed(frame, 1.0, (16, 16))
    assert image[..., 0].min() > 230
    assert image[..., 1:].max() < 20, "red and blue are exchanged"


def test_grey_frames_are_stretched_without_bars() -> None:
    image = Viewer().stretched_grey(plain_frame(96, 32), 16)
    assert image.shape == (16, 16)
    assert image.min() > 150


@pytest.mark.parametrize(
    ("size", "into", "box"),
    [
        ((320, 180), (64, 64), (14, 0, 36, 64)),
        ((180, 320), (64, 64), (0, 14, 64, 36)),
        ((180, 320), (36, 64), (0, 22, 36, 20)),
        ((320, 180), (64, 36), (22, 0, 20, 36)),
        ((64, 64), (36, 64), (0, 14, 36, 36)),
        ((1, 900), (36, 64), (0, 31, 36, 1)),
    ],
)
def test_a_picture_is_as_large_as_there_is_room(
    size: tuple[int, int], into: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    assert fitted(size, into) == box


@given(st.integers(1, 8000), st.integers(1, 8000), st.integers(16, 512))
def test_a_picture_fills_its_native_shape(width: int, height: int, longer_px: int) -> None:
    shape = native_shape((width, height), longer_px)
    assert max(shape) == longer_px
    assert fitted((width, height), shape) == (0, 0, *shape)


sizes = st.tuples(st.integers(1, 8000), st.integers(1, 8000))


@given(sizes, st.tuples(st.integers(1, 512), st.integers(1, 512)))
def test_a_picture_never_leaves_its_image(size: tuple[int, int], into: tuple[int, int]) -> None:
    box = fitted(size, into)
    assert min(box.top, box.left) >= 0
    assert box.top + box.height <= into[0]
    assert box.left + box.width <= into[1]
    assert box.height == into[0] or box.width == into[1], "there is room for a larger one"


ALPHA = ["rgba", "bgra", "rgba64le", "gbrap", "yuva420p", "yuva444p", "yuva420p10le", "ya8"]


@pytest.mark.parametrize("pixel_format", ALPHA)
def test_black_lies_behind_transparent_pixels(pixel_format: str) -> None:
    pixels = np.full((64, 96, 4), 200, np.uint8)
    pixels[..., 3] = np.repeat([255, 128, 0], 32)
    frame = VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pixel_format)
    image = Viewer().letterboxed(frame, 1.0, (64, 96))
    grey = Viewer().stretched_grey(frame, 96)
    for shown in (image, grey[..., None]):
        opaque, half, clear = (shown[8:56, 32 * k + 8 : 32 * k + 24] for k in range(3))
        assert np.abs(opaque.astype(int) - 200).max() <= 2
        assert np.abs(half.astype(int) - 100).max() <= 2
        assert clear.max() == 0, "the colour that transparent pixels happen to have is shown"


@pytest.mark.parametrize("pixel_format", ["rgba", "yuva420p", "yuva444p10le"])
def test_an_opaque_picture_is_the_same_with_alpha(pixel_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    opaque = pixel_format.replace("yuva", "yuv").replace("rgba", "rgb24")
    plain = VideoFrame.from_ndarray(noise, "rgb24").reformat(format=opaque)
    with_alpha = VideoFrame.from_ndarray(noise, "rgb24").reformat(format=pixel_format)
    images = [
        Viewer().letterboxed(frame, 1.0, (32, 32)).astype(int) for frame in (plain, with_alpha)
    ]
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize("matrix", range(18))
def test_a_colour_matrix_that_nobody_knows_is_no_reason_to_refuse(matrix: int) -> None:
    frame = plain_frame(32, 32).reformat(format="yuv420p")
    frame.colorspace = matrix
    image = Viewer().letterboxed(frame, 1.0, (16, 16))
    assert np.abs(image.astype(int) - 200).max() <= 2
