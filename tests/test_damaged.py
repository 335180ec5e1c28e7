"""Hundreds of damaged files in one run of the index: none stops it, and each is accounted for."""

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
from decoding_worker import decode_all
from indexing import places
from jaxtyping import UInt8
from settings import clips_config

from fvc.archives import read_members, unpack
from fvc.config import load_params
from fvc.encoding import encode
from fvc.matching import REASONS
from fvc.pool import run_isolated
from fvc.records import INDEX, REJECTED
from fvc.stages import index
from fvc.video import REASONS as VIDEO_REASONS
from fvc.video import Clips, read_clips

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
# Enough for every sound video here, and soon reached by one of 108 million pixels.
LIMITED = replace(PARAMS, index=replace(PARAMS.index, max_memory_mib=512, timeout_s=30.0))
CLIPS = clips_config(2, 4, 32)
# A folder beside the repository, of broken and unusual files.
SHARED = Path(__file__).parents[2] / "shared" / "damaged"
REAL = Path(__file__).parents[2] / "shared" / "corpus" / "archives" / "FVC1.zip"
REAL_PASSWORD = "fake-video-corpus"

# Two bytes each even in Matroska, so that other sizes need no more room.
WIDTH, HEIGHT = 272, 304
KINDS: Mapping[str, Mapping[str, Any]] = {
    "h264.mp4": {"codec": "libx264", "sound": True, "options": {"g": "8", "bf": "2"}},
    "h264.mov": {"codec": "libx264", "container": "mov", "rotation_deg": 90},
    "h264.ts": {"codec": "libx264", "container": "mpegts", "options": {"g": "6"}},
    "h264.flv": {"codec": "libx264", "container": "flv", "options": {"g": "6"}},
    "h265.mkv": {"codec": "libx265", "container": "mkv", "sound": True},
    "vp8.webm": {"codec": "libvpx", "container": "webm"},
    "vp9.webm": {"codec": "libvpx-vp9", "container": "webm", "sound": True},
    "av1.mp4": {"codec": "libsvtav1"},
    "ffv1.mkv": {"codec": "ffv1", "container": "mkv"},
    "mpeg4.avi": {"codec": "mpeg4", "container": "avi", "options": {"g": "6"}},
    "mjpeg.avi": {"codec": "mjpeg", "container": "avi", "pixel_format": "yuvj420p"},
    "mpeg2.mpg": {"codec": "mpeg2video", "container": "mpeg", "options": {"g": "6"}},
    "wmv2.asf": {"codec": "wmv2", "container": "asf"},
    "palette.gif": {"codec": "gif", "container": "gif", "pixel_format": "rgb8"},
}
# Where a container says which frames there are and where: mp4, AVI and Matroska.
INDEXES = (b"moov", b"idx1", b"\x1c\x53\xbb\x6b")
FLIPS_PER_PART = 4
# Tag, bytes from its start to a number, length of that number: durations, times, and counts.
TIMES = (
    *((b"mvhd", 20, 4), (b"mdhd", 20, 4), (b"tkhd", 24, 4), (b"elst", 12, 4)),
    *((b"stts", 8, 4), (b"stts", 12, 4), (b"stts", 16, 4), (b"ctts", 16, 4), (b"stsz", 12, 4)),
    *((b"avih", 8, 4), (b"avih", 24, 4), (b"strh", 28, 4), (b"strh", 32, 4), (b"strh", 40, 4)),
    *((b"\x44\x89", 3, 8), (b"\x2a\xd7\xb1", 4, 4), (b"\x23\xe3\x83", 4, 4)),
    *((b"\xe7\x81", 2, 1), (b"\xe7\x82", 3, 2), (b"duration", 9, 8), (b"framerate", 10, 8)),
)
ENORMOUS = (b"\xff" * 8, b"\x7f" + b"\xff" * 7)


@dataclass(frozen=True)
class Damaged:
    """A file, and what the index may say about it."""

    name: str
    content: bytes
    ends: frozenset[str] = frozenset({"usable", *REASONS}) - {"timeout"}
    """`usable` or a reason."""


def sound_video(name: str) -> bytes:
    generator = np.random.default_rng([*name.encode()])
    blocks = generator.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    large = blocks.repeat(16, axis=0).repeat(16, axis=1)
    frames: list[UInt8[np.ndarray, "H W 3"]] = [
        np.ascontiguousarray(np.roll(large, 3 * number, axis=1)) for number in range(24)
    ]
    buffer = BytesIO()
    encode(buffer, frames, fps=12, **KINDS[name])
    return buffer.getvalue()


