"""What a stored picture looks like on the screen: colours, transparency, shape of pixels, size."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
import pytest
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
from jaxtyping import UInt8
from settings import clips_config

from fvc.encoding import FORMATS, encode
from fvc.video import probe, read_clips


def encoded(
    frames: Sequence[VideoFrame],
    codec: Any = "libx264",
    container: str = "mp4",
    pixel_format: str = "yuv420p",
    set_up: Callable[[Any], None] = lambda stream: None,  # noqa: ARG005
) -> io.BytesIO:
    """One stream of frames that come as they are to be stored."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", FORMATS.get(container, container)) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width, stream.height = frames[0].width, frames[0].height
        stream.pix_fmt = pixel_format
        set_up(stream)
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer


def coloured() -> UInt8[np.ndarray, "H W 3"]:
    """A smooth picture with all colours, dark and light."""
    ramp = np.linspace(0, 255, SIDE_PX)
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    return np.stack([rows, columns, 255 - rows], axis=2).astype(np.uint8)


RANGES = [
    ("libx264", "mp4", "yuv420p", "yuvj420p"),
    ("libx264", "mkv", "yuv444p10le", "yuv444p10le"),
    ("libx265", "mp4", "yuv420p10le", "yuv420p10le"),
    ("libvpx-vp9", "webm", "yuv420p", "yuv420p"),
    ("ffv1", "mkv", "yuv422p", "yuv422p"),
]


@pytest.mark.parametrize(("codec", "container", "limited", "full"), RANGES)
def test_full_and_limited_range_show_the_same(
    codec: str, container: str, limited: str, full: str
) -> None:
    shown = []
    for pixel_format, color_range in ((limited, 1), (full, 2)):
        frames = [
            VideoFrame.from_ndarray(coloured(), "rgb24").reformat(
                format=pixel_format, dst_color_range=color_range
            )
            for _ in range(3)
        ]

        def set_up(stream: Any, color_range: int = color_range) -> None:
            stream.codec_context.color_range = color_range
            stream.codec_context.options = {"crf": "4", "b": "0"} if "vp" in codec else {"crf": "4"}

        source = encoded(frames, codec, container, pixel_format, set_up)
        shown.append(read_clips(source, clips_config(1, 2, SIDE_PX)).pixels.astype(int))
    limited_pixels, full_pixels = shown
    assert np.abs(limited_pixels - full_pixels).mean() < 2, "one of them is too pale or too dark"
    assert np.abs(full_pixels[0, 0].transpose(1, 2, 0) - coloured()).mean() < 4


LOSSLESS = [
    ("ffv1", "mkv", "bgra"),
    ("ffv1", "mkv", "gbrap10le"),
    ("ffv1", "mkv", "yuva420p"),
    ("ffv1", "mkv", "yuva444p10le"),
    ("qtrle", "mov", "argb"),
    ("png", "mov", "rgba"),
    ("prores_ks", "mov", "yuva444p10le"),
]


