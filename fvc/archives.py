"""The only door to zip files: what an archive holds, and its members on disk."""

import errno
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fvc.errors import FvcError
from fvc.files import replacing

BLOCK_BYTES = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_NAME_BYTES = 240
"""Of one part of a path: what file systems allow, less what a temporary name adds."""
PASSWORD_SAMPLES = 8
"""A wrong password passes the zip format's own check of one member once in 256 times."""
FETCH_AGAIN = "Fetch the archive again, then run 'dvc add data'"
DISTRUST = "Remove the archive, or pack it anew from a source that can be trusted"
REPACK = "Pack it anew, stored or deflated, with traditional zip encryption or none"
# All that zipfile was seen to raise on archives with flipped bytes or cut ends.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,
    OSError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One regular file of an archive, as the archive's headers describe it."""

    archive: Path
    name: str
    """Relative path inside the archive, parts divided by '/'."""
    size_bytes: int
    """Unpacked; `unpack` refuses a member that turns out to have another size."""
    crc32: int
    encrypted: bool


def read_members(archive: Path) -> list[Member]:
    """List the regular files of an archive without unpacking anything.

    Folders are left out; they are made as files need them.

    Raises:
        FvcError: The archive is damaged, or a member is a link or special
            file, has a name that may leave the target folder, or is packed in
            a way that cannot be read.
    """
    with _naming_damage(archive), zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
    for entry in entries:
        if problem := _problem(entry):
            raise FvcError(archive, f"member {entry.filename!r} {problem}", DISTRUST)
        if entry.compress_type not in METHODS:
            cause = f"member {entry.filename!r} is packed by method {entry.compress_type}"
            raise FvcError(archive, cause, REPACK)
    return [
        Member(
            archive=archive,
            name=entry.filename,
            size_bytes=entry.file_size,
            crc32=entry.CRC,
            encrypted=bool(entry.flag_bits & 0x1),
        )
        for entry in entries
        if not entry.is_dir()
    ]


def _problem(entry: zipfile.ZipInfo) -> str | None:
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "has a path with an empty, '.' or '..' part"
    if "\\" in name or any(ord(character) < 32 for character in name):
        return "has a name with a backslash or control character"
    if any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "has too long a name"
    # Archives made without Unix permissions have no kind at all.
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR and not entry.is_dir()):
        return "is a link or special file"
    return None


def check_names(members: Iterable[Member]) -> None:
    """Refuse members, of one archive or several, that would overwrite each other.

    Raises:
        FvcError: Two names are equal, equal but for case (or Unicode form),
            or one is a file where the other needs a folder.
    """
    files: dict[str, Member] = {}
    folders: dict[str, Member] = {}
    for member in members:
        name = _folded(member.name)
        other = files.setdefault(name, member)
        if other is not member:
            _refuse_collision(member, other)
        parts = name.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), member)
    for name in files.keys() & folders.keys():
        _refuse_collision(files[name], folders[name])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _refuse_collision(member: Member, other: Member) -> None:
    cause = f"member {member.name!r} collides with {other.name!r} of {other.archive.name}"
    raise FvcError(member.archive, cause, DISTRUST)


def check_password(members: Sequence[Member], password: str | None) -> None:
    """Find out whether the password opens the encrypted ones among one archive's members.

    Raises:
        FvcError: It is missing, or wrong.
    """
    locked = [member for member in members if member.encrypted]
    if not locked:
        return
    archive = locked[0].archive
    if not password:
        remedy = "Set FVC_ARCHIVE_PASSWORD to the password that came with the corpus"
        raise FvcError(archive, "is encrypted and no password is given", remedy)
    with _naming_damage(archive), zipfile.ZipFile(archive) as opened:
        for member in locked[:PASSWORD_SAMPLES]:
            with _opened(opened, member, password):
                pass


def is_unpacked(member: Member, folder: Path) -> bool:
    """Whether the member lies under `folder` whole: a plain file with its size and CRC-32."""
    path = folder / member.name
    # Something that is reached through a link may lie outside the folder.
    if path.resolve() != folder.resolve() / member.name or not path.is_file():
        return False
    if path.stat().st_size != member.size_bytes:
        return False
    checksum = 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum == member.crc32


def unpack(
    members: Sequence[Member],
    folder: Path,
    *,
    password: str | None,
    progress: Callable[[int], object],
) -> None:
    """Write members of one archive under `folder`, each whole or not at all.

    Args:
        members: Taken from `read_members`, of one archive.
        folder: They go to `folder / member.name`.
        password: For the encrypted ones.
        progress: Called with the number of bytes of every block written.

    Raises:
        FvcError: A member is damaged, or larger or smaller than its header
            says, so limits that were checked on the headers hold.
    """
    if not members:
        return
    archive = members[0].archive
    with _naming_damage(archive):
        opened = zipfile.ZipFile(archive)
    with opened:
        for member in members:
            blocks = _blocks(opened, member, password)
            with replacing(folder / member.name) as partial, partial.open("wb") as target:
                for block in held_to_size(blocks, member):
                    target.write(block)
                    progress(len(block))


def held_to_size(blocks: Iterable[bytes], member: Member) -> Iterator[bytes]:
    """Pass the blocks on, and refuse them once they are not what the member's header says.

    Raises:
        FvcError: Together they are larger or smaller.
    """
    left_bytes = member.size_bytes
    for block in blocks:
        left_bytes -= len(block)
        if left_bytes < 0:
            break
        yield block
    if left_bytes != 0:
        cause = f"member {member.name!r} has not the size its header says"
        raise FvcError(member.archive, cause, DISTRUST)


def _blocks(opened: zipfile.ZipFile, member: Member, password: str | None) -> Iterator[bytes]:
    with _naming_damage(member.archive, member), _opened(opened, member, password) as source:
        while block := source.read(BLOCK_BYTES):
            yield block


@contextmanager
def _opened(opened: zipfile.ZipFile, member: Member, password: str | None) -> Iterator[IO[bytes]]:
    try:
        source = opened.open(member.name, pwd=password.encode() if password else None)
    except NotImplementedError as error:
        cause = f"member {member.name!r} cannot be read ({error})"
        raise FvcError(member.archive, cause, REPACK) from error
    except RuntimeError as error:
        cause = f"FVC_ARCHIVE_PASSWORD does not open member {member.name!r}"
        raise FvcError(member.archive, cause, "Set it to the archive's password") from error
    with source:
        yield source


@contextmanager
def _naming_damage(archive: Path, member: Member | None = None) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        # Of the system's errors only this one is the archive's fault: an offset below zero.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        cause = "is truncated or no zip file"
        if member:
            doubt = ", or FVC_ARCHIVE_PASSWORD is wrong" if member.encrypted else ""
            cause = f"member {member.name!r} is damaged{doubt}"
        raise FvcError(archive, f"{cause} ({error})", FETCH_AGAIN) from error
