import errno
import os
import random
import stat
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pyzipper
from zip_bytes import DEFLATED, STORED, archive_bytes, encrypted_member

from fvc.archives import (
    Member,
    check_names,
    check_password,
    find_missing,
    read_members,
    unpack,
)
from fvc.archives.reading import held_to_size
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


def aes_archive(path: Path, files: dict[str, bytes], method: int = STORED, **how: Any) -> Path:
    with pyzipper.AESZipFile(path, "w", compression=method, encryption=pyzipper.WZ_AES) as opened:
        opened.setpassword(b"word")
        opened.setencryption(pyzipper.WZ_AES, **how)
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def is_unpacked(member: Member, folder: Path, password: str | None = None) -> bool:
    return not find_missing([member], folder, password=password, progress=lambda _: None)


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


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_rare_compression_is_refused_before_anything_is_read(tmp_path: Path, method: int) -> None:
    archive = archive_of(tmp_path / "a.zip", {"x": b"1"}, method=method)
    with pytest.raises(FvcError, match=rf"method {method}\. Pack it anew, stored or deflated"):
        read_members(archive)


def sound_archives(folder: Path) -> Iterator[Path]:
    files = {f"F/ü{n}/video.mp4": bytes(range(200)) * 3 for n in range(3)}
    yield archive_of(folder / "plain.zip", files)
    yield aes_archive(folder / "aes.zip", files, DEFLATED)
    path = folder / "traditional.zip"
    members = [encrypted_member(b"F/%d" % n, bytes(range(200)), b"word") for n in range(3)]
    path.write_bytes(archive_bytes(members))
    yield path
    with zipfile.ZipFile(folder / "zip64.zip", "w") as opened:
        for name, content in files.items():
            with opened.open(name, "w", force_zip64=True) as target:
                target.write(content)
    yield folder / "zip64.zip"


def test_broken_archives_raise_nothing_but_known_errors(tmp_path: Path) -> None:
    (tmp_path / "sound").mkdir()
    sound = [path.read_bytes() for path in sound_archives(tmp_path / "sound")]
    generator = random.Random(0)
    archive, refused = tmp_path / "broken.zip", 0
    for attempt in range(400):
        broken = bytearray(sound[attempt % len(sound)])
        if attempt % 3 == 0:
            del broken[generator.randrange(len(broken)) :]
        else:
            for _ in range(generator.randrange(1, 4)):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
        archive.write_bytes(broken)
        try:
            unpack_all(archive, tmp_path / "out", "word")
        except FvcError as error:
            named = error.args[0]
            refused += named == archive
    assert refused > 270
    partial = [path.name for path in (tmp_path / "out").rglob(".*.partial")]
    assert not partial, "a damaged member left something half-written"


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "cut.zip", {"x": bytes(1000)})
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(FvcError, match=r"cut\.zip: is truncated"):
        read_members(archive)


def test_the_right_password_opens_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(archive_bytes([encrypted_member(b"x", b"secret" * 50, b"word")]))
    with pytest.raises(FvcError, match="FVC_ARCHIVE_PASSWORD"):
        unpack_all(archive, tmp_path / "out")
    with pytest.raises(FvcError, match="FVC_ARCHIVE_PASSWORD does not open member 'x'"):
        unpack_all(archive, tmp_path / "out", "wrong")
    assert not (tmp_path / "out").exists()
    unpack_all(archive, tmp_path / "out", "word")
    assert (tmp_path / "out/x").read_bytes() == b"secret" * 50


@pytest.mark.parametrize("nbits", [128, 192, 256])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("version", [1, 2])
def test_aes_archives_open_with_their_password_only(
    tmp_path: Path, nbits: int, method: int, version: int
) -> None:
    files = {"F/long": b"secret" * 400_000, "F/empty": b""}
    how = {"nbits": nbits, "force_wz_aes_version": version}
    archive = aes_archive(tmp_path / "a.zip", files, method, **how)
    for wrong in (None, "wrong"):
        with pytest.raises(FvcError, match="FVC_ARCHIVE_PASSWORD"):
            unpack_all(archive, tmp_path / "out", wrong)
    assert not (tmp_path / "out").exists()
    unpack_all(archive, tmp_path / "out", "word")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


def test_without_a_checksum_the_bytes_on_disk_are_compared(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3_000_000)
    (member,) = read_members(aes_archive(tmp_path / "a.zip", {"x": content}))
    assert member.crc32 is None, "the second version of AES encryption has no CRC-32"
    assert not is_unpacked(member, tmp_path), "what is not there needs no password"
    unpack([member], tmp_path, password="word", progress=lambda _: None)
    assert is_unpacked(member, tmp_path, "word")
    (tmp_path / "x").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not is_unpacked(member, tmp_path, "word"), "another file of that size is believed"
    with pytest.raises(FvcError, match=r"a\.zip: is encrypted and no password is given"):
        is_unpacked(member, tmp_path)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_aes_data_that_was_changed_is_refused(tmp_path: Path, at: float) -> None:
    archive = aes_archive(tmp_path / "a.zip", {"x": random.Random(0).randbytes(3_000_000)})
    changed = bytearray(archive.read_bytes())
    changed[int(len(changed) * at)] ^= 1
    archive.write_bytes(changed)
    with pytest.raises(FvcError, match="member 'x' is damaged, or FVC_ARCHIVE_PASSWORD is wrong"):
        unpack_all(archive, tmp_path / "out", "word")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_the_fast_cipher_gives_what_zipfile_gives(tmp_path: Path, method: int) -> None:
    content = random.Random(0).randbytes(100_000)
    archive = tmp_path / "a.zip"
    archive.write_bytes(archive_bytes([encrypted_member(b"x", content, b"w\xc3\xb6rd", method)]))
    with zipfile.ZipFile(archive) as opened:
        with opened.open("x", pwd=b"w\xc3\xb6rd") as source:
            assert type(source).__mro__[0] is zipfile.ZipExtFile, "zipfile was patched"
        assert opened.read("x", pwd=b"w\xc3\xb6rd") == content
    unpack_all(archive, tmp_path / "out", "wörd")
    assert (tmp_path / "out/x").read_bytes() == content


