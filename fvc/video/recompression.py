"""Encoding a clip and decoding it again, in memory: what a platform does to an upload."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from fvc.video.picture import SCALING

Frame = UInt8[np.ndarray, "H W 3"]

OPTIONS = {
    # The fastest preset that filters block edges, as every platform's encoder does.
    "preset": "superfast",
    # Neither frames that wait for later ones, nor the macroblock tree, which differs from run
    # to run on processors with AVX-512.
    "x264-params": "mbtree=0:bframes=0:rc-lookahead=0:sync-lookahead=0:sliced-threads=0",
}
FPS = 25
"""Frames have no times here; x264 wants a rate."""
LEAST_SIDE_PX = 16
"""A macroblock: x264 takes less, swscale's fast paths do not."""


def recompress(frames: Sequence[Frame], crf: float) -> list[Frame]:
    """Encode frames as H.264 in 4:2:0 and decode them; equal arguments give equal frames.

    On one thread. Sides that 4:2:0 cannot hold, because they are odd or tiny,
    are extended by their last pixels for the way. Frames of a clip lie further
    apart than those of its video, so more of each is coded anew than a platform
    would; the quality that a rate factor asks for is the same.

    Args:
        frames: At least one, RGB, all of one size.
        crf: x264's rate factor, 0 (best) to 51.

    Raises:
        RuntimeError: Not as many frames come out as went in.
    """
    height, width = frames[0].shape[:2]
    bottom, right = (max(side + side % 2, LEAST_SIDE_PX) - side for side in (height, width))
    extended = (
        cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE) for frame in frames
    )
    decoded = list(_round_trip(extended, width + right, height + bottom, crf))
    if len(decoded) != len(frames):
        raise RuntimeError(f"{len(frames)} frames were encoded, {len(decoded)} decoded")
    return [np.ascontiguousarray(frame[:height, :width]) for frame in decoded]


def _round_trip(frames: Iterator[Frame], width: int, height: int, crf: float) -> Iterator[Frame]:
    encoder = VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(FPS), Fraction(1, FPS)
    encoder.options = {**OPTIONS, "crf": f"{crf:.3f}"}
    decoder = VideoCodecContext.create("h264", "r")
    encoder.thread_count = decoder.thread_count = 1
    there, back = VideoReformatter(), VideoReformatter()

    def decoded(packet: "Packet[VideoStream] | None") -> Iterator[Frame]:
        for picture in decoder.decode(packet):
            yield back.reformat(picture, format="rgb24", interpolation=SCALING).to_ndarray()

    for position, frame in enumerate(frames):
        source = av.VideoFrame.from_ndarray(frame, "rgb24")
        picture = there.reformat(source, format="yuv420p", interpolation=SCALING)
        picture.pts, picture.time_base = position, encoder.time_base
        for packet in encoder.encode(picture):
            yield from decoded(packet)
    for packet in encoder.encode(None):
        yield from decoded(packet)
    yield from decoded(None)
