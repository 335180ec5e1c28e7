from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8

from fvc.config import AugmentConfig, load_params
from fvc.seeding import generator_for
from fvc.transforms import augment_clip, augmented_version, draw_order

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml").augment
CHANGES = [
    field.name for field in fields(AugmentConfig) if is_dataclass(getattr(COMMITTED, field.name))
]
IN_TIME = ["drop", "duplicate", "reverse"]
IN_SPACE = [name for name in CHANGES if name not in IN_TIME]

Clip = UInt8[np.ndarray, "T C H W"]


def only(*names: str, **settings: float) -> AugmentConfig:
    """The committed parameters, with these changes always made and all others never."""
    sections = {
        name: replace(getattr(COMMITTED, name), probability=float(name in names), **settings)
        if name in names
        else replace(getattr(COMMITTED, name), probability=0.0)
        for name in CHANGES
    }
    return replace(COMMITTED, **sections)


def smooth_clip(num_frames: int = 8, height: int = 48, width: int = 64) -> Clip:
    """Frames with soft colour gradients, each a little brighter than the one before."""
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([60 + rows, 60 + columns, 180 - rows])
    return np.stack([picture + 4 * number for number in range(num_frames)]).astype(np.uint8)


def still_clip(num_frames: int = 8) -> Clip:
    return np.repeat(smooth_clip(1), num_frames, axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_without_any_change_the_clip_stays(seed: int) -> None:
    clip = smooth_clip()
    assert np.array_equal(augment_clip(clip, only(), np.random.default_rng(seed)), clip)


@pytest.mark.parametrize("seed", range(5))
def test_equal_generators_give_equal_clips(seed: int) -> None:
    config = only(*CHANGES)
    first, second = (
        augment_clip(smooth_clip(), config, np.random.default_rng(seed)) for _ in range(2)
    )
    other = augment_clip(smooth_clip(), config, np.random.default_rng(seed + 100))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_changes_and_keeps_the_shape(name: str) -> None:
    clip = smooth_clip()
    before = clip.copy()
    results = [augment_clip(clip, only(name), np.random.default_rng(seed)) for seed in range(5)]
    assert all(result.shape == clip.shape for result in results)
    assert any(not np.array_equal(result, clip) for result in results)
    assert np.array_equal(clip, before), "the clip that was given is changed"


@pytest.mark.parametrize("name", [name for name in IN_SPACE if name != "noise"])
@pytest.mark.parametrize("seed", range(3))
def test_all_frames_change_alike(name: str, seed: int) -> None:
    result = augment_clip(still_clip(), only(name), np.random.default_rng(seed))
    assert all(np.array_equal(frame, result[0]) for frame in result)


@pytest.mark.parametrize("seed", range(3))
def test_all_changes_but_noise_together_keep_frames_alike(seed: int) -> None:
    config = only(*(name for name in IN_SPACE if name != "noise"))
    result = augment_clip(still_clip(), config, np.random.default_rng(seed))
    assert all(np.array_equal(frame, result[0]) for frame in result)


def test_flip_mirrors_exactly() -> None:
    clip = smooth_clip()
    flipped = augment_clip(clip, only("flip"), np.random.default_rng(0))
    assert np.array_equal(flipped, clip[..., ::-1])


@pytest.mark.parametrize("seed", range(5))
def test_rotation_keeps_the_centre_and_turns_by_no_more_than_asked(seed: int) -> None:
    clip = np.zeros((1, 3, 65, 65), np.uint8)
    clip[:, :, 32, :] = 255
    turned = augment_clip(clip, only("rotation"), np.random.default_rng(seed))[0, 0]
    assert turned[32, 32] > 200
    rows, columns = np.nonzero(turned > 100)
    inner = np.abs(columns - 32) > 10
    angles = np.degrees(np.arctan2(rows[inner] - 32, columns[inner] - 32))
    off = np.abs((angles + 90) % 180 - 90)
    assert np.median(off) <= COMMITTED.rotation.max_deg + 1


@pytest.mark.parametrize("seed", range(5))
def test_translation_moves_no_further_than_asked(seed: int) -> None:
    clip = np.zeros((1, 3, 64, 64), np.uint8)
    clip[:, :, 30:34, 30:34] = 255
    config = only("affine", scale=0.0, shear_deg=0.0, translation=0.1)
    moved = augment_clip(clip, config, np.random.default_rng(seed))[0, 0].astype(float)
    centre = [(moved.sum(axis=axis) @ np.arange(64)) / moved.sum() for axis in (1, 0)]
    assert np.abs(np.array(centre) - 31.5).max() <= 6.5
    assert moved.sum() == pytest.approx(16 * 255, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_scale_changes_areas_within_its_bounds(seed: int) -> None:
    clip = np.zeros((1, 3, 65, 65), np.uint8)
    clip[:, :, 17:48, 17:48] = 255
    config = only("affine", scale=0.2, shear_deg=0.0, translation=0.0)
    scaled = augment_clip(clip, config, np.random.default_rng(seed))[0, 0]
    assert 0.8**2 - 0.05 <= scaled.sum() / (31 * 31 * 255) <= 1.2**2 + 0.05


def test_brightness_multiplies_and_leaves_black_alone() -> None:
    clip = np.zeros((2, 3, 16, 16), np.uint8)
    clip[..., 8:] = 100
    config = only("colour", brightness=0.2, contrast=0.0, saturation=0.0, hue=0.0)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(10)]
    assert all(result[..., :8].max() == 0 for result in results)
    levels = {int(result[0, 0, 0, 15]) for result in results}
    assert min(levels) >= 80
    assert max(levels) <= 120
    assert len(levels) > 5


def test_contrast_keeps_the_mean() -> None:
    clip = smooth_clip()
    config = only("colour", brightness=0.0, contrast=0.3, saturation=0.0, hue=0.0)
    for seed in range(5):
        result = augment_clip(clip, config, np.random.default_rng(seed))
        luma = np.array([0.299, 0.587, 0.114])
        means = [float(luma @ frames.mean(axis=(0, 2, 3))) for frames in (clip, result)]
        assert means[0] == pytest.approx(means[1], abs=1.0)
        assert abs(result.std() / clip.std() - 1) <= 0.31


@pytest.mark.parametrize("setting", ["saturation", "hue"])
def test_grey_stays_grey(setting: str) -> None:
    clip = np.repeat(smooth_clip()[:, :1], 3, axis=1)
    amounts = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, setting: 0.3}
    result = augment_clip(clip, only("colour", **amounts), np.random.default_rng(1))
    assert np.abs(result.astype(int) - clip).max() <= 1


