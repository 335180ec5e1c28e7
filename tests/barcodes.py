"""Videos whose frames carry their own number, so that a wrong frame cannot go unseen."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from jaxtyping import UInt8
from settings import clips_config

from fvc import video
from fvc.config import ClipsConfig
from fvc.encoding import encode
from fvc.sampling import sample_frames
from fvc.video import Clips, picture, read_clips

SIDE_PX = 64
NUM_BITS = 12
CONFIG = clips_config(2, 5, SIDE_PX)


def barcodes(num_frames: int, quarters: int = 0) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """Frames that show their own number, turned by so many quarters counter-clockwise.

    Sixteen squares: 1 0, twelve bits of the number, 0 1; over a texture that
    moves, so that every frame depends on the ones it refers to.
    """
    texture = np.random.default_rng(0).integers(0, 60, (300, 300, 3), dtype=np.uint8)
    for number in range(num_frames):
        bits = [1, 0, *(number >> bit & 1 for bit in range(NUM_BITS)), 0, 1]
        squares = np.array(bits, np.uint8).reshape(4, 4).repeat(16, 0).repeat(16, 1)
        window = texture[2 * number % 200 :, number % 200 :][:SIDE_PX, :SIDE_PX]
        frame = 30 + 150 * squares[..., None] + window
        yield np.ascontiguousarray(np.rot90(frame, quarters))


def read_barcode(image: UInt8[np.ndarray, "3 H W"]) -> int:
    levels = image.mean(axis=0).reshape(4, 16, 4, 16).mean(axis=(1, 3)).ravel()
    bits = levels > 130
    assert bits[[0, 15]].all(), "the frame is not upright, or is none of the video's"
    assert not bits[[1, 14]].any(), "the frame is not upright, or is none of the video's"
    return int(sum(1 << bit for bit in range(NUM_BITS) if bits[2 + bit]))


def numbers_shown(clips: Clips) -> list[list[int]]:
    return [[read_barcode(image) for image in clip] for clip in clips.pixels]


def evenly_spaced(num_frames: int, config: ClipsConfig = CONFIG) -> list[list[int]]:
    boundaries = np.arange(num_frames + 1)
    return sample_frames(boundaries, config.num_clips, config.num_frames).tolist()


def barcode_video(num_frames: int = 50, **settings: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    quarters = -settings.get("rotation_deg", 0) // 90
    encode(buffer, barcodes(num_frames, quarters), **settings)
    return buffer


def in_sequence(
    source: io.BytesIO | Path, monkeypatch: pytest.MonkeyPatch, config: ClipsConfig = CONFIG
) -> Clips:
    with monkeypatch.context() as patched:
        patched.setattr(video, "distrust", lambda packets, clock: "a test wants it so")  # noqa: ARG005
        return read_clips(source, config)


def decoded_plainly(source: io.BytesIO, numbers: Sequence[int]) -> UInt8[np.ndarray, "F 3 H W"]:
    """These frames of a video, by decoding it from its start as PyAV's manual says."""
    source.seek(0)
    viewer, images = picture.Viewer(), {}
    with av.open(source, "r") as container:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            if number in numbers:
                shape = (SIDE_PX, SIDE_PX)
                images[number] = viewer.letterboxed(frame, 1.0, shape)
    return np.stack([images[number] for number in numbers]).transpose(0, 3, 1, 2)
