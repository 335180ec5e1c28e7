"""The engine: pyzipper, with the traditional cipher in C, and its exceptions as our errors."""

import copy
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# The module inside fast-zip-decryption: importing that one by name would patch zipfile for all.
from _zipdecrypter import StandardZipDecrypter
from pyzipper import AESZipFile, BadZipFile
from pyzipper.zipfile_aes import AESZipExtFile

from fvc.archives.entries import DISTRUST, Member, fault
from fvc.archives.headers import HeaderError
from fvc.errors import FvcError

BLOCK_BYTES = 1 << 20
FETCH_AGAIN = "Fetch the archive again, then run 'dvc add data'"
# All that pyzipper was seen to raise on archives with flipped bytes or cut ends.
DAMAGE = (BadZipFile, zlib.error, struct.error, EOFError, UnicodeDecodeError, NotImplementedError)


class _TraditionalDecrypter:
    """pyzipper's is written in Python, as the one of the standard library, and as slow."""

    def __init__(self, entry: Any, pwd: bytes, encryption_header: bytes) -> None:
        cipher = StandardZipDecrypter(pwd)
        self.decrypt = cipher.decrypt_bytes
        last = self.decrypt(encryption_header)[-1]
        expected = entry._raw_time >> 8 if entry.use_datadescripter else entry.CRC >> 24
        if last != expected & 0xFF:
            raise RuntimeError("the password does not pass the check of the member's header")


class _Reader(AESZipExtFile):  # type: ignore[misc]
    def setup_crczipdecrypter(self) -> type[_TraditionalDecrypter]:
        super().setup_crczipdecrypter()
        return _TraditionalDecrypter


class ZipFile(AESZipFile):  # type: ignore[misc]
    """An archive opened for reading; members may be encrypted by the traditional cipher or AES."""

    zipextfile_cls = _Reader


def zip_file(archive: Path) -> ZipFile:
    """Open an archive; the caller closes it.

    Raises:
        FvcError: It is damaged or cannot be read.
    """
    with naming_damage(archive):
        return ZipFile(archive)


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
        raise fault(member.archive, member.name, "has not the size its header says", DISTRUST)


def blocks_of(zipped: ZipFile, member: Member, password: str | None) -> Iterator[bytes]:
    """What a member holds, in blocks of `BLOCK_BYTES` at most.

    Raises:
        FvcError: The password is missing or wrong, or the member is damaged
            or has not the size its header says. A block that would pass that
            size is not given any more.
    """
    with naming_damage(member.archive, member), opened(zipped, member, password) as source:
        yield from held_to_size(iter(lambda: source.read(BLOCK_BYTES), b""), member)


@contextmanager
def opened(zipped: ZipFile, member: Member, password: str | None) -> Iterator[IO[bytes]]:
    """Give a member as a stream that ends with a check of its CRC-32 or authentication code.

    Raises:
        FvcError: The password is missing or wrong.
    """
    if member.encrypted and not password:
        remedy = "Set FVC_ARCHIVE_PASSWORD to the password that came with the corpus"
        raise FvcError(member.archive, "is encrypted and no password is given", remedy)
    entry = copy.copy(zipped.getinfo(member.name))
    # Reading stops at this size; one more byte shows a member that goes on after it.
    entry.file_size += 1
    try:
        source = zipped.open(entry, pwd=password.encode() if password else None)
    except RuntimeError as error:
        cause = f"FVC_ARCHIVE_PASSWORD does not open member {member.name!r}"
        raise FvcError(member.archive, cause, "Set it to the archive's password") from error
    with source:
        yield source


@contextmanager
def naming_damage(archive: Path, member: Member | None = None) -> Iterator[None]:
    """Turn what damaged headers or data raise into an error that names archive and member.

    Raises:
        FvcError: The block raised an exception that damage is known to raise.
    """
    try:
        yield
    except HeaderError as error:
        raise FvcError(archive, str(error), FETCH_AGAIN) from error
    except DAMAGE as error:
        if not member:
            raise FvcError(archive, f"is damaged ({error})", FETCH_AGAIN) from error
        doubt = ", or FVC_ARCHIVE_PASSWORD is wrong" if member.encrypted else ""
        cause = f"is damaged{doubt} ({error})"
        raise fault(archive, member.name, cause, FETCH_AGAIN) from error
    except OSError as error:
        raise FvcError(archive, f"cannot be read ({error})", "Make it readable") from error
