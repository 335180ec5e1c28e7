"""What happens to a video on its way: changed frames, encoded anew, seen as any upload is.

A video is first reduced to an excerpt: the frames that its clips are made of and those
around each, at their own times and in their own size. What is encoded is then bounded by the
clips and not by the length of the video, frames are still predicted from their neighbours,
and `read_clips` finds in it what it would find in the whole. The excerpt is encoded at high
quality; that is the baseline, and what every perturbation starts from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import UInt8

from fvc.config import ClipsConfig
from fvc.encoding import encode
from fvc.video import LEAST_SIDE_PX, Excerpt, read_clips, read_excerpt

Frame = UInt8[np.ndarray, "_ _ 3"]

REENCODED = "reencoded"
"""The version in which nothing is changed."""

LEVELS: Mapping[str, Sequence[int]] = MappingProxyType(
    {
        "recompression": (28, 35, 42),
        "downscale": (2, 4),
        "frame_rate": (2,),
        "letterbox": (25,),
        "mirror": (1,),
    }
)
"""Every perturbation with its levels from weak to strong: x264's rate factor; what both sides,
and what the frame rate, are divided by; percent of the longer side that become black; mirrored
once."""

AROUND = 1
"""Frames before and after each that a clip takes: encoders predict it from these, and at half the
rate the one before is left. More cost more, and the rate factor sets the same quality."""
HIGH_QUALITY: Mapping[str, str] = MappingProxyType({"crf": "10", "preset": "ultrafast"})
"""For what is not re-compression: at this rate a faster preset costs bytes, no quality."""
MILLISECOND = Fraction(1, 1000)
"""To which `encode` keeps the times of frames."""


@dataclass(frozen=True, slots=True)
class _Reel:
    """A video in memory, and which frames of the original it holds."""

    content: bytes
    numbers: Sequence[int]


def version_names() -> list[str]:
    """The baseline, and each perturbation with its level."""
    return [REENCODED, *(f"{kind}_{level}" for kind, levels in LEVELS.items() for level in levels)]


def clips_of_versions(
    source: Path, config: ClipsConfig
) -> dict[str, UInt8[np.ndarray, "N T C _H _W"]]:
    """The clips of every version of a video, by `version_names`.

    Raises:
        VideoError: It, or a version of it, cannot be used.
    """
    whole = read_excerpt(source, config, AROUND, _encoded)
    reels = {REENCODED: whole} | {
        f"{kind}_{level}": _perturbed(whole, kind, level)
        for kind, levels in LEVELS.items()
        for level in levels
    }
    return {name: read_clips(BytesIO(reel.content), config).pixels for name, reel in reels.items()}


def _perturbed(reel: _Reel, kind: str, level: int) -> _Reel:
    change = CHANGES.get(kind)
    quality = {"crf": str(level)} if kind == "recompression" else HIGH_QUALITY
    step = level if kind == "frame_rate" else 1

    def use(excerpt: Excerpt) -> _Reel:
        # By their numbers in the original: between excerpts, frames are missing.
        own = Excerpt(reel.numbers, excerpt.times_s, excerpt.frames)
        return _encoded(own, quality=quality, step=step, change=change, level=level)

    return read_excerpt(BytesIO(reel.content), None, 0, use)


def _encoded(
    excerpt: Excerpt,
    *,
    quality: Mapping[str, str] = HIGH_QUALITY,
    step: int = 1,
    change: Callable[[Frame, int], Frame] | None = None,
    level: int = 0,
) -> _Reel:
    """Encode the frames whose number is a multiple of `step`, changed."""
    starts = [round(time_s / MILLISECOND) for time_s in excerpt.times_s]
    kept: list[int] = []
    for row, number in enumerate(excerpt.numbers):
        if number % step == 0 and (not kept or starts[row] > starts[kept[-1]]):
            kept.append(row)
    chosen = set(kept)
    frames = (frame for row, frame in enumerate(excerpt.frames) if row in chosen)
    packed = BytesIO()
    encode(
        packed,
        frames if change is None else (change(frame, level) for frame in frames),
        # The last frame stays until the video ends.
        fps=1 / (max(starts[-1] - starts[kept[-1]], 1) * MILLISECOND),
        # Of one quality, whatever the times between frames. No B-frames: stored out of order, they
        # have the durations of others in MP4, and the video would end at another time.
        options={**quality, "x264-params": "qcomp=1:bframes=0"},
        times_s=[float(starts[row] * MILLISECOND) for row in kept],
    )
    return _Reel(packed.getvalue(), [excerpt.numbers[row] for row in kept])


def _downscaled(frame: Frame, divisor: int) -> Frame:
    """Each pixel is the mean of what it covers; sides stay even."""
    height, width = (max(round(side / divisor / 2) * 2, LEAST_SIDE_PX) for side in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def _letterboxed(frame: Frame, percent: int) -> Frame:
    """Black bars at both ends of the longer side; at the others a clip has some of its own."""
    height, width = frame.shape[:2]
    bar = round(max(height, width) * percent / (100 - percent) / 4) * 2
    rows, columns = (bar, 0) if height > width else (0, bar)
    return np.pad(frame, ((rows, rows), (columns, columns), (0, 0)))


def _mirrored(frame: Frame, _: int) -> Frame:
    return frame[:, ::-1]


CHANGES: Mapping[str, Callable[[Frame, int], Frame]] = MappingProxyType(
    {"downscale": _downscaled, "letterbox": _letterboxed, "mirror": _mirrored}
)
"""What changes the pixels of each frame."""
