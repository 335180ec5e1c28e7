"""Archives made to harm: each is refused by name, and nothing but whole files is left."""

import random
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zip_bytes import (
    STORED,
    Entry,
    archive_bytes,
    deflated,
    encrypted_member,
    end_record,
    extra_field,
    local_header,
    zip64_end,
)

from fvc.config import load_params
from fvc.errors import FvcError
from fvc.stages import extract

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
PASSWORD = b"word"
GOOD = Entry(b"good/video.mp4", b"good " * 20)
"""The first member of the archives; it may be unpacked before a later one turns out bad."""
TEXT = b"content " * 40
PARTS = r"has a path with an empty, '\.' or '\.\.' part"


def with_good(*entries: Entry, **end: Any) -> bytes:
    return archive_bytes([GOOD, *entries], **end)


def named(name: bytes | str) -> bytes:
    if isinstance(name, str):
        return with_good(Entry(name.encode(), flags=1 << 11))
    return with_good(Entry(name))


def moded(mode: int) -> bytes:
    return with_good(Entry(b"odd", b"/etc/passwd", mode=mode))


def lying(where: str, **fields: Any) -> bytes:
    """`where` is `local`, the header before the data, or `listed`, the one in the list."""
    lies: dict[str, Any] = {where: fields}
    return with_good(Entry(b"liar", TEXT, **lies))


def lying_twice(method: int = 8, **fields: Any) -> bytes:
    return with_good(Entry(b"liar", TEXT, method, local=fields, listed=fields))


def streamed(**lies: int) -> bytes:
    """A member whose sizes stand behind its data."""
    told = {"crc32": zlib.crc32(TEXT), "packed_bytes": len(deflated(TEXT)), "size": 320} | lies
    behind = struct.pack("<4s3L", b"PK\x07\x08", *told.values())
    return with_good(Entry(b"liar", TEXT, flags=8, local=dict.fromkeys(told, 0), behind=behind))


def zip64(**lies: int) -> bytes:
    *_, size, offset, _ = struct.unpack("<4s4H2LH", archive_bytes([GOOD])[-22:])
    full: dict[str, Any] = {
        "num_here": 0xFFFF,
        "num_members": 0xFFFF,
        "size": 0xFFFFFFFF,
        "offset": 0xFFFFFFFF,
    }
    told = {"size": size, "offset": offset, "num_members": 1, "at": offset + size} | lies
    return archive_bytes([GOOD], before_end=zip64_end(**told), **full)


def zip64_end_beside(size: int) -> bytes:
    """An end record that says more than to look at the zip64 one, and something else."""
    plain = archive_bytes([GOOD])
    at = len(plain) - 22
    told = zip64_end(size=size, offset=at - size, num_members=1, at=at)
    return plain[:at] + told + plain[at:]


def zip64_member(size: int, packed_bytes: int = len(deflated(TEXT))) -> bytes:
    wide = extra_field(1, struct.pack("<2Q", size, packed_bytes))
    full = {"size": 0xFFFFFFFF, "packed_bytes": 0xFFFFFFFF, "extra": wide}
    return with_good(Entry(b"liar", TEXT, local=full))


def quoted_overlap(num_members: int, kernel: bytes, **lies: int) -> bytes:
    """Fifield's bomb (USENIX WOOT 2019): each member contains all that follow, header and data.

    Its deflate stream quotes the next local header in a stored block and goes
    on with that member's stream, so one kernel comes out of every member.
    """
    names = [b"overlap/%d" % number for number in range(num_members)]
    entry = Entry(names[-1], kernel, local=lies, listed=lies)
    body = local_header(entry) + deflated(kernel)
    entries, ends = [entry], [len(body)]
    for name in reversed(names[:-1]):
        quoted = local_header(entries[0])
        packed = struct.pack("<B2H", 0, len(quoted), len(quoted) ^ 0xFFFF) + body
        entry = Entry(name, quoted + entries[0].content, packed=packed, local=lies, listed=lies)
        body = local_header(entry) + packed
        entries.insert(0, entry)
        ends.insert(0, len(body))
    for entry, end in zip(entries, ends, strict=True):
        entry.listed = entry.listed | {"offset": len(body) - end}
    listed = archive_bytes(entries)
    *_, size, offset, _ = struct.unpack("<4s4H2LH", listed[-22:])
    record = {"disk": 0, "first_disk": 0, "here": num_members, "members": num_members}
    record |= {"size": size, "offset": len(body), "comment_bytes": 0}
    return body + listed[offset : offset + size] + end_record(record)


