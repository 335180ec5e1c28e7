"""What a zip file says of itself twice must agree: end records, list of members, local headers.

Programs differ in which of two contradicting statements they follow, and archives are made
to be harmless to one and harmful to another. Whatever contradicts itself is refused.

Source: PKWARE, ".ZIP File Format Specification" (APPNOTE), version 6.3.10, section 4.3.
"""

import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

LOCAL = struct.Struct("<4s5H3L2H")
END = struct.Struct("<4s4H2LH")
END_64 = struct.Struct("<4sQ2H2L4Q")
END_64_LOCATOR = struct.Struct("<4sLQL")
LISTED_BYTES = 46
"""Of an entry in the list of members, before its name, extra fields and comment."""
MAX_COMMENT_BYTES = 0xFFFF
FULL_16, FULL_32 = 0xFFFF, 0xFFFF_FFFF
"""Stand for 'see the zip64 field'."""
ZIP64, UNICODE_PATH = 0x0001, 0x7075
ENCRYPTED, STREAMED, PATCHED, STRONG, UTF8, MASKED = (
    1 << 0,
    1 << 3,
    1 << 5,
    1 << 6,
    1 << 11,
    1 << 13,
)
"""Bits of a member's flags. STREAMED: its sizes and CRC-32 follow its data."""


