"""One entry of an archive's list of members: whether it may be unpacked, and what it becomes."""

import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from pyzipper import ZIP_DEFLATED, ZIP_STORED
from pyzipper.zipfile_aes import WZ_AES_COMPRESS_TYPE, WZ_AES_V1, WZ_AES_V2, AESZipInfo

from fvc.archives.headers import MASKED, PATCHED, STRONG, UTF8, Listed
from fvc.errors import FvcError

METHODS = (ZIP_STORED, ZIP_DEFLATED)
"""Of the others, one block of an archive may become more than memory holds."""
TRADITIONAL_BYTES = 12
AES_BYTES = {1: 20, 2: 24, 3: 28}
"""What encryption adds, by key strength: salt, password check and authentication code."""
MAX_NAME_BYTES = 240
"""Of one part of a path: what file systems allow, less what a temporary name adds."""
MAX_PATH_BYTES = 2048
"""Half of what Linux allows, so that the target folder has the other half."""
SHOWN_CHARACTERS = 300
DOS_FOLDER, DOS_LABEL, NTFS_LINK = 0x10, 0x08, 0x400
DISTRUST = "Remove the archive, or pack it anew from a source that can be trusted"
REPACK = "Pack it anew, stored or deflated, with traditional or AES zip encryption or none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One regular file of an archive, as the archive's headers describe it."""

    archive: Path
    name: str
    """Relative path inside the archive, parts divided by '/'."""
    size_bytes: int
    """Unpacked; `unpack` refuses a member that turns out to have another size."""
    crc32: int | None
    """None where the archive does not say, as in AES encryption of the second version."""
    encrypted: bool


def check_entry(archive: Path, entry: AESZipInfo) -> None:
    """Refuse what could land outside the target folder, or cannot be read.

    Raises:
        FvcError: The entry is a link or special file, has a name that may
            leave the folder, contradicts itself, or is packed by other means
            than the common ones.
    """
    name = entry.orig_filename
    if problem := _name_problem(name) or _kind_problem(entry):
        raise fault(archive, name, problem, DISTRUST)
    if problem := _packing_problem(entry):
        raise fault(archive, name, problem, REPACK)
    if problem := _size_problem(entry):
        raise fault(archive, name, problem, DISTRUST)


def fault(archive: Path, name: str, problem: str, remedy: str) -> FvcError:
    """An error about one member; names may be as long as 65,535 bytes."""
    shown = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}..."
    return FvcError(archive, f"member {shown!r} {problem}", remedy)


def _name_problem(name: str) -> str | None:
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "has a path with an empty, '.' or '..' part"
    if "\\" in name or any(unicodedata.category(character) == "Cc" for character in name):
        return "has a name with a backslash or control character"
    if len(name.encode()) > MAX_PATH_BYTES or any(
        len(part.encode()) > MAX_NAME_BYTES for part in parts
    ):
        return "has too long a name"
    if any(part.startswith(".") and part.endswith(".partial") for part in parts):
        return "has a name that stands for unfinished files"
    return None


def _kind_problem(entry: AESZipInfo) -> str | None:
    mode = entry.external_attr >> 16
    kind, folder = stat.S_IFMT(mode), entry.is_dir()
    # Archives made without Unix permissions have no kind at all.
    kinds = (0, stat.S_IFDIR) if folder else (0, stat.S_IFREG)
    if kind not in kinds or entry.external_attr & (DOS_LABEL | NTFS_LINK):
        return "is a link or special file"
    if folder and entry.file_size:
        return "is a folder with content"
    if not folder and entry.external_attr & DOS_FOLDER:
        return "is called a folder and named like a file"
    if not folder and mode & (stat.S_ISUID | stat.S_ISGID):
        return "asks for another user's rights"
    return None


def _size_problem(entry: AESZipInfo) -> str | None:
    added = 0
    if entry.is_encrypted:
        added = AES_BYTES.get(entry.wz_aes_strength, TRADITIONAL_BYTES)
    content_bytes = entry.compress_size - added
    stored = entry.compress_type == ZIP_STORED
    if content_bytes < 0 or (stored and content_bytes != entry.file_size):
        return "has a size that contradicts its packed size"
    return None


def _packing_problem(entry: AESZipInfo) -> str | None:
    if entry.flag_bits & (STRONG | MASKED):
        return "is packed with strong encryption, which is PKWARE's own"
    if entry.flag_bits & PATCHED:
        return "is packed as a patch"
    if entry.volume:
        return "lies in another volume"
    if entry.wz_aes_version is not None and not (
        entry.is_encrypted
        and entry.wz_aes_version in (WZ_AES_V1, WZ_AES_V2)
        and entry.wz_aes_strength in AES_BYTES
    ):
        return "has an AES field that makes no sense"
    if entry.compress_type not in METHODS:
        return f"is packed by method {entry.compress_type}"
    return None


def listed(entry: AESZipInfo) -> Listed:
    """The entry as its local header is held against it."""
    aes = entry.wz_aes_version is not None
    return Listed(
        name=entry.orig_filename.encode("utf-8" if entry.flag_bits & UTF8 else "cp437"),
        flags=entry.flag_bits,
        method=WZ_AES_COMPRESS_TYPE if aes else entry.compress_type,
        crc32=entry.CRC,
        packed_bytes=entry.compress_size,
        size_bytes=entry.file_size,
        offset=entry.header_offset,
        extra=entry.extra,
    )


def member_of(archive: Path, entry: AESZipInfo) -> Member:
    """The entry as the rest of the program knows it."""
    return Member(
        archive=archive,
        name=entry.filename,
        size_bytes=entry.file_size,
        crc32=None if entry.wz_aes_version == WZ_AES_V2 else entry.CRC,
        encrypted=bool(entry.is_encrypted),
    )
