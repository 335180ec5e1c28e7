"""The only door to the decoder: what a video is, and the pixels of chosen frames."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from fvc.config import ClipsConfig
from fvc.sampling import sample_frames
from fvc.video import decoding, picture
from fvc.video.decoding import REASONS, OutOfMemoryError, PlanFailedError, VideoError
from fvc.video.packets import Timeline, distrust

__all__ = [
    "PIXELS_VERSION",
    "REASONS",
    "Clips",
    "OutOfMemoryError",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_clips",
    "read_frames",
]

PIXELS_VERSION = 1
"""To be raised when `read_clips` would give other pixels: stored clips are made anew."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is, by its packets and its first frame rather than by its header."""

    width: int
    """In pixels as displayed: pixels made square, rotation applied."""
    height: int
    rotation_deg: int
    """Clockwise turn that displays the stored pixels upright: 0, 90, 180 or 270."""
    fps: float
    """Frames over duration."""
    frames: int
    """Packets counted."""
    duration_s: float
    """From the first frame to the end of the last."""
    codec: str
    pixel_format: str
    bitrate_bps: float
    """Of the video stream alone."""


@dataclass(frozen=True, slots=True)
class Clips:
    """What `read_clips` takes from one video."""

    pixels: UInt8[np.ndarray, "N T C H W"]
    """RGB, letterboxed in black."""
    spans_s: tuple[tuple[float, float], ...]
    """Start and end of each clip, in seconds from the first frame."""
    decoded_in_sequence: str | None
    """Why the whole video was decoded, where frames could not be picked by its packets."""


def probe(source: Path | BufferedIOBase) -> VideoInfo:
    """Count the packets of a video and decode its first frame.

    Raises:
        VideoError: It cannot be used.
    """
    packets, clock = decoding.scan(source)
    times = decoding.packet_timeline(packets, clock)
    with decoding.opened(source) as (container, stream):
        frame = next(decoding.decode(container, stream), None)
        if frame is None:
            raise VideoError("undecodable", f"no frame comes out of {len(packets)} packets")
        width, height = picture.displayed_size(frame, _pixel_aspect(stream))
        codec = stream.codec_context.codec.canonical_name
    return VideoInfo(
        width=width,
        height=height,
        rotation_deg=picture.orientation(frame).rotation_deg,
        fps=float(times.num_frames / times.duration_s),
        frames=times.num_frames,
        duration_s=float(times.duration_s),
        codec=codec,
        pixel_format=frame.format.name,
        bitrate_bps=float(sum(packet.size_bytes for packet in packets) * 8 / times.duration_s),
    )


def read_clips(source: Path | BufferedIOBase, config: ClipsConfig) -> Clips:
    """Decode the sampled frames of a video, letterboxed.

    Raises:
        VideoError: It cannot be used.
    """
    reformatter = VideoReformatter()

    def convert(frame: VideoFrame, stream: VideoStream) -> picture.Image:
        return picture.letterboxed(frame, _pixel_aspect(stream), config.side_px, reformatter)

    def choose(times: Timeline) -> list[int]:
        chosen = sample_frames(times.boundaries, config.num_clips, config.num_frames)
        return chosen.ravel().tolist()

    times, images, excuse = _take(source, choose, convert)
    pixels = np.stack(images).transpose(0, 3, 1, 2)
    pixels = pixels.reshape(config.num_clips, config.num_frames, *pixels.shape[1:])
    return Clips(np.ascontiguousarray(pixels), times.spans_s(config.num_clips), excuse)


def read_frames(
    source: Path | BufferedIOBase, fps: float, max_frames: int, side_px: int
) -> UInt8[np.ndarray, "F H W"]:
    """Decode grey frames, evenly spaced over a video and none twice, for fingerprints.

    Each is upright and stretched to a square without a letterbox, so that bars
    found in it belong to the video.

    Args:
        source: The video.
        fps: Frames taken per second of video.
        max_frames: A longer video is sampled at a lower rate.
        side_px: Height and width of the result.

    Raises:
        VideoError: It cannot be used.
    """
    reformatter = VideoReformatter()

    def convert(frame: VideoFrame, _: VideoStream) -> picture.Image:
        return picture.stretched_grey(frame, side_px, reformatter)

    def choose(times: Timeline) -> list[int]:
        wanted = min(max(round(times.duration_s * Fraction(fps)), 1), max_frames)
        return np.unique(sample_frames(times.boundaries, 1, wanted)).tolist()

    return np.stack(_take(source, choose, convert)[1])


def _take(
    source: Path | BufferedIOBase,
    choose: Callable[[Timeline], list[int]],
    convert: decoding.Convert,
) -> tuple[Timeline, list[picture.Image], str | None]:
    """Convert the chosen frames, by the shortest way that gives them for certain."""
    packets, clock = decoding.scan(source)
    excuse = distrust(packets, clock)
    if excuse is None:
        times = decoding.packet_timeline(packets, clock)
        numbers = choose(times)
        try:
            images = decoding.take_planned(source, packets, numbers, convert)
            return times, [images[number] for number in numbers], None
        except PlanFailedError as failure:
            excuse = str(failure)
    times = decoding.frame_timeline(source, clock)
    numbers = choose(times)
    images = decoding.take_in_sequence(source, numbers, convert)
    if lost := set(numbers) - images.keys():
        raise VideoError("undecodable", f"{len(lost)} frames come out only at times")
    return times, [images[number] for number in numbers], excuse


def _pixel_aspect(stream: VideoStream) -> float:
    """Width over height of a stored pixel; square where nothing is said."""
    return float(stream.sample_aspect_ratio or 1)
