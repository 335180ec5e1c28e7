"""The only door to the decoder: what a video is, and the pixels of chosen frames."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from io import BufferedIOBase
from pathlib import Path
from typing import TypeVar

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from fvc.config import ClipsConfig
from fvc.sampling import (
    Reach,
    Span,
    central_frames,
    cheapest_frames,
    length_of,
    parts_of,
    sample_frames,
    views_of,
)
from fvc.video import decoding, picture
from fvc.video.decoding import PlanFailedError
from fvc.video.errors import BEYOND_LIMITS, REASONS, OutOfMemoryError, VideoError
from fvc.video.limits import Limits
from fvc.video.packets import Timeline, distrust, reach

__all__ = [
    "BEYOND_LIMITS",
    "PIXELS_VERSION",
    "REASONS",
    "Clips",
    "Excerpt",
    "Limits",
    "OutOfMemoryError",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_clips",
    "read_excerpt",
    "read_frames",
]

PIXELS_VERSION = 2
"""To be raised when `read_clips` would give other pixels: stored clips are made anew."""


LEAST_SIDE_PX = 16
"""Of the frames of an excerpt: a macroblock, the least that every encoder takes."""

Result = TypeVar("Result")
Images = list[picture.Image]
Frames = Iterator[tuple[int, picture.Image]]
"""Frames by their number in the video, from 0."""


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
    """RGB; what the picture leaves free is black."""
    content: picture.Box
    """Where the displayed picture lies in H x W: top, left, height and width in pixels. A frame
    of another aspect ratio than the first that was taken fills H x W in its own way."""
    spans_s: tuple[tuple[float, float], ...]
    """Start and end of each clip, in seconds from the first frame."""
    decoded_in_sequence: str | None
    """Why the whole video was decoded, where frames could not be picked by its packets."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Some frames of a video, as large as it is displayed."""

    numbers: Sequence[int]
    """Which they are, from 0 and rising."""
    times_s: Sequence[float]
    """When each appears, from the first frame of the video on; one more, for its end."""
    frames: Iterator[picture.Image]
    """RGB and upright, all of one size with even sides; decoded when they are asked for."""


def probe(source: Path | BufferedIOBase) -> VideoInfo:
    """Count the packets of a video and decode its first frame.

    Raises:
        VideoError: It cannot be used.
    """
    with decoding.opened(source) as (container, stream):
        packets, clock = decoding.scan(container, stream)
    times = decoding.packet_timeline(packets, clock)
    size_bytes = int(packets.sizes_bytes.sum())
    with decoding.opened(source) as (container, stream):
        return _described(container, stream, times, size_bytes)


def _described(
    container: InputContainer, stream: VideoStream, times: Timeline, size_bytes: int
) -> VideoInfo:
    frame = next(decoding.decode(container, stream), None)
    if frame is None:
        raise VideoError("undecodable", f"no frame comes out of {times.num_frames} packets")
    viewer = picture.Viewer()
    width, height = viewer.displayed_size(frame, _pixel_aspect(stream))
    return VideoInfo(
        width=width,
        height=height,
        rotation_deg=viewer.orientation(frame).rotation_deg,
        fps=float(times.num_frames / times.duration_s),
        frames=times.num_frames,
        duration_s=float(times.duration_s),
        codec=stream.codec_context.codec.canonical_name,
        pixel_format=frame.format.name,
        bitrate_bps=float(size_bytes * 8 / times.duration_s),
    )


def read_clips(
    source: Path | BufferedIOBase, config: ClipsConfig, limits: Limits | None = None
) -> Clips:
    """Decode the sampled frames of a video, letterboxed or in its own aspect ratio.

    Clips without a letterbox have the shape of the first frame that is taken;
    a later one of another aspect ratio is letterboxed into it. Frames that
    cannot be picked by their packets are the central ones of their parts,
    whatever the sampling: all packets are decoded then.

    Raises:
        VideoError: It cannot be used, or is beyond the limits.
    """
    views: list[Span] = []

    def choose(times: Timeline, reach: Reach | None) -> list[int]:
        views[:] = views_of(length_of(times.boundaries), times.tick_s, config)
        return _chosen(times, reach, views, config)

    fitting = _Fitting(config)
    times, images, excuse = _take(source, choose, fitting.begin, limits)
    pixels = np.empty((len(images), 3, *fitting.shape), np.uint8)
    for place, image in zip(pixels, images, strict=True):
        place[...] = image.transpose(2, 0, 1)
    pixels = pixels.reshape(len(views), config.num_frames, *pixels.shape[1:])
    return Clips(pixels, fitting.content, times.in_seconds(views), excuse)


def read_excerpt(
    source: Path | BufferedIOBase,
    config: ClipsConfig | None,
    around: int,
    use: Callable[[Excerpt], Result],
) -> Result:
    """Call `use` with the frames that `read_clips` takes, and with what is around each.

    The first and the last frame are there, too, so that a video of these
    frames at these times is as long as the whole one, and `read_clips` takes
    the same of it.

    Args:
        source: The video.
        config: What a clip is; None gives every frame.
        around: So many frames before each that is taken, and so many after it.
        use: Called a second time, with all frames from the first one on, where
            frames turn out not to be where the packets say.

    Raises:
        VideoError: It cannot be used.
    """

    def choose(times: Timeline, reach: Reach | None) -> list[int]:
        if config is None:
            return list(range(times.num_frames))
        taken = np.unique(
            _chosen(
                times, reach, views_of(length_of(times.boundaries), times.tick_s, config), config
            )
        )
        near = taken[:, None] + np.arange(-around, around + 1)
        last = times.num_frames - 1
        return np.unique(np.append(np.clip(near, 0, last), np.array([0, last]))).tolist()

    def hand_on(times: Timeline, numbers: list[int], frames: Frames) -> Result:
        starts = times.boundaries[[*numbers, times.num_frames]] - times.boundaries[0]
        shown_s = [float(int(start) * times.tick_s) for start in starts]
        return use(Excerpt(numbers, shown_s, _in_order(frames)))

    return _stream(source, choose, _at_full_size, hand_on)[0]