class HeaderError(ValueError):
    """What is wrong with an archive's headers, to be said after the archive's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Directory:
    """Where the list of members lies, and how many there are."""

    offset: int
    size_bytes: int
    num_members: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """One member as the list at the end of the archive has it."""

    name: bytes
    flags: int
    method: int
    crc32: int
    packed_bytes: int
    size_bytes: int
    offset: int
    """Of its local header, from the start of the file."""
    extra: bytes


def find_directory(stream: BinaryIO) -> Directory:
    """Find the list of members through the one end record of an archive.

    Raises:
        HeaderError: There is no end record, or more than one may be meant, or
            the list does not lie right before it.
    """
    file_bytes = stream.seek(0, os.SEEK_END)
    first = max(0, file_bytes - END.size - MAX_COMMENT_BYTES)
    stream.seek(first)
    tail = stream.read()
    starts = [match.start() for match in re.finditer(b"PK\x05\x06", tail)]
    starts = [start for start in starts if start + END.size <= len(tail)]
    if not starts:
        raise HeaderError("is truncated or no zip file")
    ends = {start: END.unpack_from(tail, start) for start in starts}
    exact = [start for start in starts if start + END.size + ends[start][-1] == len(tail)]
    if not exact:
        beyond = len(tail) - starts[-1] - END.size - ends[starts[-1]][-1]
        raise HeaderError(f"has {beyond} bytes after its end" if beyond > 0 else "is truncated")
    if exact != starts[-1:]:
        raise HeaderError("has more than one end record")
    return _directory(stream, first + exact[0], ends[exact[0]][1:7])


def _directory(stream: BinaryIO, end: int, record: tuple[int, ...]) -> Directory:
    wide = _zip64_record(stream, end)
    said = wide or record
    if wide:
        sentinels = (FULL_16, FULL_16, FULL_16, FULL_16, FULL_32, FULL_32)
        for narrow, sentinel, meant in zip(record, sentinels, wide, strict=True):
            if narrow not in (sentinel, meant):
                raise HeaderError("has two end records that contradict each other")
        end -= END_64.size + END_64_LOCATOR.size
    disk, first_disk, num_here, num_members, size_bytes, offset = said
    if (disk, first_disk, num_here) != (0, 0, num_members):
        raise HeaderError("is one of several volumes")
    if offset + size_bytes != end:
        raise HeaderError("has its list of members elsewhere than its end record says")
    return Directory(offset=offset, size_bytes=size_bytes, num_members=num_members)


def _zip64_record(stream: BinaryIO, end: int) -> tuple[int, ...] | None:
    """The six numbers of the zip64 end record before the end record at `end`, if there is one."""
    start = end - END_64.size - END_64_LOCATOR.size
    if start < 0:
        return None
    stream.seek(start)
    record = END_64.unpack(stream.read(END_64.size))
    signature, disk, at, num_disks = END_64_LOCATOR.unpack(stream.read(END_64_LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    # The record's own size leaves out its first twelve bytes.
    if record[:2] != (b"PK\x06\x06", END_64.size - 12) or (disk, at, num_disks) != (0, start, 1):
        raise HeaderError("has no zip64 end record where it says that there is one")
    return record[4:]


def check_count(stream: BinaryIO, directory: Directory) -> None:
    """Hold the length of the list of members against the number in the end record.

    Raises:
        HeaderError: They differ, or the list is damaged.
    """
    stream.seek(directory.offset)
    listed = stream.read(directory.size_bytes)
    position = count = 0
    while position + LISTED_BYTES <= len(listed) and count <= directory.num_members:
        if listed[position : position + 4] != b"PK\x01\x02":
            break
        position += LISTED_BYTES + sum(struct.unpack_from("<3H", listed, position + 28))
        count += 1
    if (position, count) != (len(listed), directory.num_members):
        cause = f"does not list the {directory.num_members} members that its end record promises"
        raise HeaderError(cause)


def check_local_header(stream: BinaryIO, member: Listed, directory: Directory) -> None:
    """Hold a member's own header, and what follows its data, against the list.

    Raises:
        HeaderError: They contradict each other, or the member reaches into the
            list. The message goes after the member's name.
    """
    if member.offset + LOCAL.size > directory.offset:
        raise HeaderError("lies outside the part of the archive that holds members")
    stream.seek(member.offset)
    fields = LOCAL.unpack(stream.read(LOCAL.size))
    signature, _, flags, method, _, _, crc32, packed, size, name_bytes, extra_bytes = fields
    name, extra = stream.read(name_bytes), stream.read(extra_bytes)
    end = stream.tell() + member.packed_bytes
    if signature != b"PK\x03\x04":
        raise HeaderError("has no header of its own where the list says")
    if end > directory.offset:
        raise HeaderError("reaches beyond the part of the archive that holds members")
    marks = ENCRYPTED | PATCHED | STRONG | MASKED | (0 if name.isascii() else UTF8)
    size, packed = _widened(size, packed, extra, streamed=bool(flags & STREAMED))
    later = {0, FULL_32} if flags & STREAMED else set()
    contradictions = {
        "name": name != member.name,
        "encryption or character set": flags & marks != member.flags & marks,
        "method": method != member.method,
        "CRC-32": crc32 not in {member.crc32} | later,
        "packed size": packed not in {member.packed_bytes} | later,
        "size": size not in {member.size_bytes} | later,
    }
    if wrong := [what for what, differs in contradictions.items() if differs]:
        raise HeaderError(f"has another {wrong[0]} in the list than in its own header")
    _check_second_name(member.name, member.extra)
    _check_second_name(member.name, extra)
    # Some programs mark folders and empty files so, too, and write nothing behind them.
    if flags & STREAMED and member.packed_bytes:
        stream.seek(end)
        _check_descriptor(stream.read(min(24, directory.offset - end)), member)


def _widened(size: int, packed: int, extra: bytes, *, streamed: bool) -> tuple[int, int]:
    """The sizes of a local header, from its zip64 field where they do not fit."""
    if FULL_32 not in (size, packed):
        return size, packed
    wide = dict(_extra_fields(extra)).get(ZIP64, b"")
    values = [value for (value,) in struct.iter_unpack("<Q", wide[: len(wide) // 8 * 8])]
    needed = [size, packed].count(FULL_32)
    if len(values) < needed:
        if streamed:
            return size, packed
        raise HeaderError("has a damaged zip64 field")
    return (
        values.pop(0) if size == FULL_32 else size,
        values.pop(0) if packed == FULL_32 else packed,
    )


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]


def _check_second_name(name: bytes, extra: bytes) -> None:
    for kind, content in _extra_fields(extra):
        # One byte of version and four of checksum come before the name.
        if kind == UNICODE_PATH and content[5:] != name:
            raise HeaderError(f"has a second name, {content[5:].decode('utf-8', 'replace')!r}")


def _check_descriptor(found: bytes, member: Listed) -> None:
    """The signature is optional, and the sizes have 4 or 8 bytes, whatever the headers have."""
    wide = struct.pack("<L2Q", member.crc32, member.packed_bytes, member.size_bytes)
    sizes = (member.packed_bytes & FULL_32, member.size_bytes & FULL_32)
    narrow = struct.pack("<3L", member.crc32, *sizes)
    allowed = [signature + tail for signature in (b"PK\x07\x08", b"") for tail in (wide, narrow)]
    if not found.startswith(tuple(allowed)):
        raise HeaderError("has another size or CRC-32 in the list than behind its data")
