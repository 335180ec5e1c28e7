import numpy as np
import pytest
from jaxtyping import UInt8

from fvc.fingerprint import FRAME_BYTES, fingerprint, mirrored, remove_bars, unpack

Frames = UInt8[np.ndarray, "F H W"]


def scene(seed: int, num_frames: int = 6, side_px: int = 128) -> Frames:
    """Smooth blobs that drift: coarse structure, as photographs have."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side_px, 0:side_px] / side_px
    frames = np.zeros((num_frames, side_px, side_px))
    for _ in range(30):
        row, column, speed_row, speed_column, size, level = generator.uniform(-1, 1, 6)
        for number in range(num_frames):
            distance = (rows - 0.5 - row * 0.6 - speed_row * number / 40) ** 2
            distance = distance + (columns - 0.5 - column * 0.6 - speed_column * number / 40) ** 2
            frames[number] += level * np.exp(-distance / (0.005 + 0.03 * abs(size)))
    scaled = (frames - frames.min()) / np.ptp(frames)
    return (60 + 180 * scaled).astype(np.uint8)


def differing_bits(left: bytes, right: bytes) -> list[int]:
    return np.bitwise_count(unpack(left) ^ unpack(right)).sum(axis=-1).ravel().tolist()


@pytest.mark.parametrize("seed", range(5))
def test_brightness_noise_and_size_change_few_bits(seed: int) -> None:
    original = scene(seed)
    noise = np.random.default_rng(seed).normal(0, 4, original.shape)
    darker = np.clip(original * 0.7 + 25 + noise, 0, 255).astype(np.uint8)
    small = original[:, ::2, ::2]
    for copy in (darker, small):
        assert max(differing_bits(fingerprint(original), fingerprint(copy))) < 76
    strangers = differing_bits(fingerprint(original), fingerprint(scene(seed + 100)))
    assert min(strangers) > 76


@pytest.mark.parametrize("seed", range(5))
def test_the_middle_is_what_a_crop_shows(seed: int) -> None:
    original = scene(seed)
    margin = round(0.05 * 128)
    cropped = original[:, margin:-margin, margin:-margin]
    whole, middle = unpack(fingerprint(cropped))[:, 0], unpack(fingerprint(original))[:, 1]
    assert np.array_equal(whole, middle)


@pytest.mark.parametrize("seed", range(5))
def test_a_mirrored_hash_is_nearly_the_hash_of_the_mirrored_frame(seed: int) -> None:
    original = scene(seed)
    turned = unpack(mirrored(unpack(fingerprint(original))).tobytes())
    told = unpack(fingerprint(original[:, :, ::-1]))
    bits = np.bitwise_count(turned ^ told).sum(axis=-1)
    assert bits.max() <= 24, "of 256, where any other frame differs in about half"
    assert np.array_equal(mirrored(turned), unpack(fingerprint(original)))


def test_each_frame_is_hashed_by_itself() -> None:
    frames = scene(1)
    alone = [fingerprint(frame[None]) for frame in frames]
    assert b"".join(alone) == fingerprint(frames)
    assert fingerprint(frames[::-1]) == b"".join(alone[::-1])


def test_flat_frames_are_left_out() -> None:
    black = np.zeros((5, 128, 128), np.uint8)
    assert fingerprint(black) == b""
    assert fingerprint(np.full_like(black, 128)) == b""
    faded = np.concatenate([black, scene(0)])
    assert len(fingerprint(faded)) == 6 * FRAME_BYTES, "frames without contrast were kept"


def test_bars_are_removed_and_pictures_are_not() -> None:
    original = scene(3)
    boxed = np.pad(original, ((0, 0), (16, 16), (40, 8)))
    assert np.array_equal(remove_bars(boxed), original)
    assert np.array_equal(remove_bars(original), original)
    night = original // 16
    assert remove_bars(night).shape == night.shape, "a dark video was cut away"


def test_bars_with_text_are_removed() -> None:
    original = scene(4)
    boxed = np.pad(original, ((0, 0), (30, 30), (0, 0)))
    boxed[:, 8:22, 10:100:2] = 255
    boxed[:, -22:-8, 10:100:2] = 255
    assert np.array_equal(remove_bars(boxed), original)


def test_a_dark_scene_that_fades_is_not_cut_at_its_lights() -> None:
    """Its lamps are no text: nothing bright begins right behind the dark."""
    night = (scene(5) * np.linspace(0.05, 0.6, 128)[None, :, None]).astype(np.uint8)
    night[:, :4, 20:100] = 255
    assert np.array_equal(remove_bars(night), night)