def aes_field(version: int = 2, vendor: bytes = b"AE", strength: int = 3) -> bytes:
    return extra_field(0x9901, struct.pack("<H2sBH", version, vendor, strength, 8))


def aes(flags: int = 1, field: bytes = b"", packed: bytes = bytes(60)) -> bytes:
    zero = {"crc32": 0}
    entry = Entry(b"aes", TEXT, 99, packed=packed, flags=flags, extra=field)
    return with_good(replace(entry, local=zero, listed=zero))


def second_name(where: str) -> bytes:
    named = extra_field(0x7075, struct.pack("<BL", 1, zlib.crc32(b"liar")) + b"../escape")
    return lying(where, extra=named)


def in_comment(record: bytes) -> bytes:
    return with_good(comment=record)


FORGED = end_record(dict.fromkeys(("disk", "first_disk", "here", "members", "size", "at", "c"), 0))
SOUND: dict[str, bytes] = {
    "deflated": with_good(),
    "stored": with_good(Entry(b"x", TEXT, STORED)),
    "UTF-8 names": named("ü/ж.mp4"),
    "ASCII marked once": lying("local", flags=1 << 11),
    "nothing behind no data": with_good(Entry(b"x", b"", STORED, flags=8)),
    "folders": with_good(Entry(b"folder/", b"", STORED, mode=(stat.S_IFDIR | 0o755) << 16 | 0x10)),
    "sizes behind the data": streamed(),
    "zip64 sizes": zip64_member(320),
    "zip64 end": zip64(),
    "commented": with_good(comment=b"a comment"),
    "named twice alike": lying("listed", extra=extra_field(0x7075, bytes(5) + b"liar")),
    "made without permissions": moded(0),
    "encrypted": with_good(encrypted_member(b"x", TEXT, PASSWORD)),
    "encrypted and deflated": with_good(encrypted_member(b"x", TEXT, PASSWORD, 8)),
}
HOSTILE: dict[str, tuple[str, bytes]] = {
    # Names.
    "absolute": ("has an absolute path", named(b"/tmp/../escape")),
    "UNC": ("has an absolute path", named(b"//server/share/escape")),
    "drive": ("has an absolute path", named(b"C:/escape")),
    "drive without slash": ("has an absolute path", named(b"C:escape")),
    "parent": (PARTS, named(b"../escape")),
    "inner parents": (PARTS, named(b"a/../../escape")),
    "last parent": (PARTS, named(b"a/..")),
    "dot": (PARTS, named(b"a/./escape")),
    "empty part": (PARTS, named(b"a//escape")),
    "empty name": (PARTS, named(b"")),
    "backslashes": ("backslash", named(b"a\\..\\..\\escape")),
    "UNC backslashes": ("backslash", named(b"\\\\server\\share\\escape")),
    "NUL": ("control character", named(b"video.mp4\0.exe")),
    "newline": ("control character", named(b"video\n.mp4")),
    "C1 control": ("control character", named("video\x85.mp4")),
    "no UTF-8": ("is damaged", with_good(Entry(b"\xff\xfe.mp4", flags=1 << 11))),
    "long part": ("too long a name", named(b"n" * 250)),
    "long path": ("too long a name", named(b"a/" * 2000 + b"x")),
    "longest path": ("too long a name", named(b"a/" * 32_767 + b"x")),
    "unfinished file": ("unfinished", named(b"good/.video.mp4.partial")),
    "second name in the list": ("second name", second_name("listed")),
    "second name in its header": ("second name", second_name("local")),
    "other name in its header": ("another name", lying("local", name=b"../../escape")),
    "other name in the list": ("another name", lying("listed", name=b"other")),
    "other character set": (
        "character set",
        with_good(Entry("ü".encode(), listed={"flags": 1 << 11})),
    ),
    # Collisions.
    "twice": ("collides", with_good(GOOD)),
    "other case": ("collides", named(b"Good/VIDEO.mp4")),
    "folder in other case": ("collides", named(b"GOOD/other.mp4")),
    "sharp s": ("collides", with_good(*(Entry(x.encode(), flags=2048) for x in ("ß", "SS")))),
    "other Unicode form": (
        "collides",
        with_good(
            *(
                Entry(unicodedata.normalize(form, "é").encode(), flags=1 << 11)
                for form in ("NFC", "NFD")
            )
        ),
    ),
    "file that is a folder": ("collides", named(b"good")),
    "folder that is a file": ("collides", named(b"good/video.mp4/x")),
    # Kinds.
    "symbolic link": ("link or special", moded(stat.S_IFLNK << 16)),
    "file behind a link": (
        "link or special",
        with_good(Entry(b"d", b"..", mode=(stat.S_IFLNK | 0o777) << 16), Entry(b"d/escape")),
    ),
    "pipe": ("link or special", moded(stat.S_IFIFO << 16)),
    "character device": ("link or special", moded(stat.S_IFCHR << 16)),
    "block device": ("link or special", moded(stat.S_IFBLK << 16)),
    "socket": ("link or special", moded(stat.S_IFSOCK << 16)),
    "Windows link": ("link or special", moded(0x400)),
    "volume label": ("link or special", moded(0x08)),
    "folder by mode": ("link or special", moded(stat.S_IFDIR << 16)),
    "folder by attribute": ("named like a file", moded(0x10)),
    "folder with content": (
        "folder with content",
        with_good(Entry(b"folder/", mode=(stat.S_IFDIR | 0o755) << 16)),
    ),
    "set-user-id": ("another user's rights", moded((stat.S_IFREG | 0o4755) << 16)),
    "set-group-id": ("another user's rights", moded((stat.S_IFREG | 0o2755) << 16)),
    # Bombs.
    "ratio": (r"unpacks to \d+ times", with_good(Entry(b"bomb", bytes(3_000_000)))),
    "overlap": (r"unpacks to \d+ times", quoted_overlap(30, bytes(200_000))),
    "overlap that denies it": ("not the size|damaged", quoted_overlap(30, bytes(200_000), size=9)),
    "size denied": ("not the size|damaged", lying_twice(size=8)),
    "prefix told": ("not the size|damaged", lying_twice(size=8, crc32=zlib.crc32(TEXT[:8]))),
    # Sizes and checksums.
    "size up": ("not the size", lying_twice(size=400)),
    "size up in the list": ("another size", lying("listed", size=400)),
    "size down in the list": ("another size", lying("listed", size=8)),
    "size up in its header": ("another size", lying("local", size=400)),
    "size down in its header": ("another size", lying("local", size=8)),
    "stored size up": ("contradicts its packed size", lying_twice(STORED, size=400)),
    "stored size down": ("contradicts its packed size", lying_twice(STORED, size=8)),
    "packed size beyond": ("reaches beyond", lying_twice(packed_bytes=1000)),
    "packed size down": ("is damaged", lying_twice(packed_bytes=5)),
    "packed size in its header": ("another packed size", lying("local", packed_bytes=5)),
    "wrong CRC-32": ("is damaged", lying_twice(crc32=1)),
    "wrong CRC-32 in its header": ("another CRC-32", lying("local", crc32=1)),
    "broken data": ("is damaged", with_good(Entry(b"x", TEXT, packed=b"\xff" * 30))),
    "size behind the data": ("behind its data", streamed(size=8)),
    "packed size behind the data": ("behind its data", streamed(packed_bytes=8)),
    "CRC-32 behind the data": ("behind its data", streamed(crc32=1)),
    "nothing behind the data": ("behind its data", with_good(Entry(b"x", flags=8))),
    "zip64 size": ("another size", zip64_member(2**40)),
    "zip64 packed size": ("another packed size", zip64_member(320, 2**40)),
    "zip64 field missing": ("damaged zip64 field", lying("local", size=0xFFFFFFFF)),
    "zip64 field cut": ("is damaged", lying("listed", extra=struct.pack("<2H", 1, 99))),
    "zip64 field empty": ("is damaged", lying_twice(size=0xFFFFFFFF, extra=extra_field(1, b""))),
    # Packing.
    "other method": ("another method", lying("local", method=0)),
    "bzip2": ("by method 12", with_good(Entry(b"x", method=12))),
    "LZMA": ("by method 14", with_good(Entry(b"x", method=14))),
    "no known method": ("by method 4660", with_good(Entry(b"x", method=0x1234))),
    "later version": ("is damaged", lying_twice(version=99)),
    "strong encryption": ("strong encryption", lying_twice(flags=1 << 6 | 1)),
    "hidden headers": ("strong encryption", lying_twice(flags=1 << 13)),
    "patch": ("packed as a patch", lying_twice(flags=1 << 5)),
    "encrypted in the list": ("another encryption", lying("listed", flags=1)),
    "encrypted in its header": ("another encryption", lying("local", flags=1)),
    "encrypted by word only": ("does not open|is damaged", lying_twice(flags=1)),
    "too short for its cipher": (
        "contradicts its packed size",
        with_good(Entry(b"x", TEXT, packed=b"short", flags=1)),
    ),
    "AES without its field": ("by method 99", aes()),
    "AES without encryption": ("AES field", aes(0, aes_field())),
    "AES version": ("AES field", aes(1, aes_field(version=3))),
    "AES strength": ("AES field", aes(1, aes_field(strength=9))),
    "AES field cut": ("is damaged", aes(1, extra_field(0x9901, b"AE"))),
    "AES too short": ("contradicts its packed size", aes(1, aes_field(), b"short")),
    "AES by word only": ("does not open", aes(1, aes_field())),
    "AES field on another method": (
        "another method",
        with_good(Entry(b"x", packed=bytes(60), flags=1, extra=aes_field())),
    ),
    # The end record and the list.
    "list elsewhere": ("elsewhere", with_good(offset=2**31)),
    "list at the start": ("elsewhere", with_good(offset=0)),
    "list longer": ("elsewhere", with_good(size=1000)),
    "something before": ("elsewhere", b"MZ" + with_good()),
    "two archives": ("elsewhere", with_good() + archive_bytes([Entry(b"other")])),
    "something after": ("4 bytes after its end", with_good(suffix=b"more")),
    "comment longer": ("is truncated", with_good(comment=b"c", comment_bytes=9)),
    "comment shorter": ("8 bytes after its end", with_good(comment=b"123456789", comment_bytes=1)),
    "second end in the comment": ("more than one end record", in_comment(FORGED)),
    "half an end in the comment": ("more than one end record", in_comment(FORGED + b"more")),
    "more members told": ("does not list the 9", with_good(num_here=9, num_members=9)),
    "fewer members told": ("does not list the 0", with_good(num_here=0, num_members=0)),
    "many members told": ("does not list the 65535", with_good(num_here=65535, num_members=65535)),
    "very many members told": (r"lists \d+ members", zip64(num_members=2**40)),
    "several volumes": ("several volumes", with_good(disk=1)),
    "other volumes": ("several volumes", with_good(num_here=0)),
    "member in another volume": ("another volume", lying("listed", volume=1)),
    "no such member": ("lies outside", lying("listed", offset=2**31)),
    "member in the list": ("lies outside", lying("listed", offset=len(with_good(Entry(b"x"))))),
    "member inside another": ("no header of its own", lying("listed", offset=3)),
    "same place": ("another name", lying("listed", offset=0)),
    "zip64 list elsewhere": ("elsewhere", zip64(offset=7)),
    "zip64 list longer": ("elsewhere", zip64(size=7)),
    "zip64 end elsewhere": ("no zip64 end record", zip64(at=7)),
    "ends that contradict": (
        "contradict each other",
        zip64_end_beside(46),
    ),
    "broken list": ("does not list", with_good().replace(b"PK\x01\x02", b"PK\x01\x00")),
    "cut in the data": ("is truncated", with_good()[:60]),
    "cut in the list": ("is truncated", with_good()[:-40]),
    "cut in the end": ("is truncated", with_good()[:-3]),
    "no archive": ("is truncated or no zip file", b"no archive at all"),
    "nothing": ("is truncated or no zip file", b""),
}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Unpack these bytes as the only archive of a corpus in `tmp_path`."""
    monkeypatch.setenv(extract.PASSWORD, PASSWORD.decode())
    (tmp_path / "deep" / "archives").mkdir(parents=True)

    def run(content: bytes) -> None:
        (tmp_path / "deep/archives/evil.zip").write_bytes(content)
        extract.run(
            replace(PARAMS, extract=replace(PARAMS.extract, max_ratio=50.0)),
            archives=tmp_path / "deep/archives",
            videos=tmp_path / "deep/videos",
            summary=tmp_path / "deep/extracted.json",
        )

    return run


@pytest.mark.parametrize("trick", HOSTILE)
def test_a_hostile_archive_is_refused_by_name(
    tmp_path: Path, corpus: Callable[[bytes], None], trick: str
) -> None:
    fault, content = HOSTILE[trick]
    with pytest.raises(FvcError, match=fault) as caught:
        corpus(content)
    assert caught.value.args[0] == tmp_path / "deep/archives/evil.zip"
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    videos = tmp_path / "deep/videos"
    outside = {path.name for path in tmp_path.rglob("*") if videos not in (path, *path.parents)}
    assert outside == {"deep", "archives", "evil.zip"}, "something was written outside the target"
    for path in videos.rglob("*"):
        if not stat.S_ISDIR(path.lstat().st_mode):
            assert stat.S_ISREG(path.lstat().st_mode)
            whole = {"good/video.mp4": GOOD.content}.get(path.relative_to(videos).as_posix())
            assert path.read_bytes() == whole, "more than whole members was left behind"


@pytest.mark.parametrize("kind", SOUND)
def test_what_the_hostile_archives_vary_is_sound(
    tmp_path: Path, corpus: Callable[[bytes], None], kind: str
) -> None:
    corpus(SOUND[kind])
    with zipfile.ZipFile(tmp_path / "deep/archives/evil.zip") as opened:
        opened.setpassword(PASSWORD)
        expected = {name: opened.read(name) for name in opened.namelist() if name[-1] != "/"}
    videos = tmp_path / "deep/videos"
    found = [path for path in videos.rglob("*") if path.is_file()]
    assert {path.relative_to(videos).as_posix(): path.read_bytes() for path in found} == expected


def test_overlapping_members_are_judged_by_what_comes_out(
    tmp_path: Path, corpus: Callable[[bytes], None]
) -> None:
    kernel = random.Random(0).randbytes(5000)
    corpus(quoted_overlap(3, kernel))
    sizes = [path.stat().st_size for path in sorted((tmp_path / "deep/videos/overlap").iterdir())]
    assert sizes == [5000 + 2 * 39, 5000 + 39, 5000]
    assert (tmp_path / "deep/videos/overlap/2").read_bytes() == kernel
