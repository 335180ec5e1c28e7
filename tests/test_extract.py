import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import pyzipper
from zip_bytes import archive_bytes, encrypted_member

from fvc.__main__ import main
from fvc.config import load_params
from fvc.errors import FvcError
from fvc.files import read_json
from fvc.stages import extract

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")


def pack(archive: Path, files: dict[str, bytes]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)


def run(root: Path, *, max_total_gib: float = 1.0, max_ratio: float = 200.0) -> None:
    limits = replace(PARAMS.extract, max_total_gib=max_total_gib, max_ratio=max_ratio)
    extract.run(
        replace(PARAMS, extract=limits),
        archives=root / "archives",
        videos=root / "videos",
        summary=root / "extracted.json",
    )


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, bytes]:
    files = {"FVC1/youtube/a/video.mp4": b"one" * 99, "FVC1/twitter/1/video.webm": b"two"}
    more = {"FVC2/7/video.mkv": b"three"}
    pack(tmp_path / "archives/FVC1.zip", files)
    pack(tmp_path / "archives/FVC2.ZIP", more)
    return files | more


def test_every_member_of_every_archive_is_there(tmp_path: Path, corpus: dict[str, bytes]) -> None:
    run(tmp_path)
    assert files_in(tmp_path / "videos") == corpus
    counts = read_json(tmp_path / "extracted.json", "extract")["archives"]
    assert counts["FVC1.zip"] == {"files": 2, "unpacked_bytes": 300}
    assert counts["FVC2.ZIP"] == {"files": 1, "unpacked_bytes": 5}


def test_only_what_changed_is_written_again(tmp_path: Path, corpus: dict[str, bytes]) -> None:
    run(tmp_path)
    videos = tmp_path / "videos"
    before = {name: (videos / name).stat().st_ino for name in corpus}
    broken = "FVC2/7/video.mkv"
    (videos / broken).write_bytes(b"THREE")
    run(tmp_path)
    assert files_in(videos) == corpus
    assert {name for name in corpus if (videos / name).stat().st_ino == before[name]} >= (
        corpus.keys() - {broken}
    ), "a whole file was unpacked again"


def test_what_no_archive_holds_is_removed(tmp_path: Path, corpus: dict[str, bytes]) -> None:
    run(tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"!")
    videos = tmp_path / "videos"
    (videos / "FVC1/youtube/gone").mkdir()
    (videos / "FVC1/youtube/gone/video.mp4").write_bytes(b"old")
    (videos / "FVC1/youtube/a/.video.mp4.partial").write_bytes(b"half")
    (videos / "link").symlink_to(outside)
    (videos / "dangling").symlink_to(tmp_path / "nowhere")
    run(tmp_path)
    assert files_in(videos) == corpus
    assert not (videos / "FVC1/youtube/gone").exists()
    assert not (videos / "link").is_symlink()
    assert (outside / "precious").exists(), "a file behind a link was removed"


