from dataclasses import fields, replace

import numpy as np
import pytest
from augmentation import (
    ALIKE,
    CHANGES,
    COMMITTED,
    IN_TIME,
    only,
    smooth_clip,
    still_clip,
    textured_clip,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.config.augmentation import LIMITS
from fvc.seeding import generator_for
from fvc.transforms import BLOCK_FRAMES, augment_clip, augmented_version, draw_order, picture_area

Shape = tuple[int, int, int, int]


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


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("seed", range(3))
def test_all_frames_change_alike(name: str, seed: int) -> None:
    result = augment_clip(still_clip(), only(name), np.random.default_rng(seed))
    assert all(np.array_equal(frame, result[0]) for frame in result)


@pytest.mark.parametrize("seed", range(3))
def test_changes_together_keep_frames_alike(seed: int) -> None:
    result = augment_clip(still_clip(), only(*ALIKE), np.random.default_rng(seed))
    assert all(np.array_equal(frame, result[0]) for frame in result)


def test_flip_mirrors_exactly() -> None:
    clip = smooth_clip()
    flipped = augment_clip(clip, only("flip"), np.random.default_rng(0))
    assert np.array_equal(flipped, clip[..., ::-1])


@pytest.mark.parametrize("seed", range(5))
def test_rotation_keeps_the_centre_and_turns_by_no_more_than_asked(seed: int) -> None:
    clip = np.full((1, 3, 65, 65), 9, np.uint8)
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
    clip = np.full((1, 3, 64, 64), 5, np.uint8)
    clip[:, :, 30:34, 30:34] = 255
    config = only("affine", scale=0.0, shear_deg=0.0, translation=0.1)
    moved = augment_clip(clip, config, np.random.default_rng(seed))[0, 0].astype(float) - 5
    centre = [(moved.sum(axis=axis) @ np.arange(64)) / moved.sum() for axis in (1, 0)]
    assert np.abs(np.array(centre) - 31.5).max() <= 6.5
    assert moved.sum() == pytest.approx(16 * 250, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_scale_changes_areas_within_its_bounds(seed: int) -> None:
    clip = np.full((1, 3, 65, 65), 5, np.uint8)
    clip[:, :, 17:48, 17:48] = 255
    config = only("affine", scale=0.2, shear_deg=0.0, translation=0.0)
    scaled = augment_clip(clip, config, np.random.default_rng(seed))[0, 0]
    area = (scaled.astype(float) - 5).sum() / 250
    assert 0.8**2 - 0.05 <= area / 31**2 <= 1.2**2 + 0.05


def test_brightness_multiplies_and_leaves_black_alone() -> None:
    clip = np.full((2, 3, 16, 16), 100, np.uint8)
    clip[..., 4:8] = 0
    config = only("colour", brightness=0.2, contrast=0.0, saturation=0.0, hue=0.0)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(10)]
    assert all(result[..., 4:8].max() == 0 for result in results)
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
    columns = np.tile(np.arange(64, dtype=np.uint8) * 3 + 9, (1, 3, 64, 1))
    config = only("elastic", max_shift_px=2.0)
    results = [augment_clip(columns, config, np.random.default_rng(seed)) for seed in range(5)]
    shifts = [np.abs((result.astype(int) - columns)[..., 4:-4]).max() / 3 for result in results]
    assert 1 < max(shifts) <= 2.4


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(64, 64), (40, 71)])
def test_crop_shows_a_window_of_the_same_aspect(size: tuple[int, int], seed: int) -> None:
    rows, columns = np.mgrid[: size[0], : size[1]]
    clip = np.stack([9 + 3 * rows, 9 + 3 * columns, 9 + rows])[None].astype(np.uint8)
    config = only("crop", max_share=0.3)
    result = augment_clip(clip, config, np.random.default_rng(seed))[0].astype(float)
    # Where the first and the last pixels of the result come from, in pixels of the clip.
    edges = [(result[0, [0, -1], 0] - 9) / 3, (result[1, 0, [0, -1]] - 9) / 3]
    scales = [np.ptp(edge) / (side - 1) for edge, side in zip(edges, size, strict=True)]
    assert scales[0] == pytest.approx(scales[1], abs=0.02), "the picture is stretched"
    assert 0.69 <= scales[0] <= 1
    for edge, side in zip(edges, size, strict=True):
        assert edge.min() >= -0.2
        assert edge.max() <= side - 0.8


