"""Bodies that no honest client sends; none of them holds a video that can be scored."""

import base64
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fvc.encoding import encode

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Hostile:
    """One request."""

    name: str
    body: bytes
    content_type: str = JSON


def good_video() -> bytes:
    """A second of noise, 10 frames, as H.264."""
    frames = np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), np.uint8)
    file = io.BytesIO()
    encode(file, frames, fps=10)
    return file.getvalue()


def asking(video: bytes | str, **more: object) -> bytes:
    """The body of a request for one video; a text goes in as it is."""
    text = base64.b64encode(video).decode() if isinstance(video, bytes) else video
    return json.dumps({"dataframe_records": [{"video": text}], **more}).encode()


def hostile_requests() -> Iterator[Hostile]:
    """All of them, each with a name of its own."""
    yield from _not_json()
    yield from _not_the_table()
    yield from _not_the_parameters()
    yield from _not_base64()
    for name, content in {**_other_files(), **_bombs(), **_broken_videos(), **_playlists()}.items():
        yield Hostile(name, asking(content))


def _not_json() -> Iterator[Hostile]:
    good = asking(good_video())
    bodies = {
        "nothing": b"",
        "spaces": b" " * 1000,
        "zeros": bytes(1000),
        "text": b"please tell me whether this is fake",
        "half of a request": good[: len(good) // 2],
        "a request and more": good + b"}",
        "not UTF-8": b'{"dataframe_records": [{"video": "\xff\xfe"}]}',
        "half of UTF-16": good.decode().encode("utf-16")[:-1],
        "compressed": gzip.compress(good),
        "single quotes": b"{'dataframe_records': []}",
        "a number beyond all": b"1e999999",
        "a very long number": b"9" * 100_000,
    }
    for name, body in bodies.items():
        yield Hostile(name, body)
    for depth in (100, 1_000, 10_000, 100_000, 1_000_000):
        yield Hostile(f"{depth} lists deep", b"[" * depth + b"]" * depth)
        yield Hostile(f"{depth} lists that never end", b"[" * depth)
        yield Hostile(f"{depth} objects deep", b'{"a":' * depth + b"1" + b"}" * depth)
        inner = b"[" * depth + b"]" * depth
        yield Hostile(f"a video {depth} deep", b'{"dataframe_records":[{"video":' + inner + b"}]}")
    for kind in ("text/plain", "text/xml", "multipart/form-data", "application/x-pickle", "", "/"):
        yield Hostile(f"of the type '{kind}'", good, kind)
    yield Hostile("a table with another column", b"name\nclip.mp4\n", "text/csv")
    yield Hostile("a path as CSV", b"video\n/etc/passwd\n", "text/csv")


NO_VIDEO: Mapping[str, object] = {
    "null": None,
    "a number": 7,
    "a fraction": 0.5,
    "true": True,
    "a list": [1, 2, 3],
    "a list of texts": ["YQ=="],
    "an object": {"b64": "YQ=="},
    "an empty object": {},
}
"""Values of the column that are no text, by what they are."""


def _not_the_table() -> Iterator[Hostile]:
    video = base64.b64encode(good_video()).decode()
    contents: dict[str, object] = {
        "null": None,
        "a number": 5,
        "a word": "video",
        "an empty list": [],
        "an empty object": {},
        "an unknown key": {"videos": [video]},
        "two kinds of table": {
            "dataframe_records": [{"video": video}],
            "dataframe_split": {"columns": ["video"], "data": [[video]]},
        },
        "records that are no list": {"dataframe_records": {"video": video}},
        "records that are a word": {"dataframe_records": "video"},
        "records that are null": {"dataframe_records": None},
        "a record that is a number": {"dataframe_records": [1]},
        "a record that is a list": {"dataframe_records": [[video]]},
        "no column": {"dataframe_records": [{}]},
        "another column": {"dataframe_records": [{"film": video}]},
        "a column in capitals": {"dataframe_records": [{"VIDEO": video}]},
        "a path": {"dataframe_records": [{"path": "/etc/passwd"}]},
        "an address": {"dataframe_records": [{"url": "http://127.0.0.1/"}]},
        "split without columns": {"dataframe_split": {"data": [[video]]}},
        "split without data": {"dataframe_split": {"columns": ["video"]}},
        "split with more cells": {"dataframe_split": {"columns": ["video"], "data": [[video, 1]]}},
        "split with another column": {"dataframe_split": {"columns": ["film"], "data": [[video]]}},
        "instances of another column": {"instances": [{"film": video}]},
        "inputs of another column": {"inputs": {"film": [video]}},
        "inputs that MLflow makes as long as the longest": {
            "inputs": {"video": ["A" * 2**20, *[""] * 50]}
        },
        "instances that are made as long as the longest": {
            "instances": [{"video": "A" * 2**20}, *[{"video": ""}] * 50]
        },
        "inputs of unequal length": {"inputs": {"video": [video, video], "name": ["a"]}},
    }
    for name, value in NO_VIDEO.items():
        contents[f"a video that is {name}"] = {"dataframe_records": [{"video": value}]}
        contents[f"a video in split that is {name}"] = {
            "dataframe_split": {"columns": ["video"], "data": [[value]]}
        }
    for name, content in contents.items():
        yield Hostile(name, json.dumps(content).encode())


def _not_the_parameters() -> Iterator[Hostile]:
    video = good_video()
    wrong: dict[str, list[object]] = {
        "clips": [0, -1, 65, 10**30, 1.5, "many", [], {}, [1, 2], True],
        "threshold": [-0.1, 1.1, 1e300, "high", [], {}, [0.5, 0.6], True],
        "explain": [5, "yes", [], {}, [True], 0.5],
    }
    for name, values in wrong.items():
        for value in values:
            yield Hostile(f"{name} {value!r}", asking(video, params={name: value}))
    for text in (b"NaN", b"Infinity", b"-Infinity"):
        body = asking(video, params={"threshold": 0.5}).replace(b"0.5", text)
        yield Hostile(f"threshold {text.decode()}", body)
    for params in ([], "clips", 5, [["clips", 1]]):
        yield Hostile(f"params {params!r}", asking(video, params=params))


def _not_base64() -> Iterator[Hostile]:
    texts = {
        "empty": "",
        "one letter": "A",
        "padding alone": "====",
        "punctuation": "%%%%",
        "padding within": "QUJD====QUJD",
        "a path": "/etc/passwd",
        "a path above": "../../../../etc/passwd",
        "an address": "http://127.0.0.1:1/video.mp4",
        "a file's address": "file:///etc/passwd",
        "data's address": "data:video/mp4;base64,AAAA",
        "an FFmpeg protocol": "concat:/etc/passwd|/etc/hosts",
        "other letters": "\u0416\u4e2d\U0001f600" * 10,
        "a lone surrogate": "\ud800",
        "zeros": "\u0000" * 100,
        "Python": "__import__('os').getcwd()",
        "a megabyte of one letter": "A" * 2**20,
        "cut short": base64.b64encode(good_video()[:31]).decode()[:-1],
    }
    for name, text in texts.items():
        yield Hostile(f"in place of base64 {name}", asking(text))


def _other_files() -> dict[str, bytes]:
    random = np.random.default_rng(1).bytes(10_000)
    heads = {
        "text": b"this is no video",
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        "XML with an entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(57),
        "a shell script": b"#!/bin/sh\necho\n",
        "pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
        "torch": b"PK\x03\x04" + bytes(26) + b"archive/data.pkl",
        "PNG, cut": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        "JPEG, cut": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
        "WAV": b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + bytes(16),
        "MP3, cut": b"ID3\x03\x00\x00\x00\x00\x00\x00\xff\xfb\x90\x00",
        "SQLite": b"SQLite format 3\x00" + bytes(84),
        "one byte": b"\x00",
        "zeros": bytes(100_000),
        "ones": b"\xff" * 100_000,
        "noise": random,
        "noise after the head of an mp4": b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00" + random,
        "noise after the head of Matroska": b"\x1aE\xdf\xa3" + random,
        "noise after the head of AVI": b"RIFF\xff\xff\xff\xffAVI LIST" + random,
        "noise after the head of Ogg": b"OggS\x00\x02" + random,
        "noise after the head of FLV": b"FLV\x01\x05\x00\x00\x00\x09" + random,
        "subtitles": b"1\n00:00:00,000 --> 99:59:59,999\n/etc/passwd\n",
    }
    return {f"a file of {name}": content for name, content in heads.items()}


def _bombs() -> dict[str, bytes]:
    nothing = bytes(50 * 2**20)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("video.mp4", nothing)
    inner = gzip.compress(nothing)
    return {
        "a zip bomb": zipped.getvalue(),
        "a gzip bomb": inner,
        "a gzip bomb in gzip": gzip.compress(inner),
        "a zlib bomb": zlib.compress(nothing, 9),
        "more bytes than are allowed": nothing,
        "a zip with a video in it": _zip_of(good_video()),
        "a picture of 65,500 x 65,500 as PNG": _png(65_500, 65_500),
        "a picture of 2,147,483,647 x 1 as PNG": _png(2**31 - 1, 1),
        **{f"a GIF of {side} x {side}": _gif(side, frames=3) for side in (8_192, 32_767, 65_535)},
        **{f"a raw video of {side} x {side}": _y4m(side, side) for side in (10_000, 30_000)},
        "a raw video of 0 x 0": _y4m(0, 0),
        "a raw video of a negative size": _y4m(-8, 8),
        "a raw video of 2**31 x 2**31": _y4m(2**31, 2**31),
        "a million frames of 2 x 2": _y4m(2, 2, frames=1_000_000),
        "a hundred thousand frames of 8 x 8 in a GIF": _gif(8, frames=100_000),
        "frames that last a million seconds": _y4m(8, 8, frames=20, rate="1:1000000"),
        "frames that last eleven minutes": _gif(8, frames=200, delay=65_535),
        "an IVF file of 16,383 x 16,383": _ivf(16_383, frames=1),
        "an IVF file with 4,294,967,295 frames": _ivf(16, frames=2**32 - 1),
        "an mp4 with a box without end": _box(b"ftyp", b"isom") + b"\xff\xff\xff\xffmoov",
        "an mp4 with a box of 2**63 bytes": _box(b"ftyp", b"isom")
        + struct.pack(">I4sQ", 1, b"moov", 2**63 - 1),
        "an mp4 with a thousand boxes in boxes": _box(b"ftyp", b"isom") + _nested(1_000),
        "an mp4 with no track": _box(b"ftyp", b"isom") + _box(b"moov", b""),
    }


def _broken_videos() -> dict[str, bytes]:
    good = good_video()
    where = good.index(b"moov") - 4
    media = good.index(b"mdat")
    cut = {f"an mp4, {share}% of it": good[: where * share // 100] for share in range(5, 100, 10)}
    others = {
        "an mp4 whose index is zeros": good[: where + 8] + bytes(len(good) - where - 8),
        "an mp4 whose index is gone": good[:where],
        "an mp4 whose frames are zeros": good[: media + 4]
        + bytes(where - media - 4)
        + good[where:],
        "an mp4 backwards": good[::-1],
        "an mp4 whose track is named otherwise": good.replace(b"trak", b"free"),
        "an mp4 with an unknown codec": good.replace(b"avc1", b"none"),
        "an mp4 of sound": good.replace(b"vide", b"soun"),
        "an mp4 in HTML": b"<html>" + good.replace(b"ftyp", b"html").replace(b"moov", b"html"),
        "an mp4 in a shell script": b"#!/bin/sh\n" * 500 + good.replace(b"moov", b"skip"),
        "an mp4 in a PDF": b"%PDF-1.7\n" + good.replace(b"moov", b"skip") + b"%%EOF",
        "the index of an mp4 and nothing else": good[where:],
    }
    return {**cut, **others}


def _playlists() -> dict[str, bytes]:
    """Files that name others, which FFmpeg may open."""
    return {
        "a playlist of HLS": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n",
        "a playlist of HLS that fetches": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n",
        "a list of FFmpeg": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "a manifest of DASH": b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>file:///etc/'
        b"passwd</BaseURL></MPD>",
        "a session of RTP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 1 RTP/AVP 96\n",
        "an mp4 that refers to another file": _box(b"ftyp", b"qt  ")
        + _box(b"moov", _box(b"rmra", _box(b"rmda", _box(b"rdrf", b"file:///etc/passwd")))),
        "a list of pictures": b"%04d.png\n",
    }


def _zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("video.mp4", content)
    return file.getvalue()


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, name) + content


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = _box(b"moov", content)
    return content


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _gif(side: int, *, frames: int, delay: int = 4) -> bytes:
    """Frames of one pixel on a canvas of any size; a delay is in hundredths of a second."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\x00\x00\x00\xff\xff\xff"
    control = b"\x21\xf9\x04\x00" + struct.pack("<H", delay) + b"\x00\x00"
    picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + (control + picture) * frames + b"\x3b"


def _y4m(width: int, height: int, *, frames: int = 1, rate: str = "25:1") -> bytes:
    """Raw grey frames; of one that is large, the first bytes."""
    head = f"YUV4MPEG2 W{width} H{height} F{rate} Ip A1:1 Cmono\n".encode()
    pixels = bytes(min(max(width * height, 0), 10_000))
    return head + (b"FRAME\n" + pixels) * frames


def _ivf(side: int, *, frames: int) -> bytes:
    """One key frame of VP8, all but its head missing, in a file that says how many there are."""
    key_frame = b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", side, side) + bytes(20)
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", side, side, 30, 1, frames, 0)
    return head + struct.pack("<IQ", len(key_frame), 0) + key_frame
