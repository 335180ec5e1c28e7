"""The only place that encodes video: equal frames and settings give equal bytes."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8

from fvc.files import replacing

FORMATS: Mapping[str, str] = MappingProxyType({"mkv": "matroska"})
"""FFmpeg's name of a container, where it is not the file's ending."""

CODEC_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        # x264's macroblock tree differs from run to run on processors with AVX-512.
        "libx264": {"preset": "veryfast", "x264-params": "mbtree=0"},
        # x265 writes the features of the processor into the stream unless told not to.
        "libx265": {
            "preset": "ultrafast",
            "x265-params": "pools=none:frame-threads=1:info=0:log-level=none",
        },
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
        "libsvtav1": {"preset": "10", "svtav1-params": "lp=1"},
    }
)
"""Speed before size, and nothing that differs from run to run or names the processor."""

# Coarse enough for MPEG-4, whose time base has 16 bits, and what Matroska stores anyway.
VARIABLE_TIME_BASE = Fraction(1, 1000)
SAMPLE_RATE_HZ = 48000
TONE_PERIOD_SAMPLES = 218


def encode(
    target: Path | BufferedIOBase,
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    *,
    codec: str = "libx264",
    fps: Fraction | int = 25,
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] = MappingProxyType({}),
    times_s: Sequence[float] | None = None,
    rotation_deg: int = 0,
    sound: bool = False,
) -> None:
    """Encode RGB frames on one thread; a path is written whole or not at all.

    Args:
        target: Where the file goes; a stream must be writable and seekable.
        frames: All of one size, which the codec and pixel format must allow.
        codec: FFmpeg's name of an encoder.
        fps: Frames per second; with `times_s`, what the file claims on average.
        container: `mp4`, `mkv`, `webm`, or another muxer of FFmpeg.
        pixel_format: FFmpeg's name; `yuv420p10le` gives 10 bit.
        options: Options of the encoder; they win over `CODEC_OPTIONS`, or are
            joined to it where one option holds many (`x264-params`).
        times_s: When each frame is shown, in seconds, strictly increasing and
            one per frame; kept to a millisecond. None is a constant rate.
        rotation_deg: Counter-clockwise turn that players make, kept in the
            display matrix; the frames are stored as given.
        sound: Add a quiet tone as long as the video.

    Raises:
        ValueError: No frames, frames of several sizes, or times that do not
            fit the frames.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    with _opened(target, FORMATS.get(container, container)) as output:
        stream = _add_video(output, first, codec, Fraction(fps), pixel_format, options)
        if times_s is not None:
            stream.codec_context.time_base = VARIABLE_TIME_BASE
        stream.set_display_rotation(rotation_deg)
        with _kept_scheduling():
            stream.codec_context.open()
        tone = _Tone(output, container) if sound else None
        for position, frame in enumerate(chain([first], rest)):
            picture = _picture(frame, first.shape)
            picture.pts, picture.duration = _timing(position, times_s, Fraction(fps))
            picture.time_base = stream.codec_context.time_base
            output.mux(stream.encode(picture))
            if tone is not None:
                tone.play_until((picture.pts + picture.duration) * picture.time_base)
        if times_s is not None and position + 1 != len(times_s):
            raise ValueError(f"{position + 1} frames have {len(times_s)} times")
        output.mux(stream.encode(None))
        if tone is not None:
            tone.end()


@contextmanager
def _opened(target: Path | BufferedIOBase, container_format: str) -> Iterator[OutputContainer]:
    # Without bitexact the muxers write random ids and their version.
    keep = {"fflags": "+bitexact"}
    if isinstance(target, Path):
        with (
            replacing(target) as partial,
            av.open(str(partial), "w", container_format, container_options=keep) as output,
        ):
            yield output
    else:
        with av.open(target, "w", container_format, container_options=keep) as output:
            yield output


def _add_video(
    output: OutputContainer,
    first: UInt8[np.ndarray, "H W 3"],
    codec: str,
    fps: Fraction,
    pixel_format: str,
    options: Mapping[str, str],
) -> VideoStream:
    # SVT-AV1 prints its settings for every video, and this is the only way to stop it.
    os.environ.setdefault("SVT_LOG", "1")
    stream = output.add_stream(codec, rate=fps, options=_codec_options(codec, options))
    if not isinstance(stream, VideoStream):
        raise ValueError(f"{codec} encodes no video")
    stream.height, stream.width = first.shape[:2]
    stream.pix_fmt = pixel_format
    stream.codec_context.time_base = 1 / fps
    stream.codec_context.thread_count = 1
    return stream


@contextmanager
def _kept_scheduling() -> Iterator[None]:
    """Threads of the block, and its own, are scheduled as its own was before.

    Where it may, as root in most containers, SVT-AV1 gives itself and its caller the highest
    real-time priority (svt_av1_enc_init). The caller would keep it and hand it on to its
    children, and as many of them as there are cores leave nothing for any other process.
    """
    if sys.platform != "linux":
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    before = _threads()
    try:
        yield
    finally:
        for thread in _threads() - before | {threading.get_native_id()}:
            # One may have ended in between.
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, policy, parameters)


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def _codec_options(codec: str, options: Mapping[str, str]) -> dict[str, str]:
    chosen = {**CODEC_OPTIONS.get(codec, {}), "flags": "+bitexact"}
    for name, value in options.items():
        joins = name in chosen and name.endswith("-params")
        chosen[name] = f"{chosen[name]}:{value}" if joins else value
    return chosen


def _picture(frame: UInt8[np.ndarray, "H W 3"], shape: tuple[int, ...]) -> av.VideoFrame:
    if frame.shape != shape:
        raise ValueError(f"a frame is {frame.shape}, the first one was {shape}")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")


def _timing(position: int, times_s: Sequence[float] | None, fps: Fraction) -> tuple[int, int]:
    if times_s is None:
        return position, 1
    if position >= len(times_s):
        raise ValueError(f"more frames than the {len(times_s)} times")
    start = round(times_s[position] / VARIABLE_TIME_BASE)
    if position and start <= round(times_s[position - 1] / VARIABLE_TIME_BASE):
        raise ValueError(f"time {position} is not at least a millisecond after the one before")
    if position + 1 < len(times_s):
        return start, max(1, round(times_s[position + 1] / VARIABLE_TIME_BASE) - start)
    return start, max(1, round(1 / (fps * VARIABLE_TIME_BASE)))


class _Tone:
    """A quiet triangle wave, computed in integers."""

    def __init__(self, output: OutputContainer, container: str) -> None:
        self.output = output
        codec: Literal["aac", "libopus"] = "libopus" if container == "webm" else "aac"
        options = {"flags": "+bitexact", "b": "32000"}
        self.stream = output.add_stream(codec, rate=SAMPLE_RATE_HZ, options=options)
        self.stream.layout = "mono"
        self.played = 0

    def play_until(self, time_s: Fraction) -> None:
        """Encode the samples before a time, in seconds, that were not encoded yet."""
        end = round(time_s * SAMPLE_RATE_HZ)
        phase = np.arange(self.played, end, dtype=np.int64) % TONE_PERIOD_SAMPLES
        wave = np.abs(2 * phase - TONE_PERIOD_SAMPLES) * 16 - 8 * TONE_PERIOD_SAMPLES
        samples = wave.astype(np.int16)[None, :]
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate, block.pts = SAMPLE_RATE_HZ, self.played
        block.time_base = Fraction(1, SAMPLE_RATE_HZ)
        self.output.mux(self.stream.encode(block))
        self.played = end

    def end(self) -> None:
        """Write what the encoder still holds."""
        self.output.mux(self.stream.encode(None))