def test_a_wrong_password_that_passes_the_check_of_its_header_is_doubted(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(archive_bytes([encrypted_member(b"x", b"secret" * 50, b"word")]))
    (member,) = read_members(archive)
    passing = 0
    for guess in range(2000):
        try:
            check_password([member], str(guess))
        except FvcError:
            continue
        passing += 1
        with pytest.raises(FvcError, match="is damaged, or FVC_ARCHIVE_PASSWORD is wrong"):
            unpack([member], tmp_path / "out", password=str(guess), progress=lambda _: None)
        assert not list((tmp_path / "out").iterdir())
    assert passing > 0, "no guess passed, so nothing was tested"


@pytest.mark.parametrize(("limit", "value"), [("ZIP64_LIMIT", 100), ("ZIP_FILECOUNT_LIMIT", 1)])
def test_archives_in_the_zip64_format_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    files = {"F/x": b"video" * 1000, "F/y": b"other" * 1000}
    monkeypatch.setattr(zipfile, limit, value)
    archive = archive_of(tmp_path / "a.zip", files)
    assert b"PK\x06\x06" in archive.read_bytes(), "zipfile wrote no zip64 end record"
    assert unpack_all(archive, tmp_path / "out") == 10_000
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


def test_members_with_zip64_sizes_open(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened,
        opened.open("F/x", "w", force_zip64=True) as target,
    ):
        target.write(b"video" * 1000)
    assert b"\x01\x00\x10\x00" in (tmp_path / "a.zip").read_bytes(), "there is no zip64 field"
    assert unpack_all(tmp_path / "a.zip", tmp_path / "out") == 5000


def test_too_many_members_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"a": b"", "b": b"", "c": b""})
    assert len(read_members(archive, max_members=3)) == 3
    with pytest.raises(FvcError, match=r"lists 3 members\. .*extract\.max_members"):
        read_members(archive, max_members=2)


def test_members_written_without_seeking_open(tmp_path: Path) -> None:
    class Pipe:
        def __init__(self, target: Path) -> None:
            self.stream = target.open("wb")
            self.write, self.flush = self.stream.write, self.stream.flush

    pipe = Pipe(tmp_path / "a.zip")
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as opened:  # type: ignore[call-overload]
        opened.writestr("x", b"video" * 1000)
        with opened.open("y", "w", force_zip64=True) as target:
            target.write(b"other" * 1000)
    pipe.stream.close()
    assert unpack_all(tmp_path / "a.zip", tmp_path / "out") == 10_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_keeps_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    members = read_members(archive_of(tmp_path / "a.zip", {"a": b"one", "b": b"two", "c": b"3"}))
    opened, folder = Path.open, tmp_path / "out"

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == ".b.partial":
            raise OSError(number, os.strerror(number))
        return opened(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refusing)
        with pytest.raises(FvcError, match=r"no room for more .*Free space .*is kept") as caught:
            unpack(members, folder, password=None, progress=lambda _: None)
    assert caught.value.args[0] == folder
    assert [path.name for path in folder.iterdir()] == ["a"]
    left = find_missing(members, folder, password=None, progress=lambda _: None)
    assert [member.name for member in left] == ["b", "c"]
    unpack(left, folder, password=None, progress=lambda _: None)
    assert (folder / "b").read_bytes() == b"two"


def test_a_real_disk_that_fills_up_is_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        contents = {name: random.Random(0).randbytes(1_500_000) for name in ("a", "b")}
        members = read_members(archive_of(tmp_path / "a.zip", contents))
        with pytest.raises(FvcError, match="disk/videos: has no room for more"):
            unpack(members, disk / "videos", password=None, progress=lambda _: None)
        assert [path.name for path in (disk / "videos").iterdir()] == ["a"]
        assert is_unpacked(members[0], disk / "videos")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    members = read_members(archive_of(tmp_path / "a.zip", {"F/x": b"1"}))
    (tmp_path / "F").write_bytes(b"a file where a folder must be")
    with pytest.raises(FvcError, match="cannot be written") as caught:
        unpack(members, tmp_path, password=None, progress=lambda _: None)
    assert caught.value.args[0] == tmp_path


def test_an_archive_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(FvcError, match=r"a\.zip: cannot be read"):
        read_members(tmp_path / "a.zip")


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