def test_a_run_that_is_stopped_is_taken_up(
    tmp_path: Path, corpus: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            run(tmp_path)
    assert files_in(tmp_path / "videos") == {}, "a half-written file has its final name"
    run(tmp_path)
    assert files_in(tmp_path / "videos") == corpus


def test_a_bomb_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    pack(tmp_path / "archives/bomb.zip", {"x": bytes(10_000_000)})
    with pytest.raises(FvcError, match=r"bomb\.zip: unpacks to \d+ times its size"):
        run(tmp_path)
    with pytest.raises(FvcError, match=r"bomb\.zip: brings .* Raise extract\.max_total_gib"):
        run(tmp_path, max_ratio=10_000.0, max_total_gib=0.005)
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize("prepare", ["missing", "empty", "other"])
def test_no_archive_is_one_line(
    tmp_path: Path, prepare: str, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = tmp_path / "archives"
    if prepare != "missing":
        archives.mkdir()
    if prepare == "other":
        (archives / "FVC1.zip.part").write_bytes(b"x")
    flags = ["--archives", archives, "--videos", tmp_path / "v", "--summary", tmp_path / "s.json"]
    assert main(["extract", *map(str, flags)]) == 1
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text]
    assert line.startswith(f"error: {archives}: holds no zip archive. Run 'make demo'")
    assert not (tmp_path / "v").exists()
    assert not (tmp_path / "s.json").exists()


def test_a_truncated_archive_stops_before_the_sound_ones_are_unpacked(
    tmp_path: Path, corpus: dict[str, bytes]
) -> None:
    (tmp_path / "archives/FVC3.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(FvcError, match=r"FVC3\.zip: is truncated"):
        run(tmp_path)
    assert corpus
    assert not (tmp_path / "videos").exists()


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again: its inode and its time."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_later_archive_that_is_damaged_keeps_what_earlier_ones_gave(
    tmp_path: Path, corpus: dict[str, bytes]
) -> None:
    last = tmp_path / "archives/FVC3.zip"
    pack(last, {"FVC3/1/video.mp4": b"four" * 1000, "FVC3/2/video.mp4": b"five" * 1000})
    sound = last.read_bytes()
    at = sound.index(b"FVC3/2/video.mp4") + 30
    last.write_bytes(sound[:at] + b"\xff\xff\xff" + sound[at + 3 :])
    with pytest.raises(FvcError, match=r"FVC3\.zip: member 'FVC3/2/video\.mp4' is damaged"):
        run(tmp_path)
    assert files_in(tmp_path / "videos") == corpus | {"FVC3/1/video.mp4": b"four" * 1000}
    before = stamps(tmp_path / "videos")
    last.write_bytes(sound)
    run(tmp_path)
    after = stamps(tmp_path / "videos")
    assert after.keys() - before.keys() == {"FVC3/2/video.mp4"}
    assert before.items() <= after.items(), "a whole file was unpacked again"


def test_a_wrong_password_leaves_what_is_there(
    tmp_path: Path, corpus: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    sealed = tmp_path / "archives/FVC3.zip"
    with pyzipper.AESZipFile(sealed, "w", encryption=pyzipper.WZ_AES) as opened:
        opened.setpassword(b"word")
        opened.writestr("FVC3/1/video.mp4", b"sealed")
    before = stamps(tmp_path / "videos")
    for password, said in [(None, "no password is given"), ("wrong", "FVC_ARCHIVE_PASSWORD")]:
        if password:
            monkeypatch.setenv(extract.PASSWORD, password)
        with pytest.raises(FvcError, match=said):
            run(tmp_path)
        assert stamps(tmp_path / "videos") == before
    monkeypatch.setenv(extract.PASSWORD, "word")
    run(tmp_path)
    assert files_in(tmp_path / "videos") == corpus | {"FVC3/1/video.mp4": b"sealed"}
    before = stamps(tmp_path / "videos")
    run(tmp_path)
    assert stamps(tmp_path / "videos") == before, "an AES member is unpacked at every run"


def test_progress_counts_bytes_and_says_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = random.Random(0).randbytes(5_000_000)
    pack(tmp_path / "archives/FVC1.zip", {"a": content, "b": content})
    run(tmp_path)
    bar = r"extract: 100%\|.*\| 10\.0M/10\.0M \[\d\d:\d\d<\d\d:\d\d, .*B/s\]"
    assert re.search(bar, capsys.readouterr().err), "no bytes, rate or remaining time"
    (tmp_path / "videos/b").unlink()
    run(tmp_path)
    said = capsys.readouterr().err
    assert "extract:  50%" in said, "what is there already is not counted as done"


def killed_run(root: Path, moment: float) -> float:
    """Start the command and kill it so many seconds after it made the folder of videos.

    Returns:
        The seconds from there to its end, whether it was killed or done.
    """
    flags = ["--archives", root / "archives", "--videos", root / "videos"]
    flags += ["--summary", root / "extracted.json", "--params", ROOT / "params.yaml"]
    command = [sys.executable, "-m", "fvc", "extract", *map(str, flags)]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) as process:
        while not (root / "videos").exists() and process.poll() is None:
            time.sleep(0.001)
        started = time.monotonic()
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        return time.monotonic() - started


@pytest.mark.slow
def test_killed_at_ten_moments_the_next_run_ends_as_if_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(extract.PASSWORD, "word")
    # One encrypted megabyte under many names: encrypting takes longer than all the rest.
    member = encrypted_member(b"?", random.Random(0).randbytes(1 << 20), b"word")
    names = [b"FVC1/youtube/%03d/video.mp4" % number for number in range(40)]
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives/FVC1.zip").write_bytes(
        archive_bytes([replace(member, name=name) for name in names])
    )
    pack(tmp_path / "archives/FVC2.zip", {f"FVC2/{n}/video.mp4": b"%d" % n for n in range(40)})
    duration_s = killed_run(tmp_path, 600)
    undisturbed = files_in(tmp_path / "videos") | {
        "summary": (tmp_path / "extracted.json").read_bytes()
    }
    generator, killed = random.Random(0), 0
    for _ in range(30):
        shutil.rmtree(tmp_path / "videos")
        (tmp_path / "extracted.json").unlink(missing_ok=True)
        killed_run(tmp_path, generator.uniform(0, duration_s))
        before = stamps(tmp_path / "videos")
        finished = {name: stamp for name, stamp in before.items() if not name.endswith(".partial")}
        killed += len(finished) < 80
        run(tmp_path)
        after = stamps(tmp_path / "videos")
        assert finished.items() <= after.items(), "a finished file was written again"
        summary = {"summary": (tmp_path / "extracted.json").read_bytes()}
        assert files_in(tmp_path / "videos") | summary == undisturbed
        assert {path.name for path in tmp_path.iterdir()} == {
            *("archives", "videos", "extracted.json")
        }, "a temporary file is left"
        if killed == 10:
            break
    assert killed == 10, "most runs ended before they were killed"
