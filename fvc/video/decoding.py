"""Behind `fvc.video`: opens a video, lists its packets, and decodes all or chosen frames."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.packet import Packet as AvPacket
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fvc.video.packets import Clock, Packet, Timeline, by_appearance, packets_to_send, timeline
from fvc.video.picture import Image

REASONS = (
    "empty",
    "not_a_video",
    "truncated",
    "no_video_stream",
    "undecodable",
    "no_timing",
    "too_short",
)
"""Why a file is refused: it has no bytes; it is no video file; it starts like one, but
what is needed to read it is missing; it holds no moving pictures; no frame comes out;
it says nothing about time; it has too few frames."""

# Only these demuxers are tried: others open whatever files and addresses a
# text file names (playlists), or take a single image for a video.
CONTAINERS = "mov,matroska,avi,flv,asf,mpeg,mpegts,ogg,gif,h264,hevc,m4v,mpegvideo,ivf,rm,mxf,dv"
# What these begin with, within the first bytes: a file that cannot be opened was cut.
BEGINNINGS = (b"ftyp", b"moov", b"mdat", b"\x1aE\xdf\xa3", b"AVI ", b"FLV\x01", b"OggS")
NUM_FIRST_BYTES = 16

# These store at most when a frame is decoded, which FFmpeg then takes for when it appears.
DECODING_TIMES_ONLY = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# Side data of a packet that changes the decoder for all packets after it.
CHANGES: tuple[Literal["new_extradata"], Literal["param_change"]] = (
    "new_extradata",
    "param_change",
)
# Codecs that mark frames to which no other frame refers.
MARKS_UNREFERENCED = {"h264", "hevc", "mpeg2video", "mpeg4"}

Convert = Callable[[VideoFrame, VideoStream], Image]

# FFmpeg's complaints about damaged files go nowhere: what counts is an exception.
av.logging.set_level(None)


class VideoError(Exception):
    """A file that cannot be used as a video, for one of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)

    @property
    def reason(self) -> str:
        """One of `REASONS`."""
        return self.args[0]

    @property
    def detail(self) -> str:
        """What was found, in words."""
        return self.args[1]

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})"


class OutOfMemoryError(VideoError, MemoryError):
    """A file whose decoding takes more memory than there is."""

    def __init__(self) -> None:
        VideoError.__init__(self, "undecodable", "decoding it takes more memory than there is")

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class PlanFailedError(Exception):
    """The chosen packets did not give the expected frames."""


def scan(source: Path | BufferedIOBase) -> tuple[list[Packet], Clock]:
    """Read every packet of a video once, without decoding any.

    Raises:
        VideoError: It cannot be used.
    """
    with opened(source) as (container, stream):
        packets = [_described(packet) for packet in _packets(container, stream)]
        rate = stream.average_rate or stream.guessed_rate
        clock = Clock(
            tick_s=stream.time_base or Fraction(0),
            frame_s=1 / rate if rate else None,
            reorders=stream.codec_context.has_b_frames,
            tells_appearance=container.format.name not in DECODING_TIMES_ONLY,
        )
    if not any(packet.is_shown for packet in packets):
        raise VideoError("undecodable", "the video stream shows no packet")
    if not clock.tick_s:
        raise VideoError("no_timing", "its timestamps have no unit")
    return packets, clock


def packet_timeline(packets: Sequence[Packet], clock: Clock) -> Timeline:
    """When each frame is shown, by what the packets say."""
    shown = [packets[position] for position in by_appearance(packets)]
    return _timeline([packet.pts for packet in shown], shown[-1].duration, clock)


def frame_timeline(source: Path | BufferedIOBase, clock: Clock) -> Timeline:
    """When each frame is shown, learned by decoding them all."""
    with opened(source) as (container, stream):
        shown = [(frame.pts, frame.duration or 0) for frame in decode(container, stream)]
    if not shown:
        raise VideoError("undecodable", "no frame comes out")
    return _timeline([pts for pts, _ in shown], shown[-1][1], clock)


def take_planned(
    source: Path | BufferedIOBase,
    packets: Sequence[Packet],
    numbers: Sequence[int],
    convert: Convert,
) -> dict[int, Image]:
    """Convert frames by their numbers, decoding no more than they need.

    Args:
        source: The video.
        packets: All its packets, such that `distrust` gives None.
        numbers: Frames in the order of appearance, from 0.
        convert: Makes an array of a frame.

    Raises:
        PlanFailedError: What came out is not certain to be these frames.
    """
    positions = by_appearance(packets)
    targets = {positions[number] for number in numbers}
    number_at = {packets[positions[number]].pts: number for number in numbers}
    runs = packets_to_send(packets, [*targets])
    starts = {packets[run.start].pts for run in runs}
    images: dict[int, Image] = {}
    with opened(source) as (container, stream):
        for frame in _decode_runs(container, stream, runs, targets):
            # From a frame wrongly listed as a key frame, some decoders go on in grey.
            if frame.pts in starts and not frame.key_frame:
                raise PlanFailedError("a frame listed as key frame is none")
            number = number_at.get(frame.pts)
            if number is None or number in images:
                continue
            if frame.is_corrupt:
                raise PlanFailedError(f"frame {number} comes out damaged")
            images[number] = convert(frame, stream)
    if len(images) < len(number_at):
        raise PlanFailedError(f"{len(number_at) - len(images)} frames do not come out")
    return images


