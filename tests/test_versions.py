"""Stored tensors are made anew only where a version says so: these tests say when to raise it."""

import io

import numpy as np
import pytest
from augmentation import CHANGES, only, textured_clip
from jaxtyping import UInt8
from settings import clips_config

from fvc.encoding import encode
from fvc.transforms import TRANSFORMS_VERSION, augmented_version
from fvc.video import PIXELS_VERSION, read_clips

KNOWN_PIXELS = {"version": 2, "letterbox": 7.0, "native": 66.7}
KNOWN_VERSIONS = {
    **{"version": 2, "rotation": -68.8, "affine": -87.3, "flip": -82.1, "crop": -83.5},
    **{"colour": -123.1, "noise": -103.5, "blur": -108.3, "cutout": -92.7, "elastic": -110.5},
    **{"overlay": -132.7, "downscale": -107.9, "recompression": -105.6, "drop": -112.6},
    **{"duplicate": -124.9, "reverse": -61.8},
}


def signature(pixels: UInt8[np.ndarray, "..."]) -> float:
    """One number that small differences between processors change little, and others much."""
    weights = np.random.default_rng(0).standard_normal(pixels.shape)
    return float((weights * pixels).sum() / np.sqrt(pixels.size))


@pytest.mark.parametrize("fit", ["letterbox", "native"])
def test_pixels_are_those_of_their_version(fit: str) -> None:
    video = io.BytesIO()
    # Lossless: the same from every encoder.
    frames = textured_clip(12, 48, 80).transpose(0, 2, 3, 1)
    encode(video, list(np.ascontiguousarray(frames)), codec="ffv1", container="mkv")
    clips = read_clips(video, clips_config(2, 4, 32, fit=fit))
    assert KNOWN_PIXELS["version"] == PIXELS_VERSION, "write down what the new version gives"
    assert signature(clips.pixels) == pytest.approx(KNOWN_PIXELS[fit], abs=0.3), (
        "read_clips gives other pixels: raise PIXELS_VERSION, or stored clips stay as they are"
    )


@pytest.mark.parametrize("change", CHANGES)
def test_augmented_versions_are_those_of_their_version(change: str) -> None:
    clips = textured_clip(8)[None]
    made = augmented_version(clips, "youtube_x", 0, only(change), seed=0)
    assert KNOWN_VERSIONS["version"] == TRANSFORMS_VERSION, "write down what the new one gives"
    assert signature(made) == pytest.approx(KNOWN_VERSIONS[change], abs=0.5), (
        "equal draws give other pixels: raise TRANSFORMS_VERSION, or stored versions stay"
    )
