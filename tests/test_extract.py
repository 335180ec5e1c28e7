import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fvc.__main__ import main
from fvc.config import load_params
from fvc.errors import FvcError
from fvc.files import read_json
from fvc.stages import extract

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")


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
