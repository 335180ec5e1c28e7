import io
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from jaxtyping import UInt8

from fvc.encoding import encode

KINDS: list[dict[str, Any]] = [
    {},
    {"container": "mkv", "sound": True},
    {"pixel_format": "yuv420p10le"},
    {"codec": "libx265"},
    {"codec": "libx265", "container": "mkv", "pixel_format": "yuv420p10le"},
    {"codec": "libvpx-vp9", "container": "webm", "sound": True},
    {"codec": "libsvtav1", "container": "webm"},
    {"codec": "mpeg4", "container": "mkv"},
    {"rotation_deg": 90, "fps": Fraction(30000, 1001)},
]


def moving_picture(
    num_frames: int, height: int = 96, width: int = 128
) -> list[UInt8[np.ndarray, "H W 3"]]:
    grid = np.random.default_rng(0).integers(0, 256, size=(20, 20, 3), dtype=np.uint8)
    scene = cv2.resize(grid, (320, 320), interpolation=cv2.INTER_LINEAR_EXACT)
    return [scene[row : row + height, 2 * row : 2 * row + width] for row in range(num_frames)]


def packed(frames: Iterable[UInt8[np.ndarray, "H W 3"]], **settings: Any) -> io.BytesIO:
    target = io.BytesIO()
    encode(target, frames, **settings)
    target.seek(0)
    return target


def decoded(source: io.BytesIO) -> list[av.VideoFrame]:
    with av.open(source, "r") as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_equal_frames_give_equal_bytes(settings: dict[str, Any]) -> None:
    files = {packed(moving_picture(30), **settings).getvalue() for _ in range(3)}
    assert len(files) == 1, "the demo corpus would differ from the one that dvc.lock names"


def test_h264_does_not_depend_on_what_the_processor_can_do() -> None:
    # With x264's macroblock tree, about every fifth of these differs where there is AVX-512.
    frames = moving_picture(50, height=128, width=160)
    assert len({packed(frames).getvalue() for _ in range(40)}) == 1


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_what_is_encoded_can_be_decoded(settings: dict[str, Any]) -> None:
    frames = moving_picture(30)
    shown = decoded(packed(frames, **settings))
    assert len(shown) == len(frames)
    for given, got in zip(frames, shown, strict=True):
        error = np.abs(got.to_ndarray(format="rgb24").astype(int) - given).mean()
        assert error < 16, "the file shows something else than what was encoded"


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libsvtav1"])
def test_each_frame_is_shown_at_its_time(codec: str) -> None:
    times_s = [0.0, 0.04, 0.05, 0.2, 0.233, 1.0]
    shown = decoded(packed(moving_picture(6), codec=codec, times_s=times_s))
    assert [frame.time for frame in shown] == pytest.approx(times_s, abs=1e-3)


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_players_turn_the_picture_counter_clockwise(rotation_deg: int, tmp_path: Path) -> None:
    frames = moving_picture(5)
    encode(tmp_path / "video.mp4", frames, rotation_deg=rotation_deg)
    player = cv2.VideoCapture(str(tmp_path / "video.mp4"))
    _, shown = player.read()
    expected = np.rot90(frames[0], rotation_deg // 90)[:, :, ::-1]
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 16


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
def test_sound_is_as_long_as_the_video(container: str) -> None:
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    file = packed(moving_picture(50), codec=codec, container=container, sound=True)
    with av.open(file, "r") as source:
        heard = sum(frame.samples for frame in source.decode(audio=0))
    assert heard / 48000 == pytest.approx(2.0, abs=0.1)


def test_options_of_the_encoder_count() -> None:
    frames = moving_picture(20)
    best, worst = (packed(frames, options={"crf": crf}).getbuffer().nbytes for crf in ("10", "45"))
    assert worst < best / 2


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no such call")
@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_no_thread_takes_the_cores_from_all_others(settings: dict[str, Any]) -> None:
    """Of root, some encoders make the whole process a real-time one, for good."""

    def policies() -> set[int]:
        tasks = Path("/proc/self/task").iterdir()
        return {os.sched_getscheduler(int(task.name)) for task in tasks}

    def watched() -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for frame in moving_picture(30):
            seen.update(policies())
            yield frame

    seen = policies()
    assert seen == {os.SCHED_OTHER}, "who runs these tests is scheduled in a way of its own"
    packed(watched(), **settings)
    assert seen | policies() == {os.SCHED_OTHER}


def test_joined_options_do_not_undo_ours() -> None:
    frames = moving_picture(50, height=128, width=160)
    settings = {"options": {"x264-params": "keyint=10"}}
    files = {packed(frames, **settings).getvalue() for _ in range(20)}
    assert len(files) == 1
    assert sum(frame.key_frame for frame in decoded(packed(frames, **settings))) >= 5


@pytest.mark.parametrize(
    ("frames", "times_s", "message"),
    [
        ([], None, "at least one frame"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)], None, "first one"),
        (moving_picture(3), [0.0, 0.1], "more frames than"),
        (moving_picture(2), [0.0, 0.1, 0.2], "2 frames have 3 times"),
        (moving_picture(3), [0.0, 0.1, 0.1], "after the one before"),
    ],
)
def test_what_makes_no_video_is_refused_and_leaves_no_file(
    frames: list[UInt8[np.ndarray, "H W 3"]],
    times_s: list[float] | None,
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=message):
        encode(tmp_path / "video.mp4", frames, times_s=times_s)
    assert list(tmp_path.iterdir()) == []
