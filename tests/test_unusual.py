"""Videos as they are in the wild: what containers and codecs allow, and players show."""

import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from av.video.frame import VideoFrame
from barcodes import (
    CONFIG,
    SIDE_PX,
    barcode_video,
    barcodes,
    evenly_spaced,
    in_sequence,
    numbers_shown,
)

from fvc.encoding import FORMATS
from fvc.video import probe, read_clips

X264 = {"g": "12", "bf": "3"}
NOTHING: Mapping[str, str] = MappingProxyType({})


def remuxed(
    source: io.BytesIO,
    container: str,
    shift: Callable[[Any], None],
    options: Mapping[str, str] = NOTHING,
) -> io.BytesIO:
    """The same packets in a new file, each changed on its way."""
    target = io.BytesIO()
    source.seek(0)
    with (
        av.open(source, "r") as given,
        av.open(
            target, "w", FORMATS.get(container, container), container_options={**options}
        ) as output,
    ):
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                shift(packet)
                packet.stream = stream
                output.mux(packet)
    return target


def later(seconds: float) -> Callable[[Any], None]:
    def shift(packet: Any) -> None:
        ticks = round(seconds / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks

    return shift


def spaced_from(first: int, stop: int) -> list[list[int]]:
    return [[first + number for number in clip] for clip in evenly_spaced(stop - first)]


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("options", [{"g": "12", "bf": "0"}, X264, {"g": "50", "bf": "3"}])
def test_what_an_edit_list_cuts_off_is_not_shown(
    container: str, options: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = barcode_video(options={**options, "x264-params": "scenecut=0"}, container=container)
    cut = remuxed(whole, container, later(-0.6), {"avoid_negative_ts": "disabled"})
    clips = read_clips(cut, CONFIG)
    assert numbers_shown(clips) == spaced_from(15, 50), "frames outside the edit list are shown"
    assert np.array_equal(clips.pixels, in_sequence(cut, monkeypatch).pixels)
    assert clips.spans_s[-1][1] == pytest.approx(35 / 25)
    assert probe(cut).frames == 35


def test_an_edit_list_that_waits_changes_nothing() -> None:
    clips = read_clips(remuxed(barcode_video(options=X264), "mp4", later(3.0)), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.decoded_in_sequence is None


@pytest.mark.parametrize("seconds_before", [0.5, 1.0, 1.5])
def test_a_clock_that_overflows_changes_nothing(seconds_before: float) -> None:
    """MPEG-TS counts with 33 bits; what lies before the overflow gets negative times."""
    whole = barcode_video(options=X264, container="mpegts")
    start = 2**33 / 90000 - seconds_before - 1.4
    options = {"mpegts_copyts": "1", "avoid_negative_ts": "disabled"}
    clips = read_clips(remuxed(whole, "mpegts", later(start), options), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.spans_s[-1][1] == pytest.approx(2.0)


def swapped(packet: Any) -> None:
    """Let the second and third of four frames appear in each other's place."""
    frame = round(Fraction(1, 25) / packet.time_base)
    number = round(packet.pts / frame)
    packet.dts -= 2 * frame
    packet.pts += {1: frame, 2: -frame}.get(number % 4, 0)


@pytest.mark.parametrize(("codec", "container"), [("libx264", "mp4"), ("libx264", "mpegts")])
def test_frames_stored_out_of_order_are_shown_when_they_say(codec: str, container: str) -> None:
    plain = barcode_video(52, codec=codec, container=container, options={"g": "12", "bf": "0"})
    clips = read_clips(remuxed(plain, container, swapped), CONFIG)
    places = {1: 1, 2: -1}
    expected = [
        [number + places.get(number % 4, 0) for number in clip] for clip in evenly_spaced(52)
    ]
    assert numbers_shown(clips) == expected
    assert clips.decoded_in_sequence is None


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_frames_whose_times_run_backwards_are_shown_as_stored(codec: str) -> None:
    plain = barcode_video(codec=codec, container="mkv", options={"g": "12", "bf": "0"})
    clips = read_clips(remuxed(plain, "mkv", swapped), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.decoded_in_sequence == "decoding times run backwards"


@pytest.mark.parametrize(("codec", "container"), [("libx264", "h264"), ("libx265", "hevc")])
def test_frames_without_any_times_are_evenly_spaced(codec: str, container: str) -> None:
    options = X264 if codec == "libx264" else {"x265-params": "keyint=12:bframes=4"}
    source = barcode_video(codec=codec, container=container, options=options)
    clips = read_clips(source, CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.decoded_in_sequence == "a timestamp is missing"
    assert probe(source).frames == 50


FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("mp4", {"movflags": FRAGMENTED}),
        ("mkv", {"live": "1"}),
        ("webm", {"cues_to_front": "1", "reserve_index_space": "1000"}),
    ],
)
def test_where_the_index_lies_changes_nothing(
    container: str, options: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    plain = barcode_video(codec=codec, options={"g": "12"})
    moved = remuxed(plain, container, later(0), options)
    clips = read_clips(moved, CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.decoded_in_sequence is None
    assert np.array_equal(clips.pixels, in_sequence(moved, monkeypatch).pixels)


def test_a_file_in_which_seeking_leads_astray_is_decoded_in_sequence() -> None:
    whole = barcode_video(container="mkv", options={"g": "5"}).getvalue()
    # The index says in which cluster each key frame is; let it be the last one for all.
    index = whole.rindex(b"\x1c\x53\xbb\x6b")
    places = [place for place in range(index, len(whole)) if whole.startswith(b"\xf1\x82", place)]
    assert len(places) > 5
    wrong = bytearray(whole)
    for place in places:
        wrong[place : place + 4] = whole[places[-1] : places[-1] + 4]
    clips = read_clips(io.BytesIO(bytes(wrong)), CONFIG)
    assert clips.decoded_in_sequence is not None
    assert numbers_shown(clips) == evenly_spaced(50)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mpegts"])
@pytest.mark.parametrize(("default", "wanted"), [(None, 0), (0, 0), (1, 1)])
def test_of_several_videos_in_one_file_the_default_is_shown(
    container: str, default: int | None, wanted: int
) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", FORMATS.get(container, container)) as output:
        streams = []
        for number in range(2):
            stream: Any = output.add_stream("libx264", rate=25)
            stream.width = stream.height = SIDE_PX
            stream.pix_fmt = "yuv420p"
            stream.disposition = Disposition.default if number == default else Disposition.captions
            streams.append(stream)
        for pictures in zip(barcodes(30), [*barcodes(40)][10:], strict=True):
            for stream, pixels in zip(streams, pictures, strict=True):
                output.mux(stream.encode(VideoFrame.from_ndarray(pixels, "rgb24")))
        for stream in streams:
            output.mux(stream.encode(None))
    tells = container != "mpegts"
    expected = spaced_from(10, 40) if wanted and tells else evenly_spaced(30)
    assert numbers_shown(read_clips(buffer, CONFIG)) == expected


@pytest.mark.parametrize("cover_first", [False, True])
def test_a_cover_picture_is_not_the_video(cover_first: bool) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as output:
        streams: dict[str, Any] = {}
        for kind in sorted(["cover", "video"], reverse=not cover_first):
            stream: Any = output.add_stream("mjpeg" if kind == "cover" else "libx264", rate=25)
            stream.width = stream.height = 128 if kind == "cover" else SIDE_PX
            stream.pix_fmt = "yuvj420p" if kind == "cover" else "yuv420p"
            if kind == "cover":
                stream.disposition = Disposition.attached_pic
            streams[kind] = stream
        white = VideoFrame.from_ndarray(np.full((128, 128, 3), 255, np.uint8), "rgb24")
        output.mux([*streams["cover"].encode(white), *streams["cover"].encode(None)])
        for pixels in barcodes(30):
            output.mux(streams["video"].encode(VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(streams["video"].encode(None))
    assert numbers_shown(read_clips(buffer, CONFIG)) == evenly_spaced(30)
    assert (probe(buffer).codec, probe(buffer).frames) == ("h264", 30)


def test_an_attached_picture_is_not_the_video() -> None:
    cover = cv2.imencode(".jpg", np.full((128, 128, 3), 255, np.uint8))[1].tobytes()
    buffer = io.BytesIO()
    with av.open(buffer, "w", "matroska") as output:
        output.add_attachment("cover.jpg", "image/jpeg", cover)
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for pixels in barcodes(30):
            output.mux(stream.encode(VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as written:
        assert len(written.streams) == 2
    assert numbers_shown(read_clips(buffer, CONFIG)) == evenly_spaced(30)


@pytest.mark.parametrize("container", ["mp4", "mkv", "avi", "mpegts", "flv"])
def test_texts_in_no_known_encoding_are_no_harm(container: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", FORMATS.get(container, container)) as output:
        output.metadata["title"] = output.metadata["service_name"] = "placeholder"
        stream: Any = output.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for pixels in barcodes(20):
            output.mux(stream.encode(VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(stream.encode(None))
    assert b"placeholder" in buffer.getvalue()
    garbled = buffer.getvalue().replace(b"placeholder", b"pl\xe4\xff\xfe\x80\xc3er\xf0\x9f")
    assert numbers_shown(read_clips(io.BytesIO(garbled), CONFIG)) == evenly_spaced(20)
