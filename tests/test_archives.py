import random
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from fvc.archives import (
    Member,
    check_names,
    check_password,
    held_to_size,
    is_unpacked,
    read_members,
    unpack,
)
from fvc.errors import FvcError

SEALED = Path(__file__).parents[2] / "shared" / "corpus" / "archives" / "FVC3.zip"


def archive_of(path: Path, files: dict[str, bytes], **attributes: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = attributes.get("mode", 0) << 16
            entry.compress_type = attributes.get("method", zipfile.ZIP_DEFLATED)
            opened.writestr(entry, content)
    return path


def unpack_all(archive: Path, folder: Path, password: str | None = None) -> int:
    written = 0

    def count(num_bytes: int) -> None:
        nonlocal written
        written += num_bytes

    members = read_members(archive)
    check_names(members)
    check_password(members, password)
    unpack(members, folder, password=password, progress=count)
    return written


def encrypted(data: bytes, password: bytes) -> bytes:
    """PKWARE's traditional cipher, from section 6.1 of its APPNOTE; zipfile only decrypts."""
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


def encrypted_archive(path: Path, name: str, content: bytes, password: bytes) -> Path:
    checksum = zlib.crc32(content)
    header = bytes(11) + bytes([checksum >> 24])
    data = encrypted(header + content, password)
    fields = struct.pack(
        "<HHHHHIIIHH", 20, 1, 0, 0, 0, checksum, len(data), len(content), len(name), 0
    )
    local = b"PK\x03\x04" + fields + name.encode() + data
    central = b"PK\x01\x02" + struct.pack("<H", 20) + fields + bytes(14) + name.encode()
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


def test_members_come_out_with_their_bytes(tmp_path: Path) -> None:
    files = {"FVC1/a/video.mp4": b"x" * 3_000_000, "FVC1/b/ü.mkv": b"", "FVC2/": b""}
    archive = archive_of(tmp_path / "a.zip", files)
    written = unpack_all(archive, tmp_path / "out")
    assert written == 3_000_000
    assert (tmp_path / "out/FVC1/a/video.mp4").read_bytes() == files["FVC1/a/video.mp4"]
    assert (tmp_path / "out/FVC1/b/ü.mkv").read_bytes() == b""
    assert not (tmp_path / "out/FVC2").exists(), "an empty folder was made"


@pytest.mark.parametrize(
    "name",
    ["/etc/x", "../x", "a/../../x", "a//x", "./x", "C:/x", "a\\..\\x", "a/new\nline", "n" * 250],
)
def test_a_path_that_may_leave_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = archive_of(tmp_path / "evil.zip", {"ok": b"1", name: b"2"})
    with pytest.raises(FvcError) as caught:
        read_members(archive)
    assert caught.value.args[0] == archive
    assert repr(name) in caught.value.args[1], "the member is not named"


@pytest.mark.parametrize(
    "kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR]
)
def test_links_and_special_files_are_refused(tmp_path: Path, kind: int) -> None:
    archive = archive_of(tmp_path / "evil.zip", {"link": b"/etc/passwd"}, mode=kind | 0o777)
    with pytest.raises(FvcError, match="'link' is a link or special file"):
        read_members(archive)


@pytest.mark.parametrize(
    ("one", "other"), [("a/Video.mp4", "a/vIDEO.mp4"), ("a", "a/b"), ("é", "E\u0301")]
)
def test_members_that_overwrite_each_other_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    archive = archive_of(tmp_path / "a.zip", {one: b"1", other: b"2"})
    with pytest.raises(FvcError, match="collides"):
        check_names(read_members(archive))


def test_the_same_member_in_two_archives_is_refused(tmp_path: Path) -> None:
    members = [
        *read_members(archive_of(tmp_path / "a.zip", {"FVC1/x": b"1"})),
        *read_members(archive_of(tmp_path / "b.zip", {"FVC1/x": b"1"})),
    ]
    with pytest.raises(FvcError, match=r"b\.zip: member 'FVC1/x' collides with .* of a\.zip"):
        check_names(members)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        opened.writestr("x", b"1")
        opened.writestr("x", b"2")
    with pytest.raises(FvcError, match="collides"):
        check_names(read_members(tmp_path / "a.zip"))


def test_a_rare_compression_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"x": b"1"}, method=zipfile.ZIP_LZMA)
    with pytest.raises(FvcError, match="method 14"):
        read_members(archive)


def test_broken_archives_raise_nothing_but_known_errors(tmp_path: Path) -> None:
    sound = archive_of(
        tmp_path / "sound.zip", {f"F/ü{n}/video.mp4": bytes(range(200)) * 3 for n in range(3)}
    ).read_bytes()
    generator = random.Random(0)
    archive, refused = tmp_path / "broken.zip", 0
    for attempt in range(300):
        broken = bytearray(sound)
        if attempt % 3 == 0:
            del broken[generator.randrange(len(broken)) :]
        else:
            for _ in range(generator.randrange(1, 4)):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
        archive.write_bytes(broken)
        try:
            unpack_all(archive, tmp_path / "out")
        except FvcError:
            refused += 1
    assert refused > 200
    partial = [path.name for path in (tmp_path / "out").rglob(".*.partial")]
    assert not partial, "a damaged member left something half-written"


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "cut.zip", {"x": bytes(1000)})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(FvcError, match=r"cut\.zip: is truncated"):
        read_members(archive)


def test_the_right_password_opens_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    archive = encrypted_archive(tmp_path / "a.zip", "x", b"secret" * 50, b"word")
    with pytest.raises(FvcError, match="FVC_ARCHIVE_PASSWORD"):
        unpack_all(archive, tmp_path / "out")
    with pytest.raises(FvcError, match="FVC_ARCHIVE_PASSWORD does not open member 'x'"):
        unpack_all(archive, tmp_path / "out", "wrong")
    assert not (tmp_path / "out").exists()
    unpack_all(archive, tmp_path / "out", "word")
    assert (tmp_path / "out/x").read_bytes() == b"secret" * 50


@pytest.mark.skipif(not SEALED.is_file(), reason="the shared corpus is not here")
def test_an_archive_encrypted_by_another_program_opens(tmp_path: Path) -> None:
    members = read_members(SEALED)[:3]
    unpack(members, tmp_path, password="fake-video-corpus", progress=lambda _: None)
    assert all(is_unpacked(member, tmp_path) for member in members)


@pytest.mark.parametrize("blocks", [[b"12", b"345"], [b"12"], [], [b"12345678"]])
def test_a_member_is_held_to_the_size_of_its_header(blocks: list[bytes]) -> None:
    member = Member(archive=Path("a.zip"), name="x", size_bytes=4, crc32=0, encrypted=False)
    passed: list[bytes] = []
    with pytest.raises(FvcError, match="size"):
        passed.extend(held_to_size(blocks, member))
    assert sum(map(len, passed)) <= 4, "more was let through than the header says"


def test_what_lies_there_is_believed_only_if_whole(tmp_path: Path) -> None:
    (member,) = read_members(archive_of(tmp_path / "a.zip", {"F/x": b"content"}))
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    assert not is_unpacked(member, folder)
    unpack([member], folder, password=None, progress=lambda _: None)
    assert is_unpacked(member, folder)
    for wrong in (b"conten", b"Content"):
        (folder / "F/x").write_bytes(wrong)
        assert not is_unpacked(member, folder)
    (folder / "F/x").write_bytes(b"content")
    (folder / "F").rename(elsewhere)
    (folder / "F").symlink_to(elsewhere)
    assert not is_unpacked(member, folder), "a file outside the folder is taken for the member"
