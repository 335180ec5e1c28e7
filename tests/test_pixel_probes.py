from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fvc.clip_files import save_clips
from fvc.errors import FvcError
from fvc.evidence.pixel_probes import (
    BAR_VALUES,
    FRAME_VALUES,
    SIDE,
    bar_features,
    frame_features,
    read_pixel_facts,
)

Image = np.ndarray


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A frame without a black pixel."""
    generator = np.random.default_rng(seed)
    return generator.integers(40, 256, (3, height, width), dtype=np.uint8)


def barred(frame: Image, *, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Image:
    changed = frame.copy()
    _, height, width = frame.shape
    changed[:, :top] = 0
    changed[:, height - bottom :] = 0
    changed[:, :, :left] = 0
    changed[:, :, width - right :] = 0
    return changed


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (112, 80), (50, 33)])
def test_the_frame_is_shrunk_by_means(size: tuple[int, int]) -> None:
    frame = picture(*size)
    found = frame_features(frame)
    assert found.shape == (FRAME_VALUES,)
    assert found[-3:] == pytest.approx(frame.mean(axis=(1, 2)) / 255)
    if size[0] % SIDE == size[1] % SIDE == 0:
        grey = frame.mean(axis=0)
        expected = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / 255
        assert found[:-3].reshape(SIDE, SIDE) == pytest.approx(expected)


def test_a_frame_smaller_than_the_grid_repeats_its_pixels() -> None:
    frame = np.full((3, 9, 5), 51, np.uint8)
    assert frame_features(frame) == pytest.approx(0.2)


def test_bars_are_measured_on_each_side() -> None:
    frame = barred(picture(40, 80), top=4, bottom=8, left=20, right=2)
    found = bar_features(frame[None])
    assert found.shape == (BAR_VALUES,)
    top, bottom, left, right, rows, row_place, columns, column_place = found
    assert (top, bottom, left, right) == pytest.approx((0.1, 0.2, 0.25, 0.025))
    assert (rows, columns) == pytest.approx((0.3, 0.275))
    assert row_place > 0.5 > column_place, "the bars lie mostly below, and left"


def test_without_bars_there_are_none() -> None:
    expected = [0, 0, 0, 0, 0, 0.5, 0, 0.5]
    assert bar_features(picture(32, 32)[None]) == pytest.approx(expected)


def test_a_bar_is_black_in_all_frames_and_a_dark_scene_is_none() -> None:
    frames = np.stack([np.zeros((3, 32, 32), np.uint8), picture(32, 32)])
    assert not bar_features(frames)[:4].any()
    noisy = barred(picture(32, 100), top=8)
    noisy[:, :8] += np.random.default_rng(0).integers(0, 12, (3, 8, 100), dtype=np.uint8)
    noisy[:, 3, 50] = 255
    assert bar_features(noisy[None])[0] == pytest.approx(0.25), "noise or a spot hid a bar"
    assert bar_features(np.zeros((1, 3, 8, 8), np.uint8))[:4] == pytest.approx(1.0)


def test_a_bar_between_two_pictures_is_seen() -> None:
    split = picture(30, 30)
    split[:, :, 12:18] = 0
    found = bar_features(split[None])
    assert found[:4] == pytest.approx(0)
    assert found[[6, 7]] == pytest.approx([0.2, 0.5])


def test_the_middle_frame_of_the_middle_clip_is_shown(tmp_path: Path) -> None:
    pixels = np.stack(
        [[picture(16, 16, 10 * clip + step) for step in range(5)] for clip in (0, 1, 2)]
    )
    save_clips(tmp_path / "a.pt", pixels, "key")
    save_clips(tmp_path / "b.pt", barred(pixels[0, 0], top=4)[None, None], "key")
    found = read_pixel_facts(["b", "a"], tmp_path)
    assert found["video_id"].to_list() == ["b", "a"]
    assert found["frame"].to_numpy()[1] == pytest.approx(frame_features(pixels[1, 2]))
    assert found["bars"].to_numpy()[0, 0] == 0.25


def test_what_is_no_clip_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(3, 4, dtype=torch.uint8), tmp_path / "flat.pt")
    with pytest.raises(FvcError, match=r"flat\.pt: holds \(3, 4\), no clips\. Delete it and run"):
        read_pixel_facts(["flat"], tmp_path)
    (tmp_path / "torn.pt").write_bytes(b"PK")
    with pytest.raises(FvcError, match=r"torn\.pt: is damaged"):
        read_pixel_facts(["torn"], tmp_path)
