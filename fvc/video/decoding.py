"""Behind `fvc.video`: opens a video, lists its packets, and decodes all or chosen frames."""

import gc
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from io import BufferedIOBase
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet as AvPacket
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Int64

from fvc.video.errors import OutOfMemoryError, VideoError
from fvc.video.limits import Limits
from fvc.video.packets import (
    NO_TIME,
    Clock,
    Packets,
    Timeline,
    by_appearance,
    packets_to_send,
    timeline,
)
from fvc.video.picture import Image

# Only these demuxers are tried: others open whatever files and addresses a
# text file names (playlists), or take a single image for a video.
CONTAINERS = "mov,matroska,avi,flv,asf,mpeg,mpegts,ogg,gif,h264,hevc,m4v,mpegvideo,ivf,rm,mxf,dv"
# What these begin with, within the first bytes: a file that cannot be opened was cut.
BEGINNINGS = (b"ftyp", b"moov", b"mdat", b"\x1aE\xdf\xa3", b"AVI ", b"FLV\x01", b"OggS")
NUM_FIRST_BYTES = 16

# These store at most when a frame is decoded, which FFmpeg then takes for when it appears.
DECODING_TIMES_ONLY = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
# These know where their packets are, at the latest when all of them were read.
INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
# Numbers that describe a packet: its times and size, and what it is.
NUM_COLUMNS = 7
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


class PlanFailedError(Exception):
    """The chosen packets did not give the expected frames."""


def scan(
    container: InputContainer, stream: VideoStream, limits: Limits | None = None
) -> tuple[Packets, Clock]:
    """Read every packet of a video once, without decoding any.

    Raises:
        VideoError: It cannot be used, or has more packets than the limits allow.
    """
    rows = array("q")
    for number, packet in enumerate(_packets(container, stream), 1):
        if limits is not None and number > limits.max_frames:
            raise VideoError("too_many_frames", f"above {limits.max_frames}")
        rows.extend(_described(packet))
    table = np.frombuffer(rows, np.int64).reshape(-1, NUM_COLUMNS)
    times, flags = table[:, :-3].T, table[:, -3:].T.astype(bool)
    packets = Packets(*np.ascontiguousarray(times), *flags)
    rate = stream.average_rate or stream.guessed_rate
    clock = Clock(
        tick_s=stream.time_base or Fraction(0),
        frame_s=1 / rate if rate else None,
        reorders=bool(stream.codec_context.has_b_frames),
        tells_appearance=container.format.name not in DECODING_TIMES_ONLY,
    )
    if not packets.is_shown.any():
        raise VideoError("undecodable", "the video stream shows no packet")
    if not clock.tick_s:
        raise VideoError("no_timing", "its timestamps have no unit")
    return packets, clock


def packet_timeline(packets: Packets, clock: Clock) -> Timeline:
    """When each frame is shown, by what the packets say."""
    shown = by_appearance(packets)
    return _timeline(packets.pts[shown], int(packets.durations[shown[-1]]), clock)


def frame_timeline(
    source: Path | BufferedIOBase, clock: Clock, limits: Limits | None = None
) -> Timeline:
    """When each frame is shown, learned by decoding them all."""
    pts, duration = array("q"), 0
    with opened(source) as (container, stream):
        for frame in decode(container, stream, limits):
            pts.append(_time(frame.pts))
            duration = frame.duration or 0
    if not pts:
        raise VideoError("undecodable", "no frame comes out")
    return _timeline(np.frombuffer(pts, np.int64), duration, clock)


def take_planned(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    numbers: Sequence[int],
    convert: Convert,
    limits: Limits | None = None,
) -> Iterator[tuple[int, Image]]:
    """Convert frames by their numbers, as they come, decoding no more than they need.

    Args:
        container: The video, just opened, or scanned if it `goes_back`.
        stream: Its moving pictures.
        packets: All packets, such that `distrust` gives None.
        numbers: Frames in the order of appearance, from 0.
        convert: Makes an array of a frame.
        limits: Of its frames.

    Raises:
        PlanFailedError: What came out is not certain to be these frames.
        VideoError: A frame is beyond the limits.
    """
    targets = by_appearance(packets)[numbers]
    number_at = dict(zip(packets.pts[targets].tolist(), numbers, strict=True))
    runs = packets_to_send(packets, targets.tolist())
    starts = {int(packets.pts[run.start]) for run in runs}
    for frame in _decode_runs(container, stream, packets, runs, {*targets.tolist()}):
        if limits is not None:
            limits.require_frame(frame)
        # From a frame wrongly listed as a key frame, some decoders go on in grey.
        if frame.pts in starts and not frame.key_frame:
            raise PlanFailedError("a frame listed as key frame is none")
        number = number_at.pop(frame.pts, None)
        if number is None:
            continue
        if frame.is_corrupt:
            raise PlanFailedError(f"frame {number} comes out damaged")
        yield number, convert(frame, stream)
    if number_at:
        raise PlanFailedError(f"{len(number_at)} frames do not come out")


