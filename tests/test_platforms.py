from dataclasses import replace

import numpy as np
import pytest
from augmentation import CHANGES, only, smooth_clip, textured_clip

from fvc.config import AugmentConfig
from fvc.transforms import augment_clip


def overlay(height: float, opacity: float) -> AugmentConfig:
    return only(
        "overlay", min_height=height, max_height=height, min_opacity=opacity, max_opacity=opacity
    )


def recompression(crf: float) -> AugmentConfig:
    return only("recompression", min_crf=crf, max_crf=crf)


def loss(config: AugmentConfig, seed: int = 0) -> float:
    clip = textured_clip()
    result = augment_clip(clip, config, np.random.default_rng(seed))
    return float(np.abs(result.astype(int) - clip).mean())


@pytest.mark.parametrize("seed", range(8))
def test_an_overlay_changes_its_bar_alone(seed: int) -> None:
    clip = textured_clip(4, 100, 80)
    result = augment_clip(clip, overlay(0.2, 0.8), np.random.default_rng(seed))
    changed = (result != clip).any(axis=(0, 1, 3))
    at_top = changed[0]
    bar = slice(0, 20) if at_top else slice(80, 100)
    expected = np.zeros(100, bool)
    expected[bar] = True
    assert np.array_equal(changed, expected)


def test_overlays_are_at_the_top_and_at_the_bottom() -> None:
    clip = textured_clip()
    results = [
        augment_clip(clip, overlay(0.2, 1.0), np.random.default_rng(seed)) for seed in range(12)
    ]
    tops = [bool((result[..., 0, :] != clip[..., 0, :]).any()) for result in results]
    assert len(set(tops)) == 2


@pytest.mark.parametrize("seed", range(8))
def test_an_opaque_overlay_is_one_colour_with_strokes_in_another(seed: int) -> None:
    clip = textured_clip(2, 120, 160)
    result = augment_clip(clip, overlay(0.25, 1.0), np.random.default_rng(seed))
    rows = (result != clip).any(axis=(0, 1, 3))
    bar = result[0][:, rows].reshape(3, -1).T
    colours, counts = np.unique(bar, axis=0, return_counts=True)
    assert len(colours) == 2, "what is under the bar shines through"
    ink, paper = colours[np.argsort(counts)].astype(int)
    assert 0.02 < counts.min() / counts.sum() < 0.45
    assert set(ink.tolist()) in ({0}, {255})
    assert abs(ink.mean() - paper.mean()) >= 127, "the strokes cannot be seen"


@pytest.mark.parametrize("opacity", [0.25, 0.5, 0.75])
def test_opacity_is_the_share_of_the_bar_that_is_seen(opacity: float) -> None:
    clip = textured_clip(2, 120, 160)
    result = augment_clip(clip, overlay(0.25, opacity), np.random.default_rng(3))
    opaque = augment_clip(clip, overlay(0.25, 1.0), np.random.default_rng(3))
    rows = (opaque != clip).any(axis=(0, 1, 3))
    ink = np.isin(opaque[:, :, rows], (0, 255)).all(axis=1, keepdims=True)
    before, under, bar = (each[:, :, rows].astype(float) for each in (clip, result, opaque))
    expected = (1 - opacity) * before + opacity * bar
    error = np.abs(under - expected)[~np.broadcast_to(ink, under.shape)]
    assert error.max() <= 1


def test_a_bar_too_thin_for_a_pixel_is_none() -> None:
    clip = smooth_clip()
    result = augment_clip(clip, overlay(0.001, 1.0), np.random.default_rng(0))
    assert np.array_equal(result, clip)


def test_downscaling_loses_detail_and_keeps_brightness_and_place() -> None:
    clip = textured_clip()
    config = only("downscale", max_loss=0.6)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(6)]
    detail = [np.abs(np.diff(result.astype(int), axis=3)).mean() for result in (clip, *results)]
    assert max(detail) < 1.02 * detail[0]
    assert min(detail) < 0.7 * detail[0]
    assert all(abs(result.mean() - clip.mean()) < 0.5 for result in results)
    soft = smooth_clip()
    for seed in range(6):
        result = augment_clip(soft, config, np.random.default_rng(seed)).astype(int)
        assert np.abs(result - soft)[..., 3:-3, 3:-3].max() <= 2, "the picture moved"


def test_downscaling_keeps_no_more_detail_than_its_pixels_hold() -> None:
    clip = np.zeros((1, 3, 64, 64), np.uint8)
    clip[..., ::2] = 200
    clip[..., 1::2] = 20
    config = only("downscale", max_loss=0.95)
    results = [augment_clip(clip, config, np.random.default_rng(seed)) for seed in range(10)]
    swings = [float(np.ptp(result[..., 8:-8], axis=3).max()) for result in results]
    assert min(swings) < 20, "stripes of a pixel survive on a picture with fewer pixels"


def test_recompression_loses_more_at_higher_factors() -> None:
    losses = [loss(recompression(crf)) for crf in (15.0, 25.0, 35.0, 45.0)]
    assert losses == sorted(losses)
    assert 2 * losses[0] < losses[-1]


def test_the_factor_lies_in_its_range() -> None:
    config = only("recompression", min_crf=20.0, max_crf=30.0)
    least, most = loss(recompression(20.0)), loss(recompression(30.0))
    losses = [loss(config, seed) for seed in range(8)]
    assert least <= min(losses) < max(losses) <= most


def test_a_small_upload_is_encoded_small() -> None:
    """Encoded after it was made small: blocks of the codec grow with it when it is enlarged."""
    both = only("downscale", "recompression")
    both = replace(both, downscale=replace(both.downscale, max_loss=0.75))
    coarse = replace(both, recompression=replace(both.recompression, min_crf=45.0, max_crf=45.0))
    shrunk = replace(coarse, recompression=replace(coarse.recompression, probability=0.0))
    for seed in range(4):
        assert loss(coarse, seed) > loss(shrunk, seed)


@pytest.mark.parametrize("seed", range(3))
def test_equal_generators_give_equal_bytes_with_every_change(seed: int) -> None:
    clip = textured_clip(8, 65, 97)
    first, second = (
        augment_clip(clip, only(*CHANGES), np.random.default_rng(seed)) for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()
