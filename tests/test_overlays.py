from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fvc.overlay import overlay
from fvc.report.overlays import ANIMATED_SIDE_PX, SMALL_BYTES, animation, jpeg


def clip(frames: int = 3, height: int = 24, width: int = 32) -> np.ndarray:
    shape = (frames, 3, height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_a_map_shows_where_it_is_and_leaves_the_rest_grey() -> None:
    values = np.zeros((3, 24, 32), np.float32)
    values[1, 4:8, 5:9] = 1
    found = overlay(clip(), values)
    colourful = (np.ptp(found.astype(int), axis=1) > 0) | (found.mean(1) > 170)
    assert np.array_equal(colourful, values > 0)


def test_the_picture_stays_visible_below_the_largest_value() -> None:
    found = overlay(clip(), np.ones((3, 24, 32), np.float32))
    grey = clip().mean(1)
    assert np.corrcoef(found.mean(1).ravel(), grey.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("height", "width"), [(24, 32), (480, 640), (300, 10)])
def test_panels_play_side_by_side_at_a_fixed_size(height: int, width: int) -> None:
    panel = clip(4, height, width)
    encoded = animation([panel, panel, panel])
    assert animation([panel, panel, panel]) == encoded
    with Image.open(BytesIO(encoded)) as image:
        assert getattr(image, "n_frames", 1) == 4
        assert max(image.height, (image.width - 12) // 3) == ANIMATED_SIDE_PX
        assert image.info["loop"] == 0


def test_a_single_frame_is_a_picture() -> None:
    with Image.open(BytesIO(animation([clip(1)]))) as image:
        assert image.size == (192, 144)


def test_a_long_animation_of_much_detail_is_kept_small() -> None:
    detail = clip(16, 224, 224) // 4 + 90
    assert len(animation([detail] * 3)) <= SMALL_BYTES


def test_figures_give_equal_bytes() -> None:
    figure = Figure((1, 1))
    figure.text(0.5, 0.5, "a")
    assert jpeg(figure) == jpeg(figure)
    assert jpeg(figure)[:2] == b"\xff\xd8"
