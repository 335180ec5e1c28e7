"""Zip archives as raw bytes, so that each field can lie; and the traditional cipher, to encrypt."""

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

STORED, DEFLATED = 0, 8
REGULAR = 0o100644 << 16


def encrypted(data: bytes, password: bytes) -> bytes:
    """PKWARE's traditional cipher, from section 6.1 of its APPNOTE; about 1 MB a second.

    What is encrypted starts with the 12 bytes that `encrypted_member` puts there.
    """
    keys = [0x12345678, 0x23456789, 0x34567890]

    def crc(value: int, byte: int) -> int:
        return zlib.crc32(bytes([byte]), value ^ 0xFFFFFFFF) ^ 0xFFFFFFFF

    def update(byte: int) -> None:
        keys[0] = crc(keys[0], byte)
        keys[1] = ((keys[1] + (keys[0] & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = crc(keys[2], keys[1] >> 24)

    for byte in password:
        update(byte)
    result = bytearray()
    for byte in data:
        mask = keys[2] | 2
        result.append(byte ^ ((mask * (mask ^ 1)) >> 8 & 0xFF))
        update(byte)
    return bytes(result)


def deflated(content: bytes) -> bytes:
    """A deflate stream without the header and checksum of zlib."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(content) + compressor.flush()


def extra_field(kind: int, content: bytes) -> bytes:
    return struct.pack("<2H", kind, len(content)) + content


@dataclass
class Entry:
    """One member; `local` replaces fields of its own header, `listed` of the list at the end."""

    name: bytes
    content: bytes = b"content"
    method: int = DEFLATED
    packed: bytes | None = None
    flags: int = 0
    mode: int = REGULAR
    extra: bytes = b""
    behind: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)

    def fields(self) -> dict[str, Any]:
        pack = {DEFLATED: deflated}.get(self.method, bytes)
        packed = pack(self.content) if self.packed is None else self.packed
        return {
            **{"name": self.name, "method": self.method, "flags": self.flags},
            **{"crc32": zlib.crc32(self.content), "size": len(self.content)},
            **{"packed": packed, "packed_bytes": len(packed), "extra": self.extra},
            **{"mode": self.mode, "volume": 0, "offset": None, "version": 20},
        }


def encrypted_member(name: bytes, content: bytes, password: bytes, method: int = STORED) -> Entry:
    """A member under the traditional cipher, its check byte taken from the CRC-32."""
    header = bytes(11) + bytes([zlib.crc32(content) >> 24])
    packed = encrypted(header + (deflated(content) if method else content), password)
    return Entry(name, content, method, packed=packed, flags=1)


def _common(fields: dict[str, Any]) -> bytes:
    return struct.pack(
        *("<HHHHHIIIHH", fields["version"], fields["flags"], fields["method"], 0, 33),
        *(fields["crc32"], fields["packed_bytes"], fields["size"]),
        *(len(fields["name"]), len(fields["extra"])),
    )


def local_header(entry: Entry) -> bytes:
    fields = entry.fields() | entry.local
    return b"PK\x03\x04" + _common(fields) + fields["name"] + fields["extra"]


def archive_bytes(
    entries: list[Entry],
    *,
    comment: bytes = b"",
    suffix: bytes = b"",
    before_end: bytes = b"",
    **end: int,
) -> bytes:
    """An archive of these members; `end` replaces fields of the end record."""
    body, listing = bytearray(), bytearray()
    for entry in entries:
        offset = len(body)
        body += local_header(entry) + entry.fields()["packed"] + entry.behind
        listed = entry.fields() | {"offset": offset} | entry.listed
        listing += b"PK\x01\x02" + struct.pack("<H", 3 << 8 | 20) + _common(listed)
        listing += struct.pack("<HHHII", 0, listed["volume"], 0, listed["mode"], listed["offset"])
        listing += listed["name"] + listed["extra"]
    record = {
        **{"disk": 0, "first_disk": 0, "num_here": len(entries), "num_members": len(entries)},
        **{"size": len(listing), "offset": len(body), "comment_bytes": len(comment)},
    } | end
    return bytes(body + listing) + before_end + end_record(record) + comment + suffix


def end_record(record: dict[str, int]) -> bytes:
    return b"PK\x05\x06" + struct.pack("<4H2LH", *record.values())


def zip64_end(*, size: int, offset: int, num_members: int, at: int) -> bytes:
    """The zip64 end record, and its locator, which says that the record lies at `at`."""
    numbers = (num_members, num_members, size, offset)
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *numbers)
    return record + struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