@pytest.mark.parametrize(("codec", "container", "pixel_format"), LOSSLESS)
def test_black_lies_behind_what_is_transparent(
    codec: str, container: str, pixel_format: str
) -> None:
    pixels = np.full((SIDE_PX, SIDE_PX, 4), 200, np.uint8)
    pixels[..., 3] = np.repeat([255, 0], SIDE_PX // 2)
    frames = [
        VideoFrame.from_ndarray(pixels, "rgba").reformat(format=pixel_format) for _ in range(3)
    ]
    source = encoded(frames, codec, container, pixel_format)
    image = read_clips(source, clips_config(1, 1, SIDE_PX)).pixels[0, 0]
    assert np.abs(image[:, :, : SIDE_PX // 2 - 4].astype(int) - 200).max() <= 3
    assert image[:, :, SIDE_PX // 2 + 4 :].max() <= 1, "what is transparent is shown"


@pytest.mark.parametrize(
    ("codec", "container", "pixel_format"),
    [
        ("libx264rgb", "mp4", "rgb24"),
        ("ffv1", "mkv", "bgr0"),
        ("ffv1", "mkv", "gbrp10le"),
        ("png", "mov", "rgb24"),
        ("qtrle", "mov", "rgb24"),
        ("rawvideo", "avi", "bgr24"),
    ],
)
def test_rgb_is_shown_as_it_is(codec: str, container: str, pixel_format: str) -> None:
    frame = VideoFrame.from_ndarray(coloured(), "rgb24").reformat(format=pixel_format)
    options = {"qp": "0"} if codec == "libx264rgb" else {}

    def set_up(stream: Any) -> None:
        stream.codec_context.options = options

    source = encoded([frame], codec, container, pixel_format, set_up)
    image = read_clips(source, clips_config(1, 1, SIDE_PX)).pixels[0, 0]
    assert np.abs(image.transpose(1, 2, 0).astype(int) - coloured()).max() <= 1


def test_a_matrix_that_is_not_known_is_taken_for_the_usual_one() -> None:
    usual = read_clips(barcode_video(20), CONFIG)
    claimed = barcode_video(20, options={"x264-params": "colormatrix=ycgco"})
    assert np.array_equal(read_clips(claimed, CONFIG).pixels, usual.pixels)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(64, 45)])
def test_pixels_that_are_not_square_are_made_so(container: str, aspect: Fraction) -> None:
    def set_up(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    frames = [VideoFrame.from_ndarray(np.full((48, 96, 3), 200, np.uint8), "rgb24")] * 3
    source = encoded(frames, container=container, set_up=set_up)
    assert (probe(source).width, probe(source).height) == (round(96 * aspect), 48)
    clips = read_clips(source, clips_config(1, 1, SIDE_PX))
    longer = max(96 * aspect, Fraction(48))
    assert (clips.content.width, clips.content.height) == (
        round(SIDE_PX * 96 * aspect / longer),
        round(SIDE_PX * 48 / longer),
    )
    lit = clips.pixels[0, 0].max(axis=0) > 150
    assert lit.sum() == clips.content.width * clips.content.height
    native = read_clips(source, clips_config(1, 1, SIDE_PX, fit="native"))
    assert native.pixels.shape[-2:] == (clips.content.height, clips.content.width)


def of_two_sizes(codec: Any, container: str) -> io.BytesIO:
    """Twenty square frames and then twenty that are twice as wide, in one stream."""
    buffer, packets = io.BytesIO(), []
    with av.open(buffer, "w", FORMATS.get(container, container)) as output:
        stream: Any = output.add_stream(codec, rate=25)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for wide in (1, 2):
            encoder: Any = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height = SIDE_PX * wide, SIDE_PX
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
            encoder.framerate, encoder.options = Fraction(25), {"g": "10"}
            for number, pixels in enumerate(barcodes(20), 20 * (wide - 1)):
                frame = VideoFrame.from_ndarray(pixels.repeat(wide, axis=1), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += encoder.encode(frame)
            packets += encoder.encode(None)
        for packet in packets:
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            output.mux(packet)
    return buffer


@pytest.mark.parametrize(
    ("codec", "container"),
    [("libvpx", "webm"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"), ("libx264", "mpegts")],
)
@pytest.mark.parametrize("fit", ["letterbox", "native"])
def test_frames_that_change_their_size_keep_one_shape(
    codec: str, container: str, fit: Literal["letterbox", "native"], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = of_two_sizes(codec, container)
    clips = read_clips(source, replace(CONFIG, fit=fit))
    assert clips.pixels.shape == (2, 5, 3, SIDE_PX, SIDE_PX)
    assert clips.content == (0, 0, SIDE_PX, SIDE_PX), "the first frame is not what decides"
    bars = clips.pixels[1].max(axis=(0, 1, 3))
    assert not bars[: SIDE_PX // 4].any(), "a wide frame was stretched into the square"
    assert bars[SIDE_PX // 4 : -SIDE_PX // 4].min() > 50
    wide = clips.pixels[1, :, :, SIDE_PX // 4 : -SIDE_PX // 4].repeat(2, axis=2)
    shown = replace(clips, pixels=np.stack([clips.pixels[0], wide]))
    assert numbers_shown(shown) == evenly_spaced(20, clips_config(1, 5, SIDE_PX)) * 2
    whole = in_sequence(source, monkeypatch)
    assert np.array_equal(whole.pixels, read_clips(source, CONFIG).pixels)


def test_a_wide_first_frame_makes_room_for_a_square_one() -> None:
    """In native clips the first frame decides; here the second half comes first."""
    wide = np.full((32, 96, 3), 200, np.uint8)
    first, second = io.BytesIO(), io.BytesIO()
    encode(first, [wide] * 10, container="mpegts")
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    encode(second, [tall] * 10, container="mpegts", times_s=[0.4 + 0.04 * k for k in range(10)])
    joined = io.BytesIO(first.getvalue() + second.getvalue())
    clips = read_clips(joined, clips_config(1, 4, 48, fit="native"))
    assert clips.pixels.shape == (1, 4, 3, 16, 48)
    assert clips.pixels[0, :2].min() > 150
    lit = clips.pixels[0, 3].max(axis=0) > 150
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    assert len(rows) == 16
    assert len(columns) == round(16 / 3)
    assert abs(int(columns[0]) - (47 - int(columns[-1]))) <= 1, "the picture is not in the middle"
