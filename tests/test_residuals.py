import cv2
import numpy as np
import pytest
from made_forensics import noisy, scene

from fvc.residuals import BLOCK, FEATURES, TRANSFORM, picture_of, residual_features


def measured(clip: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURES, residual_features(clip).tolist(), strict=True))


def recoded(clip: np.ndarray, quality: int) -> np.ndarray:
    """Each frame through JPEG."""
    frames = []
    for frame in clip.transpose(0, 2, 3, 1):
        _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
        frames.append(np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)))
    return np.stack(frames).transpose(0, 3, 1, 2)


def blurred(clip: np.ndarray) -> np.ndarray:
    frames = [cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in clip.transpose(0, 2, 3, 1)]
    return np.stack(frames).transpose(0, 3, 1, 2)


def barred(clip: np.ndarray, top: int, left: int) -> np.ndarray:
    frames, _, high, wide = clip.shape
    made = np.zeros((frames, 3, high + 2 * top, wide + 2 * left), np.uint8)
    made[:, :, top : top + high, left : left + wide] = clip
    return made


@pytest.mark.parametrize("seed", range(3))
def test_noise_raises_the_noise_residuals(seed: int) -> None:
    clean = scene(seed, high=48, wide=64)
    before, after = measured(clean), measured(noisy(clean))
    for name in ("noise", "noise_of_red", "noise_quiet", "third_down", "dct_highest"):
        assert after[f"{name}_mean"] > before[f"{name}_mean"] + 0.5, name
    assert after["flat_mean"] < before["flat_mean"]


@pytest.mark.parametrize("seed", range(3))
def test_blur_lowers_sharpness(seed: int) -> None:
    sharp = noisy(scene(seed, high=48, wide=64))
    before, after = measured(sharp), measured(blurred(sharp))
    assert after["sharpness_mean"] < before["sharpness_mean"] - 0.5
    assert after["reblur_mean"] > before["reblur_mean"], "blurred again, it loses no less"
    assert after["dct_slope_mean"] < before["dct_slope_mean"]


@pytest.mark.parametrize("cut", [0, 3])
def test_strong_compression_leaves_a_grid_wherever_it_was_cut(cut: int) -> None:
    clean = noisy(scene(0, high=96, wide=96), 3.0)
    before, after = measured(clean[..., cut:, cut:]), measured(recoded(clean, 8)[..., cut:, cut:])
    for name in ("grid_across_mean", "grid_down_mean"):
        assert after[name] > before[name] + 0.2, name


def test_noise_that_lies_still_is_told_from_noise_that_is_new() -> None:
    still = np.repeat(noisy(scene(0)[:1]), 4, axis=0)
    assert measured(still)["noise_kept_mean"] == pytest.approx(1)
    assert measured(still)["still_mean"] == 1
    assert abs(measured(noisy(np.repeat(scene(0)[:1], 4, axis=0)))["noise_kept_mean"]) < 0.3


def test_what_changes_from_frame_to_frame_is_seen() -> None:
    clean = scene(0)
    half = np.concatenate([clean[:2], noisy(clean)[2:]])
    before, after = measured(noisy(clean)), measured(half)
    assert after["noise_change"] > before["noise_change"] + 0.3
    assert after["noise_deviation"] > before["noise_deviation"] + 0.3


@pytest.mark.parametrize(("top", "left"), [(7, 0), (0, 5), (16, 16), (1, 3)])
def test_black_bars_change_nothing(top: int, left: int) -> None:
    clip = noisy(scene(1, high=24, wide=40))
    plain = residual_features(clip)
    assert np.array_equal(residual_features(barred(clip, top, left)), plain)
    rows, columns = picture_of(barred(clip, top, left))
    assert (rows, columns) == (slice(top, top + 24), slice(left, left + 40))


def test_a_dark_frame_is_no_bar() -> None:
    clip = noisy(scene(1))
    clip[0] = 0
    assert picture_of(clip) == (slice(0, 32), slice(0, 32))
    assert np.isfinite(residual_features(clip)).all()


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 3, 1, 32), (1, 3, 15, 64)])
def test_without_a_picture_nothing_is_measured(shape: tuple[int, ...]) -> None:
    black = np.zeros(shape, np.uint8)
    assert np.isnan(residual_features(black)).all()
    grey = black + np.uint8(90 if min(shape[2:]) < 16 else 0)
    assert np.isnan(residual_features(grey)).all()


@pytest.mark.parametrize("level", [1, 128, 255])
def test_a_picture_of_one_colour_has_finite_features(level: int) -> None:
    assert np.isfinite(residual_features(np.full((2, 3, 16, 17), level, np.uint8))).all()


def test_of_one_frame_only_what_changes_is_missing() -> None:
    missing = {
        name for name, value in measured(noisy(scene(0, frames=1))).items() if value != value
    }
    in_pairs = {name for name in FEATURES if name.startswith(("motion", "still", "noise_kept"))}
    changes = {name for name in FEATURES if "_change" in name}
    assert missing == in_pairs | changes


def test_a_clip_has_the_same_features_however_it_lies_in_memory() -> None:
    clip = noisy(scene(2, high=40, wide=24))
    other = np.ascontiguousarray(clip.transpose(3, 0, 2, 1)).transpose(1, 3, 2, 0)
    assert np.array_equal(residual_features(clip), residual_features(other))


def test_the_transform_is_a_cosine_transform() -> None:
    place, frequency = np.meshgrid(np.arange(BLOCK) + 0.5, np.arange(BLOCK))
    cosine = np.cos(np.pi * place * frequency / BLOCK)
    lengths = np.linalg.norm(TRANSFORM, axis=1) * np.linalg.norm(cosine, axis=1)
    assert (np.einsum("uj,uj->u", TRANSFORM, cosine) / lengths > 0.99).all()
    product = TRANSFORM @ TRANSFORM.T
    assert np.array_equal(product, np.diag(np.diag(product))), "bands would mix"


def test_each_number_has_a_name_of_its_own() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == len(residual_features(scene(0)))
