import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from settings import clips_config

from fvc.encoding import encode
from fvc.video import BEYOND_LIMITS, Limits, VideoError, decoding, read_clips

ENOUGH = Limits(max_duration_s=2.0, max_pixels=64 * 48, max_frames=20)


@pytest.fixture(scope="module")
def video() -> bytes:
    """Two seconds of twenty frames of 64 x 48."""
    file = io.BytesIO()
    encode(file, np.zeros((20, 48, 64, 3), np.uint8), fps=10)
    return file.getvalue()


def test_a_video_at_its_limits_is_decoded(video: bytes) -> None:
    assert len(read_clips(io.BytesIO(video), clips_config(1, 4, 16), ENOUGH).pixels) == 1


@pytest.mark.parametrize(
    ("tighter", "reason", "detail"),
    [
        ({"max_duration_s": 1.9}, "too_long", "2 s, above 1.9"),
        ({"max_pixels": 64 * 48 - 1}, "too_large", "frames of 64 x 48, above 0.003071 megapixels"),
        ({"max_frames": 19}, "too_many_frames", "above 19"),
    ],
)
def test_what_is_beyond_them_is_refused_before_a_frame_is_decoded(
    video: bytes,
    tighter: dict[str, Any],
    reason: str,
    detail: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(decoding, "take_planned", never)
    monkeypatch.setattr(decoding, "take_in_sequence", never)
    with pytest.raises(VideoError) as refused:
        read_clips(io.BytesIO(video), clips_config(1, 4, 16), replace(ENOUGH, **tighter))
    assert (refused.value.reason, refused.value.detail) == (reason, detail)
    assert reason in BEYOND_LIMITS


def test_a_length_that_only_decoding_tells_is_held_against_the_limit() -> None:
    """Raw H.264 says nothing of times, neither in a header nor in its packets."""
    file = io.BytesIO()
    encode(file, np.zeros((50, 48, 64, 3), np.uint8), fps=25, container="h264")
    config = clips_config(1, 4, 16)
    clips = read_clips(io.BytesIO(file.getvalue()), config, replace(ENOUGH, max_frames=50))
    assert clips.decoded_in_sequence, "its packets are believed"
    shorter = replace(ENOUGH, max_frames=50, max_duration_s=1.0)
    with pytest.raises(VideoError, match="above 1"):
        read_clips(io.BytesIO(file.getvalue()), config, shorter)


def test_frames_that_grow_in_the_middle_are_refused_as_soon_as_one_comes_out() -> None:
    """Its header and its first frame say nothing of the others."""
    small, large = io.BytesIO(), io.BytesIO()
    encode(small, np.zeros((10, 48, 64, 3), np.uint8), fps=10, container="mpegts")
    encode(large, np.zeros((10, 96, 128, 3), np.uint8), fps=10, container="mpegts")
    both = small.getvalue() + large.getvalue()
    config, enough = clips_config(1, 4, 16), replace(ENOUGH, max_duration_s=10.0)
    assert len(read_clips(io.BytesIO(small.getvalue()), config, enough).pixels) == 1
    with pytest.raises(VideoError, match="frames of 128 x 96, above"):
        read_clips(io.BytesIO(both), config, enough)


def test_a_frame_of_a_plan_is_held_against_the_limit(video: bytes) -> None:
    with decoding.opened(io.BytesIO(video)) as (container, stream):
        packets, _ = decoding.scan(container, stream)
        tight = replace(ENOUGH, max_pixels=64 * 48 - 1)
        frames = decoding.take_planned(
            container, stream, packets, [3], lambda frame, _: frame.to_ndarray(), tight
        )
        with pytest.raises(VideoError, match="frames of 64 x 48"):
            next(frames)
