"""Encoding a clip and decoding it again, in memory: what a platform does to an upload."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

Frame = UInt8[np.ndarray, "H W 3"]
Planes = UInt8[np.ndarray, "rows W"]
"""A frame in 4:2:0: H rows of luma, then the two chroma planes with H / 4 rows each."""

OPTIONS = {
    # The fastest preset that filters block edges, as the encoders of platforms do.
    "preset": "superfast",
    # Every frame by itself: frames of a clip may lie a second apart, and predicted from each
    # other at a high factor they show ghosts of what was there, which no platform makes.
    # All of one quality: x264 would save on those after the first. No macroblock tree, which
    # differs from run to run on processors with AVX-512.
    "x264-params": "keyint=1:qcomp=1:mbtree=0:rc-lookahead=0:sync-lookahead=0",
}
FPS = 25
"""Frames have no times here; x264 wants a rate."""
LEAST_SIDE_PX = 16
"""A macroblock."""


def _colour_matrices() -> tuple[Float32[np.ndarray, "3 4"], Float32[np.ndarray, "3 4"]]:
    """From RGB to luma and chroma in their limited range (ITU-R BT.601), and back."""
    red, blue = 0.299, 0.114
    luma = np.array([red, 1 - red - blue, blue])
    differences = [np.eye(3)[axis] - luma for axis in (2, 0)]
    scales = np.array([219, 112 / (1 - blue), 112 / (1 - red)]) / 255
    there = np.array([luma, *differences]) * scales[:, None]
    back, zero = np.linalg.inv(there), np.array([16.0, 128.0, 128.0])
    pair = np.column_stack([there, zero]), np.column_stack([back, -back @ zero])
    return pair[0].astype(np.float32), pair[1].astype(np.float32)


TO_CHROMA, TO_RGB = _colour_matrices()


def recompress(frames: Sequence[Frame], crf: float) -> list[Frame]:
    """Encode frames as H.264 in 4:2:0 and decode them; equal arguments give equal frames.

    On one thread, each frame by itself. Sides that 4:2:0 cannot hold, because
    they are odd or tiny, are extended by their last pixels for the way.

    Args:
        frames: At least one, RGB, all of one size.
        crf: x264's rate factor, 0 (best) to 51.

    Raises:
        RuntimeError: Not as many frames come out as went in.
    """
    height, width = frames[0].shape[:2]
    bottom, right = (max(side + side % 2, LEAST_SIDE_PX) - side for side in (height, width))
    extended = [
        cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE) for frame in frames
    ]
    coded = list(_round_trip([_subsampled(frame) for frame in extended], crf))
    if len(coded) != len(frames):
        raise RuntimeError(f"{len(frames)} frames were encoded, {len(coded)} decoded")
    return [_full(planes)[:height, :width] for planes in coded]


def _round_trip(clip: Sequence[Planes], crf: float) -> Iterator[Planes]:
    encoder = VideoCodecContext.create("libx264", "w")
    encoder.height, encoder.width = clip[0].shape[0] * 2 // 3, clip[0].shape[1]
    encoder.pix_fmt = "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.options = {**OPTIONS, "crf": f"{crf:.3f}"}
    decoder = VideoCodecContext.create("h264", "r")
    encoder.thread_count = decoder.thread_count = 1

    def decoded(packet: "Packet[VideoStream] | None") -> Iterator[Planes]:
        return (picture.to_ndarray() for picture in decoder.decode(packet))

    for position, planes in enumerate(clip):
        picture = av.VideoFrame.from_ndarray(planes, "yuv420p")
        picture.pts, picture.time_base = position, encoder.time_base
        for packet in encoder.encode(picture):
            yield from decoded(packet)
    for packet in encoder.encode(None):
        yield from decoded(packet)
    yield from decoded(None)


# swscale takes three times as long for these two, where it is told to be exact; where it is not,
# it makes frames darker by a level.
def _subsampled(frame: Frame) -> Planes:
    """Chroma is the mean of four pixels."""
    height, width = frame.shape[:2]
    luma, *chroma = cv2.split(cv2.transform(frame, TO_CHROMA))
    half = (width // 2, height // 2)
    small = [cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in chroma]
    return np.concatenate([plane.reshape(-1) for plane in (luma, *small)]).reshape(-1, width)


def _full(planes: Planes) -> Frame:
    """Chroma is interpolated between the middles of four pixels each."""
    width, height = planes.shape[1], planes.shape[0] * 2 // 3
    small = planes[height:].reshape(2, height // 2, width // 2)
    chroma = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in small]
    return cv2.transform(cv2.merge([planes[:height], *chroma]), TO_RGB)