def take_in_sequence(
    source: Path | BufferedIOBase, numbers: Sequence[int], convert: Convert
) -> dict[int, Image]:
    """Convert frames by their numbers, decoding all up to the last of them."""
    wanted = set(numbers)
    images: dict[int, Image] = {}
    with opened(source) as (container, stream):
        for number, frame in enumerate(decode(container, stream)):
            if number in wanted:
                images[number] = convert(frame, stream)
            if len(images) == len(wanted):
                break
    return images


def decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that comes out, in order, past packets that the decoder refuses."""
    for packet in chain(_packets(container, stream), [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            continue
        yield from frames


@contextmanager
def opened(source: Path | BufferedIOBase) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video and find its stream of moving pictures; one thread decodes.

    Raises:
        VideoError: It cannot be used.
    """
    start = _first_bytes(source)
    if not start:
        raise VideoError("empty", "it has no bytes")
    # The prefix keeps FFmpeg from reading a name with a colon as an address.
    file = f"file:{source}" if isinstance(source, Path) else source
    options = {"format_whitelist": CONTAINERS}
    try:
        # Titles and the like may be in any encoding.
        container = av.open(file, "r", container_options=options, metadata_errors="replace")
    except MemoryError as error:
        raise OutOfMemoryError from error
    except av.error.FFmpegError as error:
        reason = "truncated" if any(bytes_ in start for bytes_ in BEGINNINGS) else "not_a_video"
        raise VideoError(reason, _said(error)) from error
    with container:
        try:
            yield container, _moving_pictures(container)
        except MemoryError as error:
            raise OutOfMemoryError from error
        except av.error.FFmpegError as error:
            raise VideoError("undecodable", _said(error)) from error


def _said(error: av.error.FFmpegError) -> str:
    return error.strerror or type(error).__name__


def _first_bytes(source: Path | BufferedIOBase) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(NUM_FIRST_BYTES)
    source.seek(0)
    start = source.read(NUM_FIRST_BYTES)
    source.seek(0)
    return start


def _moving_pictures(container: InputContainer) -> VideoStream:
    """The video stream that players show; a cover picture is none."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError("no_video_stream", f"it holds {kinds}")
    stream = max(streams, key=lambda s: (bool(s.disposition & Disposition.default), -s.index))
    if stream.codec_context is None:
        raise VideoError("undecodable", "no decoder knows its codec")
    stream.codec_context.thread_count = 1
    return stream


def _packets(container: InputContainer, stream: VideoStream) -> "Iterator[AvPacket[VideoStream]]":
    """The packets of a stream that hold something, up to where the file breaks off."""
    try:
        # An empty packet would tell the decoder that the video ends.
        yield from (packet for packet in container.demux(stream) if packet.size)
    except MemoryError:
        raise
    # At the end of a file in which a stream showed up halfway, PyAV looks for it in vain.
    except (av.error.FFmpegError, IndexError):
        return


def _described(packet: "AvPacket[VideoStream]") -> Packet:
    changes = any(packet.has_sidedata(change) for change in CHANGES)
    return Packet(
        pts=packet.pts,
        dts=packet.dts,
        duration=packet.duration or 0,
        size_bytes=packet.size,
        is_key=packet.is_keyframe,
        is_shown=not packet.is_discard,
        is_sound=not (packet.is_corrupt or changes),
    )


def _decode_runs(
    container: InputContainer, stream: VideoStream, runs: Sequence[range], targets: set[int]
) -> Iterator[VideoFrame]:
    context = stream.codec_context
    skips = _skips_safely(stream)
    remaining = iter(runs)
    run = next(remaining)
    try:
        for position, packet in enumerate(_packets(container, stream)):
            if position not in run:
                continue
            if skips:
                context.skip_frame = "DEFAULT" if position in targets else "NONREF"
            yield from context.decode(packet)
            if position == run[-1]:
                yield from context.decode(None)
                context.flush_buffers()
                run = next(remaining, range(0))
            if not run:
                return
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise PlanFailedError(f"a packet is refused ({error.strerror})") from error


def _skips_safely(stream: VideoStream) -> bool:
    """Whether frames that are marked as unreferenced may be left out.

    In HEVC the mark holds within one temporal layer only, so there must be one:
    byte 21 of the decoder configuration record (ISO/IEC 14496-15, 8.3.2) counts
    them.
    """
    if stream.codec_context.name != "hevc":
        return stream.codec_context.name in MARKS_UNREFERENCED
    record = stream.codec_context.extradata or b""
    return len(record) > 21 and record[0] == 1 and (record[21] >> 3) & 7 == 1


def _timeline(pts: Sequence[int | None], last_duration: int, clock: Clock) -> Timeline:
    try:
        return timeline(pts, last_duration, clock)
    except ValueError as error:
        raise VideoError("no_timing", str(error)) from error