def _in_order(frames: Frames) -> Iterator[picture.Image]:
    before = -1
    for number, image in frames:
        if number <= before:
            raise PlanFailedError(f"frame {number} comes out after frame {before}")
        before = number
        yield image


def _at_full_size() -> decoding.Convert:
    """As displayed, but for a pixel where a side is odd; all as the first one is."""
    viewer = picture.Viewer()
    shape: list[int] = []

    def convert(frame: VideoFrame, stream: VideoStream) -> picture.Image:
        aspect = _pixel_aspect(stream)
        if not shape:
            width, height = viewer.displayed_size(frame, aspect)
            shape[:] = [max(side + side % 2, LEAST_SIDE_PX) for side in (height, width)]
        return viewer.letterboxed(frame, aspect, (shape[0], shape[1]))

    return convert


def _chosen(
    times: Timeline, reach: Reach | None, views: Sequence[Span], config: ClipsConfig
) -> list[int]:
    """The frames of the clips, one clip after the other."""
    parts = parts_of(views, config.num_frames)
    if config.sampling == "segment" and reach is not None:
        return cheapest_frames(times.boundaries, parts, reach).tolist()
    return central_frames(times.boundaries, parts).tolist()


class _Fitting:
    """Converts the frames of one video, in turn, to the shape that the first one gets."""

    def __init__(self, config: ClipsConfig) -> None:
        self._config = config
        self._viewer = picture.Viewer()
        self.shape = (config.side_px, config.side_px)
        self.content = picture.Box(0, 0, *self.shape)
        self._is_settled = False

    def begin(self) -> decoding.Convert:
        """Start over with what comes next as the first frame."""
        self._is_settled = False
        return self._convert

    def _convert(self, frame: VideoFrame, stream: VideoStream) -> picture.Image:
        aspect = _pixel_aspect(stream)
        if not self._is_settled:
            size = self._viewer.displayed_size(frame, aspect)
            if self._config.fit == "native":
                self.shape = picture.native_shape(size, self._config.side_px)
            self.content = picture.fitted(size, self.shape)
            self._is_settled = True
        return self._viewer.letterboxed(frame, aspect, self.shape)


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
    viewer = picture.Viewer()

    def convert(frame: VideoFrame, _: VideoStream) -> picture.Image:
        return viewer.stretched_grey(frame, side_px)

    def choose(times: Timeline, _: Reach | None) -> list[int]:
        wanted = min(max(round(times.duration_s * Fraction(fps)), 1), max_frames)
        return np.unique(sample_frames(times.boundaries, 1, wanted)).tolist()

    return np.stack(_take(source, choose, lambda: convert)[1])


def _take(
    source: Path | BufferedIOBase,
    choose: Callable[[Timeline, Reach | None], list[int]],
    begin: Callable[[], decoding.Convert],
    limits: Limits | None = None,
) -> tuple[Timeline, list[picture.Image], str | None]:
    """Convert the chosen frames, all at once in memory."""

    def collect(times: Timeline, numbers: list[int], frames: Frames) -> tuple[Timeline, Images]:
        images = dict(frames)
        return times, [images[number] for number in numbers]

    (times, images), excuse = _stream(source, choose, begin, collect, limits)
    return times, images, excuse


def _stream(
    source: Path | BufferedIOBase,
    choose: Callable[[Timeline, Reach | None], list[int]],
    begin: Callable[[], decoding.Convert],
    use: Callable[[Timeline, list[int], Frames], Result],
    limits: Limits | None = None,
) -> tuple[Result, str | None]:
    """Convert the chosen frames while `use` asks, by the shortest way that gives them for certain.

    Where that is found not to be certain after all, `use` is called again and starts anew.
    """
    with ExitStack() as still_open:
        container, stream = still_open.enter_context(decoding.opened(source))
        if limits is not None:
            limits.require_header(container, stream)
        packets, clock = decoding.scan(container, stream, limits)
        excuse = distrust(packets, clock)
        if excuse is None:
            times = decoding.packet_timeline(packets, clock)
            if limits is not None:
                limits.require_timeline(times)
            numbers = choose(times, reach(packets))
            if not decoding.goes_back(container):
                still_open.close()
                container, stream = still_open.enter_context(decoding.opened(source))
            try:
                planned = decoding.take_planned(
                    container, stream, packets, numbers, begin(), limits
                )
                return use(times, numbers, planned), None
            except PlanFailedError as failure:
                excuse = str(failure)
    times = decoding.frame_timeline(source, clock, limits)
    if limits is not None:
        limits.require_timeline(times)
    numbers = choose(times, None)
    frames = decoding.take_in_sequence(source, numbers, begin(), limits)
    return use(times, numbers, _complete(frames, numbers)), excuse


def _complete(frames: Frames, numbers: Sequence[int]) -> Frames:
    lost = set(numbers)
    for number, image in frames:
        lost.discard(number)
        yield number, image
    if lost:
        raise VideoError("undecodable", f"{len(lost)} frames come out only at times")


def _pixel_aspect(stream: VideoStream) -> float:
    """Width over height of a stored pixel; square where nothing is said."""
    return float(stream.sample_aspect_ratio or 1)
