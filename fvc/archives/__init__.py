"""The only door to zip files: what an archive holds, and its members on disk."""

import errno
import os
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fvc.archives.entries import DISTRUST, Member, check_entry, fault, listed, member_of
from fvc.archives.headers import HeaderError, check_count, check_local_header, find_directory
from fvc.archives.reading import BLOCK_BYTES, ZipFile, blocks_of, naming_damage, opened, zip_file
from fvc.errors import FvcError
from fvc.files import replacing

__all__ = [
    "Member",
    "check_names",
    "check_password",
    "find_missing",
    "read_members",
    "unpack",
]
PASSWORD_SAMPLES = 8
"""A wrong password passes the zip format's own check of one member once in 256 times."""


def read_members(archive: Path, *, max_members: int | None = None) -> list[Member]:
    """List the regular files of an archive without unpacking anything.

    Folders are left out; they are made as files need them.

    Raises:
        FvcError: The archive is damaged or contradicts itself, lists more than
            `max_members` files and folders, or a member is a link or special
            file, has a name that may leave the target folder, or is packed in
            a way that cannot be read.
    """
    with naming_damage(archive), archive.open("rb") as stream:
        directory = find_directory(stream)
        if max_members is not None and directory.num_members > max_members:
            cause = f"lists {directory.num_members} members"
            remedy = "Remove it, or raise extract.max_members in params.yaml if it is right"
            raise FvcError(archive, cause, remedy)
        check_count(stream, directory)
        with ZipFile(stream) as zipped:
            entries = zipped.infolist()
        for entry in entries:
            check_entry(archive, entry)
            try:
                check_local_header(stream, listed(entry), directory)
            except HeaderError as error:
                raise fault(archive, entry.orig_filename, str(error), DISTRUST) from error
    return [member_of(archive, entry) for entry in entries if not entry.is_dir()]


def check_names(members: Iterable[Member]) -> None:
    """Refuse members, of one archive or several, that would overwrite each other.

    Raises:
        FvcError: Two paths, of files or of the folders that hold them, are
            equal, or equal but for case (or Unicode form).
    """
    taken: dict[str, Member] = {}
    for member in members:
        parts = member.name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            other = taken.setdefault(_folded(path), member)
            same_folder = depth < len(parts) and other.name.startswith(f"{path}/")
            if other is not member and not same_folder:
                cause = f"collides with {other.name!r} of {other.archive.name}"
                raise fault(member.archive, member.name, cause, DISTRUST)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_password(members: Sequence[Member], password: str | None) -> None:
    """Find out whether the password opens the encrypted ones among one archive's members.

    Raises:
        FvcError: It is missing, or wrong.
    """
    locked = [member for member in members if member.encrypted]
    if not locked:
        return
    with zip_file(locked[0].archive) as zipped:
        for member in locked[:PASSWORD_SAMPLES]:
            with naming_damage(member.archive, member), opened(zipped, member, password):
                pass


def find_missing(
    members: Sequence[Member],
    folder: Path,
    *,
    password: str | None,
    progress: Callable[[int], object],
) -> list[Member]:
    """Choose the members of one archive that do not lie under `folder` whole.

    Whole is a plain file with the member's size and CRC-32; where the archive
    gives no CRC-32, one with the bytes that decrypting the member gives.

    Args:
        members: Taken from `read_members`, of one archive.
        folder: They are looked for at `folder / member.name`.
        password: Needed for members without a CRC-32 only.
        progress: Called with the size of every member, in bytes.

    Raises:
        FvcError: A member without a CRC-32 cannot be decrypted.
    """
    missing = []
    if members:
        with zip_file(members[0].archive) as zipped:
            for member in members:
                if not _is_whole(zipped, member, folder, password):
                    missing.append(member)
                progress(member.size_bytes)
    return missing


def _is_whole(zipped: ZipFile, member: Member, folder: Path, password: str | None) -> bool:
    path = folder / member.name
    # Something that is reached through a link may lie outside the folder.
    if path.resolve() != folder.resolve() / member.name or not path.is_file():
        return False
    if path.stat().st_size != member.size_bytes:
        return False
    with path.open("rb") as stream:
        if member.crc32 is None:
            blocks = blocks_of(zipped, member, password)
            return all(stream.read(len(block)) == block for block in blocks)
        checksum = 0
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
        FvcError: The disk is full, or a member is damaged, or what comes out
            of it is more or less than its header says. So limits that were
            checked on the headers hold for what is written, too.
    """
    if not members:
        return
    with zip_file(members[0].archive) as zipped:
        for member in members:
            blocks = blocks_of(zipped, member, password)
            with (
                _naming_full_disk(folder),
                replacing(folder / member.name) as partial,
                partial.open("wb") as target,
            ):
                for block in blocks:
                    target.write(block)
                    progress(len(block))


@contextmanager
def _naming_full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause, remedy = f"cannot be written ({error})", "Make it writable, then run again"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            cause = f"has no room for more ({os.strerror(error.errno)})"
            remedy = "Free space on its disk, then run again: what is unpacked already is kept"
        raise FvcError(folder, cause, remedy) from error
