import gc
import io
import pickle
import struct
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import cv2
import numpy as np
import pytest
from barcodes import (
    CONFIG,
    SIDE_PX,
    barcode_video,
    barcodes,
    evenly_spaced,
    numbers_shown,
    read_barcode,
)
from settings import clips_config

from fvc.encoding import encode
from fvc.sampling import sample_frames
from fvc.video import REASONS, OutOfMemoryError, VideoError, probe, read_clips, read_frames

# A folder beside the repository, of broken and unusual files.
DAMAGED = Path(__file__).parents[2] / "shared" / "damaged"


X264 = {"g": "12", "bf": "3"}
MPEG4 = {"g": "12", "bf": "2", "b": "2M"}
UNPICKABLE = [
    # AVI stores decoding times alone.
    ("libx264", "avi", X264, "nothing tells the order of appearance"),
    # Decoding can start anywhere, but is right only after some frames.
    ("libx264", "mp4", X264 | {"x264-params": "intra-refresh=1"}, "frames do not come out"),
]


@pytest.mark.parametrize(("codec", "container", "options", "reason"), UNPICKABLE)
def test_where_frames_cannot_be_picked_all_are_decoded(
    codec: str, container: str, options: Mapping[str, str], reason: str
) -> None:
    clips = read_clips(barcode_video(codec=codec, container=container, options=options), CONFIG)
    assert reason in (clips.decoded_in_sequence or "")
    assert numbers_shown(clips) == evenly_spaced(50)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", X264),
        ("libx265", {"x265-params": "keyint=12:bframes=4"}),
        ("mpeg4", MPEG4),
        ("mpeg4", MPEG4 | {"bf": "0"}),
        ("libvpx-vp9", {"g": "12"}),
    ],
)
def test_a_file_that_calls_every_frame_a_key_frame_is_not_believed(
    codec: str, options: Mapping[str, str]
) -> None:
    whole = barcode_video(codec=codec, options=options).getvalue()
    assert whole.count(b"stss") == 1
    # Without its table of key frames, an mp4 file says that all frames are.
    clips = read_clips(io.BytesIO(whole.replace(b"stss", b"free")), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)