def test_hue_turns_red_towards_green_and_blue() -> None:
    clip = np.zeros((1, 3, 8, 8), np.uint8)
    clip[:, 0] = 200
    config = only("colour", brightness=0.0, contrast=0.0, saturation=0.0, hue=0.3)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(10)]
    assert any(result[0, 1].mean() > 30 for result in results)
    assert any(result[0, 2].mean() > 30 for result in results)


def test_noise_is_new_in_every_frame_and_has_no_more_deviation_than_asked() -> None:
    clip = np.full((16, 3, 64, 64), 128, np.uint8)
    result = augment_clip(clip, only("noise", max_std=8.0), np.random.default_rng(3))
    noise = result.astype(float) - 128
    assert 0.5 < noise.std() <= 8.0
    assert abs(noise.mean()) < 0.1
    correlation = np.corrcoef(noise.reshape(16, -1)) - np.eye(16)
    assert np.abs(correlation).max() < 0.05, "frames share their noise"
    # A normal distribution has a kurtosis of 3.
    assert (noise**4).mean() / noise.var() ** 2 == pytest.approx(3, abs=0.15)


def test_blur_smooths_without_moving_brightness() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    result = augment_clip(clip, only("blur", max_sigma_px=3.0), np.random.default_rng(1))
    assert result.std() < 0.7 * clip.std()
    assert result.mean() == pytest.approx(clip.mean(), abs=0.5)


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_out_is_one_rectangle_of_limited_area_in_the_mean_colour(seed: int) -> None:
    clip = smooth_clip()
    result = augment_clip(clip, only("cutout", max_share=0.2), np.random.default_rng(seed))
    rows, columns = np.nonzero((result != clip).any(axis=(0, 1)))
    assert len(rows) <= 0.2 * 1.1 * 48 * 64
    if len(rows):
        box = result[:, :, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.all(box == np.rint(clip.mean(axis=(0, 2, 3))).astype(int)[:, None, None])


def test_elastic_distortion_moves_pixels_no_further_than_asked() -> None:
    columns = np.tile(np.arange(64, dtype=np.uint8) * 3, (1, 3, 64, 1))
    for seed in range(5):
        result = augment_clip(
            columns, only("elastic", max_shift_px=2.0), np.random.default_rng(seed)
        )
        shift = (result.astype(int) - columns)[..., 4:-4] / 3
        assert 0 < np.abs(shift).max() <= 2.4


@pytest.mark.parametrize("num_frames", [1, 2, 8, 16])
@pytest.mark.parametrize("seed", range(5))
def test_dropped_frames_are_few_and_order_is_kept(num_frames: int, seed: int) -> None:
    order = draw_order(num_frames, only("drop", max_share=0.25), np.random.default_rng(seed))
    assert len(order) == num_frames
    assert np.all(np.diff(order) >= 0)
    num_dropped = num_frames - len(set(order.tolist()))
    assert (num_frames >= 4) <= num_dropped <= num_frames // 4


@pytest.mark.parametrize("seed", range(5))
def test_duplicated_frames_delay_those_after_them(seed: int) -> None:
    order = draw_order(16, only("duplicate", max_share=0.25), np.random.default_rng(seed))
    assert len(order) == 16
    assert order[0] == 0
    assert set(np.diff(order).tolist()) == {0, 1}
    assert 12 <= order[-1] + 1 <= 15


def test_reversal_shows_the_last_frame_first() -> None:
    clip = smooth_clip()
    assert np.array_equal(augment_clip(clip, only("reverse"), np.random.default_rng(0)), clip[::-1])


@pytest.mark.parametrize("seed", range(20))
def test_all_changes_in_time_together_show_existing_frames(seed: int) -> None:
    order = draw_order(8, only(*IN_TIME), np.random.default_rng(seed))
    assert len(order) == 8
    assert set(order.tolist()) <= set(range(8))
    assert np.all(np.diff(order) <= 0)


def test_how_often_a_change_is_made_is_its_probability() -> None:
    clip = smooth_clip(1, 16, 16)
    config = replace(only(), flip=replace(COMMITTED.flip, probability=0.3))
    changed = sum(
        not np.array_equal(augment_clip(clip, config, np.random.default_rng(seed)), clip)
        for seed in range(300)
    )
    assert 60 <= changed <= 120


def test_version_a_changes_clip_a_mod_n_with_its_own_seed() -> None:
    clips = np.stack([smooth_clip(), smooth_clip()[:, ::-1]])
    config = only(*CHANGES)
    for version in range(5):
        result = augmented_version(clips, "youtube_x", version, config, seed=7)
        generator = generator_for(7, "augment", "youtube_x", version)
        assert np.array_equal(result, augment_clip(clips[version % 2], config, generator))
