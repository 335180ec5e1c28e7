"""The file of a video: the original's frames, edited and encoded."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from types import MappingProxyType

import numpy as np
from jaxtyping import Int64, UInt8

from fvc.demo.originals import Original
from fvc.demo.reposts import edited, timeline
from fvc.demo.specifications import Video
from fvc.encoding import encode

QUALITY_OPTIONS: Mapping[str, tuple[Mapping[str, str], ...]] = MappingProxyType(
    {
        "libx264": ({"crf": "20"}, {"crf": "25"}, {"crf": "30"}),
        "libx265": ({"crf": "20"}, {"crf": "25"}, {"crf": "30"}),
        "libvpx-vp9": ({"crf": "24"}, {"crf": "32"}, {"crf": "40"}),
        "libsvtav1": ({"crf": "26"}, {"crf": "34"}, {"crf": "42"}),
        "mpeg4": ({"b": "1500k"}, {"b": "900k"}, {"b": "500k"}),
    }
)
"""Encoder options of each quality, the best first."""


def render(video: Video) -> bytes:
    """Make the file of a video; equal videos give equal bytes."""
    if video.damage == "empty":
        return b""
    numbers, times_s = timeline(video)
    packed = BytesIO()
    encode(
        packed,
        (np.rot90(frame, -video.rotation_deg // 90) for frame in frames_of(video, numbers)),
        codec=video.encoding.codec,
        fps=video.fps,
        container=video.encoding.container,
        pixel_format=video.encoding.pixel_format,
        options=QUALITY_OPTIONS[video.encoding.codec][video.quality],
        times_s=times_s,
        rotation_deg=video.rotation_deg,
        sound=video.sound,
    )
    content = packed.getvalue()
    return content[: len(content) * 3 // 5] if video.damage == "truncated" else content


def frames_of(
    video: Video, numbers: Int64[np.ndarray, "F"]
) -> Iterator[UInt8[np.ndarray, "_ _ 3"]]:
    """Give frames of a copy as they are displayed, by their numbers in the original."""
    original = Original(video.footage)
    for number in numbers.tolist():
        yield edited(original.frame(number), video)
