"""Frames that are picked are the right ones, and equal to those of a full decode bit for bit."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain
from typing import Any

import numpy as np
import pytest
from barcodes import CONFIG, barcode_video, decoded_plainly, numbers_shown

from fvc.video import Clips, read_clips

NUM_FRAMES = 50
LENGTHS_MS = np.random.default_rng(1).integers(5, 200, NUM_FRAMES - 1)
VARIABLE_MS = [0, *np.cumsum(LENGTHS_MS).tolist()]
NTSC = Fraction(30000, 1001)
OPEN_GOP = "open-gop=1:scenecut=0:b-adapt=0"


@dataclass(frozen=True)
class Kind:
    """One way to store a video, in the words of `encode`."""

    codec: str
    container: str
    options: Mapping[str, str] = field(default_factory=dict)
    rotation_deg: int = 0
    start_s: float = 0.0
    varies: bool = False
    fps: Fraction | int = 25
    pixel_format: str = "yuv420p"

    def __str__(self) -> str:
        options = ",".join(f"{name}={value}" for name, value in self.options.items())
        rate = "variable" if self.varies else f"{float(self.fps):.4g}/s"
        turned = f"{self.rotation_deg}deg" if self.rotation_deg else "upright"
        late = f"from {self.start_s:g}s" if self.start_s else "from 0"
        return " ".join(
            [self.codec, self.container, options, rate, turned, late, self.pixel_format]
        )

    def settings(self) -> dict[str, Any]:
        """What `encode` is told."""
        times_s = None
        if self.varies:
            times_s = [self.start_s + time / 1000 for time in VARIABLE_MS]
        elif self.start_s:
            times_s = [self.start_s + number / 25 for number in range(NUM_FRAMES)]
        return {
            "codec": self.codec,
            "container": self.container,
            "options": self.options,
            "rotation_deg": self.rotation_deg,
            "times_s": times_s,
            "fps": self.fps,
            "pixel_format": self.pixel_format,
        }


X264 = {"g": "12", "bf": "3"}
X265 = {"x265-params": "keyint=12:bframes=4:open-gop=1"}
VP9 = {"g": "30", "deadline": "good", "lag-in-frames": "16"}
MPEG4 = {"g": "12", "bf": "2", "b": "2M"}
MPEG2 = {"g": "12", "bf": "2", "b": "4M"}
PICKED = [
    # Groups of pictures, B-frames and how they refer to each other.
    Kind("libx264", "mp4", {"g": "1"}),
    Kind("libx264", "mp4", {"g": "2", "bf": "0"}),
    Kind("libx264", "mp4", {"g": "12", "bf": "0"}),
    Kind("libx264", "mp4", X264),
    Kind("libx264", "mp4", {"g": "12", "bf": "1"}, fps=NTSC),
    Kind("libx264", "mp4", {"g": "25", "bf": "8", "x264-params": "b-adapt=0:b-pyramid=strict"}),
    Kind("libx264", "mp4", {"g": "25", "bf": "8", "x264-params": "b-adapt=0:b-pyramid=none"}),
    Kind("libx264", "mov", {"g": "250", "bf": "3"}),
    # B-frames are announced, and none is used.
    Kind("libx264", "mp4", {"g": "12", "bf": "3", "x264-params": "b-adapt=1:b-bias=-100"}),
    Kind("libx264", "mp4", X264 | {"x264-params": f"{OPEN_GOP}:bframes=5"}),
    Kind("libx264", "mkv", X264 | {"x264-params": f"{OPEN_GOP}:bframes=5"}, varies=True),
    Kind("libx264", "mpegts", X264 | {"x264-params": f"{OPEN_GOP}:bframes=5"}, start_s=5.0),
    Kind("libx264", "mkv", X264 | {"x264-params": "open-gop=1:interlaced=1"}),
    Kind("libx264", "mp4", X264 | {"x264-params": "slices=4:ref=6:weightp=2"}),
    # Containers, rates, turns and late starts.
    Kind("libx264", "mkv", X264),
    Kind("libx264", "mkv", X264, fps=NTSC, rotation_deg=270),
    Kind("libx264", "mpegts", X264),
    Kind("libx264", "mpegts", X264, varies=True, start_s=3.0),
    Kind("libx264", "flv", X264),
    Kind("libx264", "avi", {"g": "12", "bf": "0"}),
    Kind("libx264", "mp4", X264, varies=True),
    Kind("libx264", "mp4", X264, varies=True, rotation_deg=90, start_s=7.0),
    Kind("libx264", "mov", X264, rotation_deg=180, fps=NTSC),
    Kind("libx264", "mov", {"g": "250", "bf": "5"}, varies=True, start_s=2.5),
    Kind("libx264", "mkv", {"g": "250", "bf": "3"}, varies=True, start_s=60.0),
    Kind("libx264", "mp4", X264, pixel_format="yuv444p", rotation_deg=90),
    Kind("libx264", "mp4", X264, pixel_format="yuv420p10le", varies=True),
    Kind("libx264rgb", "mkv", X264, pixel_format="rgb24"),
    # Other codecs.
    Kind("libx265", "mp4", X265),
    Kind("libx265", "mp4", {"x265-params": "keyint=12:bframes=0"}, varies=True),
    Kind("libx265", "mkv", {"x265-params": "keyint=12:bframes=4:open-gop=0"}, rotation_deg=90),
    Kind("libx265", "mkv", X265, varies=True, start_s=4.0),
    Kind("libx265", "mpegts", X265, fps=NTSC),
    Kind("libx265", "mp4", {"x265-params": "keyint=12:bframes=3:b-adapt=0:temporal-layers=2"}),
    Kind("libx265", "mp4", X265, pixel_format="yuv420p10le", rotation_deg=180),
    Kind("libvpx-vp9", "webm", {"g": "12"}),
    Kind("libvpx-vp9", "webm", VP9),
    Kind("libvpx-vp9", "mp4", VP9, rotation_deg=270, fps=NTSC),
    Kind("libvpx-vp9", "webm", VP9, varies=True, start_s=2.0),
    Kind("libvpx", "webm", {"g": "12"}),
    Kind("libvpx", "webm", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16"}, varies=True),
    Kind("libsvtav1", "mp4", {"g": "12"}),
    Kind("libsvtav1", "webm", {"g": "250"}),
    Kind("libsvtav1", "mkv", {"g": "12"}, varies=True, start_s=3.0),
    Kind("mpeg4", "avi", MPEG4),
    Kind("mpeg4", "mp4", MPEG4 | {"bf": "0"}),
    Kind("mpeg4", "mkv", MPEG4, varies=True),
    Kind("mpeg2video", "mpeg", MPEG2),
    Kind("mpeg2video", "mpegts", MPEG2, fps=NTSC),
    Kind("mpeg2video", "mkv", MPEG2, rotation_deg=90),
    Kind("mjpeg", "avi", pixel_format="yuvj420p"),
    Kind("prores_ks", "mov", pixel_format="yuv422p10le", rotation_deg=90, fps=NTSC),
    Kind("ffv1", "mkv", {"g": "6"}, pixel_format="yuv444p", varies=True),
    Kind("wmv2", "asf", {"g": "12", "b": "2M"}),
]
IN_SEQUENCE = [
    Kind("libx264", "avi", X264),
    Kind("libx264", "h264", X264),
    Kind("libx265", "hevc", X265),
    Kind("libx264", "mp4", X264 | {"x264-params": "intra-refresh=1"}),
]


def times_ms(kind: Kind, clips: Clips) -> list[float]:
    """When each frame appears, and when the last one ends."""
    end = 1000 * clips.spans_s[-1][1]
    if kind.varies:
        return [*VARIABLE_MS, round(end)]
    return [number * end / NUM_FRAMES for number in range(NUM_FRAMES + 1)]


def test_there_are_kinds_enough() -> None:
    assert len({str(kind) for kind in PICKED}) == len(PICKED) >= 40


@pytest.mark.parametrize("kind", [*PICKED, *IN_SEQUENCE], ids=str)
def test_sampled_frames_are_the_right_ones_as_a_full_decode_gives_them(kind: Kind) -> None:
    source = barcode_video(NUM_FRAMES, **kind.settings())
    clips = read_clips(source, CONFIG)
    assert (clips.decoded_in_sequence is None) == (kind in PICKED), clips.decoded_in_sequence
    shown = [*chain.from_iterable(numbers_shown(clips))]
    times = times_ms(kind, clips)
    centres = [times[-1] * (2 * part + 1) / 20 for part in range(10)]
    assert shown == [bisect_right(times, centre) - 1 for centre in centres]
    pixels = clips.pixels.reshape(-1, *clips.pixels.shape[2:])
    assert np.array_equal(pixels, decoded_plainly(source, shown))


@pytest.mark.parametrize("kind", PICKED, ids=str)
def test_the_cheapest_frame_of_a_part_appears_in_it(kind: Kind) -> None:
    source = barcode_video(NUM_FRAMES, **kind.settings())
    clips = read_clips(source, replace(CONFIG, sampling="segment"))
    assert clips.decoded_in_sequence is None
    shown = [*chain.from_iterable(numbers_shown(clips))]
    times = times_ms(kind, clips)
    # Containers round times to a millisecond.
    for part, number in enumerate(shown):
        assert times[-1] * part / 10 - 2 <= times[number] < times[-1] * (part + 1) / 10 + 2
    pixels = clips.pixels.reshape(-1, *clips.pixels.shape[2:])
    assert np.array_equal(pixels, decoded_plainly(source, shown))