@pytest.mark.parametrize("num_frames", [12, 25, 50, 90])
def test_rolling_windows_are_as_many_as_the_video_is_long(num_frames: int) -> None:
    config = clips_config(4, 5, SIDE_PX, views="rolling", window_s=1.0, stride_s=0.4)
    clips = read_clips(barcode_video(num_frames), config)
    windows = {12: [(0, 12)], 25: [(0, 25)], 50: [(0, 25), (10, 35), (20, 45), (25, 50)]}
    # Of eight windows (the last one ends with the video) four are kept.
    windows[90] = [(0, 25), (20, 45), (40, 65), (65, 90)]
    assert clips.spans_s == tuple((start / 25, end / 25) for start, end in windows[num_frames])
    expected = [
        [(2 * (start + number * (end - start) / 5) + (end - start) / 5) // 2 for number in range(5)]
        for start, end in windows[num_frames]
    ]
    assert numbers_shown(clips) == expected


def test_the_cheapest_frame_of_each_part_is_shown() -> None:
    source = barcode_video(options={"g": "20", "bf": "0", "sc_threshold": "0"})
    config = clips_config(1, 5, SIDE_PX, sampling="segment")
    clips = read_clips(source, config)
    # Parts of ten frames; key frames are 0, 20 and 40; the second and fourth have none.
    assert numbers_shown(clips) == [[5, 10, 25, 30, 40]]
    assert clips.decoded_in_sequence is None


def test_where_frames_cannot_be_picked_the_cheapest_are_the_central_ones() -> None:
    config = replace(CONFIG, sampling="segment")
    clips = read_clips(barcode_video(container="avi", options=X264), config)
    assert clips.decoded_in_sequence is not None
    assert numbers_shown(clips) == evenly_spaced(50)


@pytest.mark.parametrize("rotation_deg", [0, 90])
@pytest.mark.parametrize(("width", "height"), [(96, 48), (48, 96), (64, 64), (320, 16)])
def test_native_clips_have_no_letterbox(width: int, height: int, rotation_deg: int) -> None:
    buffer = io.BytesIO()
    encode(buffer, [np.full((height, width, 3), 200, np.uint8)] * 4, rotation_deg=rotation_deg)
    shown = (width, height) if rotation_deg else (height, width)
    expected = tuple(max(48 * size // max(shown), 1) for size in shown)
    native = read_clips(buffer, clips_config(1, 2, 48, fit="native"))
    assert native.pixels.shape == (1, 2, 3, *expected)
    assert native.content == (0, 0, *expected)
    assert native.pixels.min() > 180, "there is a black bar"
    boxed = read_clips(buffer, clips_config(1, 2, 48))
    top, left, rows, columns = boxed.content
    assert (rows, columns) == expected
    inside = boxed.pixels[..., top : top + rows, left : left + columns]
    assert np.array_equal(inside, native.pixels), "the content is not where it is said to be"


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_rotated_videos_are_upright(rotation_deg: int, container: str) -> None:
    source = barcode_video(rotation_deg=rotation_deg, container=container)
    assert numbers_shown(read_clips(source, CONFIG)) == evenly_spaced(50)
    assert probe(source).rotation_deg == (360 - rotation_deg) % 360


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
def test_mirrored_videos_are_upright(rotation_deg: int) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(rotation_deg, hflip=True)
        for frame in barcodes(5):
            # The mirror comes after the turn, so it goes before its inverse.
            stored = np.rot90(frame[:, ::-1], -rotation_deg // 90)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), "rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    assert numbers_shown(read_clips(buffer, CONFIG)) == evenly_spaced(5)


@pytest.mark.parametrize("container", ["mp4", "mkv", "mpegts"])
def test_a_late_start_changes_nothing(container: str) -> None:
    times_s = [5.0 + 0.04 * number for number in range(50)]
    clips = read_clips(barcode_video(times_s=times_s, container=container), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)
    assert clips.spans_s == ((0.0, 1.0), (1.0, 2.0))


@pytest.mark.parametrize("container", ["mp4", "mkv", "webm"])
def test_clips_are_spans_of_time_not_of_frames(container: str) -> None:
    lengths_ms = np.random.default_rng(1).integers(5, 200, 39)
    starts_ms = [0, *np.cumsum(lengths_ms).tolist()]
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    times_s = [start / 1000 for start in starts_ms]
    source = barcode_video(40, times_s=times_s, container=container, codec=codec, fps=25)
    end_ms = round(1000 * probe(source).duration_s)
    expected = sample_frames(np.array([*starts_ms, end_ms]), 2, 5).tolist()
    assert numbers_shown(read_clips(source, CONFIG)) == expected
    assert expected != evenly_spaced(40)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_a_short_video_repeats_its_frames(num_frames: int) -> None:
    clips = read_clips(barcode_video(num_frames), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(num_frames)
    assert clips.pixels.shape == (2, 5, 3, SIDE_PX, SIDE_PX)


@pytest.mark.parametrize("name", ["concat:it's 100%.mp4", "-i.mp4", "http:x", "%03d.mp4"])
def test_a_path_and_its_bytes_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    source, path = barcode_video(sound=True), Path(name)
    path.write_bytes(source.getvalue())
    assert probe(path) == probe(source)
    from_path, from_bytes = read_clips(path, CONFIG), read_clips(source, CONFIG)
    assert np.array_equal(from_path.pixels, from_bytes.pixels)
    assert from_path.spans_s == from_bytes.spans_s
    assert np.array_equal(read_frames(path, 5.0, 64, 16), read_frames(source, 5.0, 64, 16))


@pytest.mark.parametrize("num_frames", [3, 50])
def test_the_probe_describes_what_is_there(num_frames: int) -> None:
    source = io.BytesIO()
    frames = (np.full((48, 86, 3), 20 * (number % 10), np.uint8) for number in range(num_frames))
    encode(source, frames, fps=Fraction(30000, 1001), rotation_deg=90, sound=True)
    info = probe(source)
    assert (info.width, info.height, info.rotation_deg) == (48, 86, 270)
    assert (info.codec, info.pixel_format, info.frames) == ("h264", "yuv420p", num_frames)
    assert info.fps == pytest.approx(30000 / 1001, rel=1e-3)
    assert info.duration_s == pytest.approx(num_frames * 1001 / 30000, rel=1e-3)
    assert 0 < info.bitrate_bps * info.duration_s / 8 < len(source.getvalue())


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p10le", "yuv422p"])
def test_other_pixel_formats_show_the_same_frames(pixel_format: str) -> None:
    source = barcode_video(20, pixel_format=pixel_format)
    assert probe(source).pixel_format == pixel_format
    assert numbers_shown(read_clips(source, CONFIG)) == evenly_spaced(20)


@pytest.mark.parametrize(
    ("fps", "max_frames", "expected"),
    [(5.0, 64, 10), (25.0, 64, 50), (100.0, 200, 50), (5.0, 4, 4)],
)
def test_fingerprint_frames_are_even_limited_and_never_twice(
    fps: float, max_frames: int, expected: int
) -> None:
    frames = read_frames(barcode_video(), fps, max_frames, SIDE_PX)
    assert frames.shape == (expected, SIDE_PX, SIDE_PX)
    numbers = [read_barcode(np.stack([frame] * 3)) for frame in frames]
    assert numbers == sample_frames(np.arange(51), 1, expected)[0].tolist()


def test_fingerprint_frames_of_a_rotated_video_are_upright() -> None:
    frames = read_frames(barcode_video(rotation_deg=90), 2.0, 64, SIDE_PX)
    assert read_barcode(np.stack([frames[0]] * 3)) == sample_frames(np.arange(51), 1, 4)[0, 0]


def sound(*, with_cover: bool) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as output:
        stream = output.add_stream("aac", rate=48000)
        cover = output.add_stream("mjpeg", rate=1) if with_cover else None
        if cover is not None:
            cover.width = cover.height = 128
            cover.pix_fmt = "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            black = av.VideoFrame.from_ndarray(np.zeros((128, 128, 3), np.uint8), "rgb24")
            output.mux([*cover.encode(black), *cover.encode(None)])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
REFUSED: Mapping[str, tuple[bytes, str]] = MappingProxyType(
    {
        "nothing": (b"", "empty"),
        "text": (b"<html>404 not found</html>" * 20, "not_a_video"),
        "noise": (np.random.default_rng(0).bytes(5000), "not_a_video"),
        "playlist": (PLAYLIST, "not_a_video"),
        "image": (
            cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes(),
            "not_a_video",
        ),
        "sound": (sound(with_cover=False), "no_video_stream"),
        "sound with a cover picture": (sound(with_cover=True), "no_video_stream"),
    }
)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_video_is_refused_by_a_named_reason(kind: str) -> None:
    content, reason = REFUSED[kind]
    for call in (probe, lambda source: read_clips(source, CONFIG)):
        with pytest.raises(VideoError) as caught:
            call(io.BytesIO(content))
        assert caught.value.reason == reason


def test_a_video_without_its_header_is_truncated() -> None:
    whole = barcode_video().getvalue()
    with pytest.raises(VideoError) as caught:
        probe(io.BytesIO(whole[: len(whole) // 2]))
    assert caught.value.reason == "truncated"


def test_what_can_be_decoded_of_a_broken_off_video_is_used() -> None:
    whole = barcode_video(container="mkv", options={"g": "10"}).getvalue()
    clips = read_clips(io.BytesIO(whole[: len(whole) // 2]), CONFIG)
    shown = [number for clip in numbers_shown(clips) for number in clip]
    assert shown == sorted(shown)
    assert max(shown) < 40


def test_a_video_of_which_nothing_can_be_decoded_is_undecodable() -> None:
    whole = barcode_video(20).getvalue()
    start, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    with pytest.raises(VideoError) as caught:
        probe(io.BytesIO(whole[:start] + bytes(end - start) + whole[end:]))
    assert caught.value.reason == "undecodable"


def test_a_title_in_no_known_encoding_is_no_harm() -> None:
    whole = barcode_video().getvalue()
    assert whole.count(b"VideoHandler") == 1
    clips = read_clips(io.BytesIO(whole.replace(b"VideoHandler", b"Vide\xffHandler")), CONFIG)
    assert numbers_shown(clips) == evenly_spaced(50)


def test_a_frame_of_impossible_shape_is_refused() -> None:
    buffer = io.BytesIO()
    encode(buffer, [np.zeros((304, 272, 3), np.uint8)] * 3, codec="libvpx", container="webm")
    # In VP8 every key frame says how large it is: one pixel by 60000 cannot be scaled.
    size, thin = struct.pack("<HH", 272, 304), struct.pack("<HH", 1, 60000)
    assert size in buffer.getvalue()
    thin_video = io.BytesIO(buffer.getvalue().replace(size, thin))
    with pytest.raises(VideoError) as caught:
        read_frames(thin_video, 2.0, 64, SIDE_PX)
    assert caught.value.reason == "undecodable"


def test_a_file_that_asks_for_more_memory_than_there_is_says_so() -> None:
    whole = bytearray(barcode_video().getvalue())
    # The table of frame times, as long as two thousand million entries.
    entries = whole.index(b"stts") + 8
    whole[entries : entries + 4] = b"\x7f\xff\xff\xff"
    for call in (probe, lambda source: read_clips(source, CONFIG)):
        with pytest.raises(OutOfMemoryError, match="more memory than there is") as caught:
            call(io.BytesIO(whole))
        assert isinstance(caught.value, VideoError), "the service would not answer"
        assert caught.value.reason in REASONS
        # Not what was caught: Dask, once it is loaded, has the cause pickled as well.
        assert pickle.loads(pickle.dumps(OutOfMemoryError())).args == caught.value.args


@pytest.mark.parametrize("rotation_deg", [0, 90])
@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_no_frame_stays_in_memory(rotation_deg: int, container: str) -> None:
    """A frame that refers to itself would stay until Python looks for cycles."""
    source = barcode_video(rotation_deg=rotation_deg, container=container, options=X264)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            probe(source)
            read_clips(source, CONFIG)
            read_frames(source, 2.0, 64, SIDE_PX)
        left = [thing for thing in gc.get_objects() if type(thing) is av.VideoFrame]
    finally:
        gc.enable()
    assert len(left) == 0, "memory grows with every video"


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(VideoError("undecodable", "no frame comes out")))
    assert (error.reason, error.detail) == ("undecodable", "no frame comes out")
    assert error.reason in REASONS


@pytest.mark.skipif(not DAMAGED.is_dir(), reason=f"there is no {DAMAGED}")
@pytest.mark.parametrize(
    "path", sorted(DAMAGED.iterdir()) if DAMAGED.is_dir() else [], ids=lambda path: path.name
)
def test_damaged_files_are_decoded_or_refused_by_name(
    path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reasons = []
    try:
        probe(path)
        assert read_clips(path, CONFIG).pixels.shape == (2, 5, 3, SIDE_PX, SIDE_PX)
    except VideoError as error:
        reasons.append(error.reason)
    assert set(reasons) <= set(REASONS)
    assert capfd.readouterr().err == "", "FFmpeg writes to standard error"