def truncated(name: str, whole: bytes) -> Iterator[Damaged]:
    for tenth in range(1, 10):
        yield Damaged(f"{name}, {tenth} of 10 parts", whole[: len(whole) * tenth // 10])


def flipped(name: str, whole: bytes) -> Iterator[Damaged]:
    """Bytes changed in the header, the payload, and the index or, without one, the end."""
    size = len(whole)
    start = next((whole.index(tag) for tag in INDEXES if tag in whole), size - size // 8)
    parts = {"header": (0, 400), "payload": (size // 4, size // 2), "index": (start, size)}
    for part, (first, stop) in parts.items():
        for number in range(FLIPS_PER_PART):
            generator = np.random.default_rng([number, *f"{name} {part}".encode()])
            content = bytearray(whole)
            for place in generator.integers(first, stop, 4**number).tolist():
                content[place] ^= int(generator.integers(1, 256))
            yield Damaged(f"{name}, {part} flipped {4**number} times", bytes(content))


def of_absurd_size(name: str, whole: bytes) -> Iterator[Damaged]:
    """Another width and height wherever they are said: in the container and in the codec."""
    for width, height in ((12000, 9000), (16000, 16000), (65535, 65535), (1, 60000), (0, 0)):
        content = whole
        for old, new in zip(said(WIDTH, HEIGHT), said(width, height), strict=True):
            content = content.replace(old, new)
        if content != whole:
            yield Damaged(f"{name}, {width} x {height}", content)


def said(width: int, height: int) -> list[bytes]:
    """A size as MP4 and GIF, AVI, MJPEG and Matroska say it."""
    pairs = [struct.pack(form, width, height) for form in (">HH", "<HH", ">II", "<II")]
    matroska = struct.pack(">2sH2sH", b"\xb0\x82", width, b"\xba\x82", height)
    return [matroska, *pairs, struct.pack(">HH", height, width)]


def of_endless_duration(name: str, whole: bytes) -> Iterator[Damaged]:
    for tag, offset, length in TIMES:
        if tag not in whole:
            continue
        place = whole.index(tag) + offset
        for number in ENORMOUS:
            content = whole[:place] + number[:length] + whole[place + length :]
            yield Damaged(f"{name}, {tag!r} at {offset} is {number[0]:x}...", content)


def never_videos() -> Iterator[Damaged]:
    text = b"<html><title>This video is not available</title></html>" * 40
    yield Damaged("nothing", b"", frozenset({"empty"}))
    yield Damaged("zeros", bytes(20_000), frozenset({"not_a_video"}))
    yield Damaged("text", text, frozenset({"not_a_video"}))
    yield Damaged("noise", np.random.default_rng(0).bytes(20_000), frozenset({"not_a_video"}))
    for container, codec in (("mp4", "aac"), ("matroska", "libopus"), ("ogg", "libopus")):
        content = sound_alone(container, codec)
        yield Damaged(f"sound in {container}", content, frozenset({"no_video_stream"}))
    yield Damaged("sound in wav", sound_alone("wav", "pcm_s16le"), frozenset({"not_a_video"}))
    for container in ("mp4", "matroska", "avi"):
        without = no_frames(container)
        ends = frozenset({"undecodable", "no_video_stream", "truncated"})
        yield Damaged(f"no frames in {container}", without, ends)


def sound_alone(container: str, codec: Any) -> bytes:
    buffer = BytesIO()
    form, kind = ("fltp", np.float32) if codec == "aac" else ("s16", np.int16)
    with av.open(buffer, "w", container) as output:
        stream = output.add_stream(codec, rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), kind), form, "mono")
        frame.sample_rate = 48000
        output.mux([*stream.encode(frame), *stream.encode(None)])
    return buffer.getvalue()


def no_frames(container: str) -> bytes:
    buffer = BytesIO()
    with av.open(buffer, "w", container) as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        output.start_encoding()
    return buffer.getvalue()


def damaged_videos() -> list[Damaged]:
    damaged = []
    for name in KINDS:
        whole = sound_video(name)
        damaged.append(Damaged(f"{name} as .mp4", whole, frozenset({"usable"})))
        for damage in (truncated, flipped, of_absurd_size, of_endless_duration):
            damaged += damage(name, whole)
    return damaged


def put(root: Path, damaged: list[Damaged]) -> dict[str, Damaged]:
    """A corpus of these files, by the ids of its videos."""
    rows = ["cascade_id,video_url,label"]
    for number, item in enumerate(damaged):
        path = root / f"videos/FVC2/{number}/video.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(item.content)
        rows.append(f"r{number},https://www.facebook.com/page/videos/{number}/,real")
    (root / "annotations").mkdir()
    (root / "annotations/FVC.csv").write_text("\n".join(rows), encoding="utf-8")
    (root / "annotations/FVC_dup.csv").write_text(rows[0], encoding="utf-8")
    return {f"facebook_{number}": item for number, item in enumerate(damaged)}


def run(root: Path, params: Any = LIMITED) -> tuple[pl.DataFrame, pl.DataFrame]:
    index.run(
        params,
        **places(root, root),
    )
    return INDEX.read(root / "index.parquet"), REJECTED.read(root / "rejected.csv")


def check(root: Path, damaged: list[Damaged]) -> dict[str, str]:
    """Index the files; how each ended, by its name."""
    corpus = put(root, damaged)
    usable, rejected = run(root)
    assert sorted([*usable["video_id"], *rejected["video_id"]]) == sorted(corpus)
    ends = dict(rejected.select("video_id", "reason").iter_rows())
    ends |= dict.fromkeys(usable["video_id"], "usable")
    unexpected = {
        corpus[name].name: end for name, end in ends.items() if end not in corpus[name].ends
    }
    assert not unexpected
    paths = [root / "videos" / path for path in usable["path"]]
    read = partial(read_clips, config=CLIPS)
    for path, clips in run_isolated(read, paths, timeout_s=60.0, description="clips"):
        name = corpus[f"facebook_{path.parent.name}"].name
        assert isinstance(clips, Clips), f"{name} is in the index, and then: {clips}"
        assert clips.pixels.shape == (2, 4, 3, 32, 32)
    return {corpus[name].name: end for name, end in ends.items()}


def test_damaged_files_are_accounted_for(tmp_path: Path) -> None:
    ends = check(tmp_path, [*never_videos(), *damaged_videos()[::11]])
    assert {"usable", "empty", "not_a_video", "no_video_stream", "undecodable"} <= {*ends.values()}


@pytest.mark.slow
def test_hundreds_of_damaged_files_are_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = [*never_videos(), *damaged_videos()]
    assert len(damaged) >= 300
    if SHARED.is_dir():
        damaged += [Damaged(path.name, path.read_bytes()) for path in sorted(SHARED.iterdir())]
    ends = check(tmp_path, damaged)
    assert {"truncated", "crashed"} <= {*ends.values()}
    names = ("index.parquet", "rejected.csv", "index.json")
    before = [(tmp_path / name).read_bytes() for name in names]

    def nothing_to_do(_: Any, items: list[Path], **__: object) -> Iterator[Any]:
        assert not items, "an unchanged file was tried again"
        yield from ()

    monkeypatch.setattr(index, "run_isolated", nothing_to_do)
    run(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in names] == before


def check_memory(paths: list[Path]) -> None:
    """Decode files in workers: right or refused by name, in time and with little memory."""
    outcomes = dict(run_isolated(decode_all, paths, timeout_s=60.0, description="decode"))
    lost = {
        path.name: str(outcome)
        for path, outcome in outcomes.items()
        if not isinstance(outcome, tuple)
    }
    assert not lost
    ends, peaks_mb = zip(*outcomes.values(), strict=True)
    assert set(ends) <= {"usable", *VIDEO_REASONS}
    assert "usable" in ends
    # Whatever a worker decoded before counts, too.
    assert max(peaks_mb) < 600, "a worker takes too much memory"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by what Linux tells")
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"there is no {SHARED}")
def test_unusual_files_are_decoded_right_with_little_memory() -> None:
    check_memory(sorted(SHARED.iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by what Linux tells")
@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
def test_real_files_are_decoded_right_with_little_memory(tmp_path: Path) -> None:
    for archive in sorted(REAL.parent.glob("*.zip")):
        members = read_members(archive)
        unpack(members, tmp_path, password=REAL_PASSWORD, progress=lambda _: None)
    check_memory([path for path in sorted(tmp_path.rglob("*")) if path.is_file()])


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is absent")
def test_hundreds_of_damaged_real_files_are_accounted_for(tmp_path: Path) -> None:
    small = (member for member in read_members(REAL) if member.size_bytes > 40_000)
    members = sorted(small, key=lambda member: member.size_bytes)[:14]
    unpack(members, tmp_path / "real", password=REAL_PASSWORD, progress=lambda _: None)
    damaged: list[Damaged] = []
    for member in members:
        whole = (tmp_path / "real" / member.name).read_bytes()
        for damage in (truncated, flipped, of_endless_duration):
            damaged += damage(member.name, whole)
    assert len(damaged) >= 300
    ends = check(tmp_path / "corpus", damaged)
    assert {"usable", "truncated"} <= {*ends.values()}


@pytest.mark.parametrize(
    ("size", "max_memory_mib", "timeout_s", "reason", "detail"),
    [
        ("12000 x 9000", 512, 60.0, "crashed", "within 512 MiB"),
        ("16000 x 16000", 8192, 0.6, "timeout", "longer than 0.6 s"),
    ],
)
def test_an_enormous_picture_costs_its_own_file_alone(
    tmp_path: Path, size: str, max_memory_mib: int, timeout_s: float, reason: str, detail: str
) -> None:
    whole = sound_video("vp8.webm")
    enormous = next(item for item in of_absurd_size("vp8", whole) if item.name.endswith(size))
    put(tmp_path, [enormous, Damaged("sound", whole)])
    limits = replace(PARAMS.index, max_memory_mib=max_memory_mib, timeout_s=timeout_s)
    usable, rejected = run(tmp_path, replace(PARAMS, index=limits))
    assert usable["video_id"].to_list() == ["facebook_1"]
    assert rejected["reason"].to_list() == [reason]
    assert detail in rejected["detail"][0]