def test_crop_looks_everywhere() -> None:
    clip = np.tile(np.arange(64, dtype=np.uint8) * 3 + 9, (1, 3, 64, 1))
    config = only("crop", max_share=0.3)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(40)]
    starts = [(int(result[0, 0, 0, 0]) - 9) / 3 for result in results]
    ends = [(int(result[0, 0, 0, -1]) - 9) / 3 for result in results]
    assert max(starts) > 10
    assert min(ends) < 53


BARS = [(8, 9, 0, 0), (0, 0, 5, 5), (3, 0, 0, 7)]


@pytest.mark.parametrize("bars", BARS, ids=["letterbox", "pillarbox", "any"])
@pytest.mark.parametrize("seed", range(3))
def test_the_bars_of_a_letterbox_stay_and_the_picture_changes_as_without(
    bars: tuple[int, int, int, int], seed: int
) -> None:
    picture = textured_clip()
    top, bottom, left, right = bars
    boxed = np.pad(picture, ((0, 0), (0, 0), (top, bottom), (left, right)))
    config = only(*CHANGES)
    expected = np.pad(
        augment_clip(picture, config, np.random.default_rng(seed)),
        ((0, 0), (0, 0), (top, bottom), (left, right)),
    )
    assert np.array_equal(augment_clip(boxed, config, np.random.default_rng(seed)), expected)


def test_what_is_bright_in_any_frame_is_no_bar() -> None:
    clip = np.zeros((3, 3, 20, 30), np.uint8)
    clip[1, 2, 4, 6] = 1
    clip[2, 0, 11, 21] = 1
    assert picture_area(clip) == (slice(4, 12), slice(6, 22))
    assert picture_area(0 * clip) == (slice(0, 20), slice(0, 30))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (7, 5), (127, 224), (224, 126)])
@pytest.mark.parametrize("num_frames", [1, 2, 17])
def test_any_size_and_length_will_do(size: tuple[int, int], num_frames: int) -> None:
    shape = (num_frames, 3, *size)
    clip = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    result = augment_clip(clip, only(*CHANGES), np.random.default_rng(1))
    assert result.shape == clip.shape
    assert result.dtype == np.uint8


def test_frames_beyond_a_block_change_as_those_in_it() -> None:
    clip = still_clip(BLOCK_FRAMES + 3)
    result = augment_clip(clip, only("rotation", "blur"), np.random.default_rng(0))
    assert all(np.array_equal(frame, result[0]) for frame in result)
    assert not np.array_equal(result, clip)


@given(data=st.data(), strength=st.floats(0, 20), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_strength_scales_every_range_up_to_its_limit(
    data: st.DataObject, strength: float, seed: int
) -> None:
    config = replace(COMMITTED, strength=strength)
    name = data.draw(st.sampled_from(CHANGES))
    before, after = (getattr(each, name) for each in (config, config.at_strength()))
    ranges = [field.name for field in fields(before) if field.name in LIMITS]
    for each in ranges:
        expected = min(strength * getattr(before, each), LIMITS[each])
        assert getattr(after, each) == pytest.approx(expected)
    chance = before.probability if ranges and strength else strength * before.probability
    assert after.probability == pytest.approx(min(chance, 1))
    assert config.at_strength().at_strength() == config.at_strength()
    small = smooth_clip(3, 12, 18)
    result = augment_clip(small, config, np.random.default_rng(seed))
    assert np.array_equal(
        result, augment_clip(small, config.at_strength(), np.random.default_rng(seed))
    )


@given(
    names=st.sets(st.sampled_from(CHANGES)),
    shape=st.tuples(st.integers(1, 5), st.just(3), st.integers(1, 20), st.integers(1, 20)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_strength_0_changes_nothing(names: set[str], shape: Shape, seed: int) -> None:
    clip = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    config = replace(only(*names), strength=0.0)
    assert np.array_equal(augment_clip(clip, config, np.random.default_rng(seed)), clip)


def test_strength_1_is_as_written() -> None:
    assert COMMITTED.strength == 1
    assert COMMITTED.at_strength() == COMMITTED


@pytest.mark.parametrize("name", ["rotation", "affine", "crop", "colour", "noise", "elastic"])
def test_more_strength_changes_more(name: str) -> None:
    clip = textured_clip()
    changes = []
    for strength in (0.25, 0.5, 1.0):
        config = replace(only(name), strength=strength)
        results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(4)]
        changes.append(np.abs(np.stack(results).astype(int) - clip).mean())
    assert 0 < changes[0] < changes[1] < changes[2]


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