def take_in_sequence(
    source: Path | BufferedIOBase,
    numbers: Sequence[int],
    convert: Convert,
    limits: Limits | None = None,
) -> Iterator[tuple[int, Image]]:
    """Convert frames by their numbers, as they come, decoding all up to the last of them."""
    wanted = set(numbers)
    with opened(source) as (container, stream):
        for number, frame in enumerate(decode(container, stream, limits)):
            if number in wanted:
                wanted.remove(number)
                yield number, convert(frame, stream)
            if not wanted:
                break


def decode(
    container: InputContainer, stream: VideoStream, limits: Limits | None = None
) -> Iterator[VideoFrame]:
    """Every frame that comes out, in order, past packets that the decoder refuses.

    Raises:
        VideoError: A frame is beyond the limits.
    """
    for packet in chain(_packets(container, stream), [None]):
        try:
            frames = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if limits is not None:
                limits.require_frame(frame)
            yield frame


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
    try:
        with container:
            yield container, _moving_pictures(container)
    except MemoryError as error:
        raise OutOfMemoryError from error
    except av.error.FFmpegError as error:
        raise VideoError("undecodable", _said(error)) from error
    finally:
        # Frames whose side data was looked at refer to themselves; they are young.
        gc.collect(1)


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


def _described(packet: "AvPacket[VideoStream]") -> tuple[int, ...]:
    """The columns of `Packets`."""
    # To ask for each kind costs more than reading the packet, and most packets have none.
    has_more = next(packet.iter_sidedata(), None) is not None
    changes = has_more and any(packet.has_sidedata(change) for change in CHANGES)
    return (
        _time(packet.pts),
        _time(packet.dts),
        packet.duration or 0,
        packet.size,
        packet.is_keyframe,
        not packet.is_discard,
        not (packet.is_corrupt or changes),
    )


def goes_back(container: InputContainer) -> bool:
    """Whether packets that were read once can be read again without opening it anew."""
    return container.format.name in INDEXED


def _decode_runs(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    runs: Sequence[range],
    targets: set[int],
) -> Iterator[VideoFrame]:
    context = stream.codec_context
    skips = _skips_safely(stream)
    ends = {run[-1] for run in runs}
    pick = _sought if goes_back(container) else _counted
    try:
        for position, packet in pick(container, stream, packets, runs):
            if skips:
                context.skip_frame = "DEFAULT" if position in targets else "NONREF"
            yield from context.decode(packet)
            if position in ends:
                yield from context.decode(None)
                context.flush_buffers()
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        raise PlanFailedError(f"a packet is refused ({error.strerror})") from error


def _counted(
    container: InputContainer, stream: VideoStream, _: Packets, runs: Sequence[range]
) -> "Iterator[tuple[int, AvPacket[VideoStream]]]":
    """The packets of these runs and their positions, by reading all."""
    wanted = chain.from_iterable(runs)
    position = next(wanted)
    for place, packet in enumerate(_packets(container, stream)):
        if place == position:
            yield position, packet
            position = next(wanted, -1)
        if position < 0:
            return


def _sought(
    container: InputContainer, stream: VideoStream, packets: Packets, runs: Sequence[range]
) -> "Iterator[tuple[int, AvPacket[VideoStream]]]":
    """The packets of these runs and their positions, by going to the start of each.

    Wherever that leads, packets are known again by when they appear, which is
    different for each, and by their size.
    """
    for run in runs:
        times = (int(column[run.start]) for column in (packets.pts, packets.dts))
        container.seek(min(time for time in times if time != NO_TIME), stream=stream)
        # At worst it leads to the first packet.
        read = islice(_packets(container, stream), run.stop)
        arrived = dropwhile(partial(_differs, packets, run.start), read)
        for position, packet in zip(run, arrived, strict=False):
            if _differs(packets, position, packet):
                raise PlanFailedError("a packet is not where it was")
            yield position, packet


def _differs(packets: Packets, position: int, packet: "AvPacket[VideoStream]") -> bool:
    return (packets.pts[position], packets.sizes_bytes[position]) != (packet.pts, packet.size)


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


def _time(value: int | None) -> int:
    return NO_TIME if value is None else value


def _timeline(pts: Int64[np.ndarray, " frames"], last_duration: int, clock: Clock) -> Timeline:
    try:
        return timeline(pts, last_duration, clock)
    except ValueError as error:
        raise VideoError("no_timing", str(error)) from error
