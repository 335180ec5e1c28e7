"""`fvc predict`: files and folders in, answers out in their order, whatever happens on the way."""

import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import outcomes
import polars as pl
import pytest
import torch
from settings import clips_config, serving_config
from torch import nn

from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.networks import ClipClassifier
from fvc.serving.answering import Answerer, Wishes
from fvc.serving.files import answers_of, video_files
from fvc.serving.outputs import FORMATS, Journal
from fvc.serving.settings import Settings
from fvc.stages import predict

CLIPS = clips_config(2, 4, 16)
SETTINGS = Settings(clips=CLIPS, calibration=outcomes.CALIBRATION, limits=serving_config())


class Counted(Answerer):
    """Knows how often it was asked, and may be stopped."""

    asked = 0
    stop_at = -1

    def answer(self, video: bytes, wishes: Wishes) -> dict[str, Any]:
        if self.asked == self.stop_at:
            raise KeyboardInterrupt
        self.asked += 1
        return super().answer(video, wishes)

    def close(self) -> None:
        """The next command uses it, too."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Counted]:
    torch.manual_seed(0)
    network = ClipClassifier(nn.Conv3d(3, 4, 3), channels=4, dropout=0.0, clips=CLIPS).eval()
    made = Counted(network, SETTINGS, "fvc/1", decoders=1)
    yield made
    Answerer.close(made)


@pytest.fixture
def answerer(shared: Counted, monkeypatch: pytest.MonkeyPatch) -> Counted:
    monkeypatch.setattr(predict, "load_answerer", lambda _: shared)
    monkeypatch.setattr(predict, "connect", lambda: None)
    shared.asked, shared.stop_at = 0, -1
    return shared


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos in two folders, one that is none, one too large, and something else."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "b").mkdir()
    for number in range(12):
        frames = np.full((8, 16, 16, 3), 20 * number, np.uint8)
        encode(folder / ("b" if number % 2 else "") / f"{number:02}.mp4", frames, fps=8)
    (folder / "b" / "broken.MP4").write_bytes(b"<html>")
    (folder / "large.mkv").write_bytes(bytes(2**20 + 1))
    (folder / "notes.txt").write_text("no video")
    return folder


def in_order(folder: Path) -> list[str]:
    above = [*(f"{number:02}.mp4" for number in range(0, 12, 2)), "large.mkv"]
    below = [*(f"b/{number:02}.mp4" for number in range(1, 12, 2)), "b/broken.MP4"]
    return [str(folder / name) for name in (*above, *below)]


def run(*arguments: object) -> None:
    predict.main([str(argument) for argument in arguments])


def rows_of(out: Path) -> Sequence[dict[str, Any]]:
    if out.suffix == ".parquet":
        return pl.read_parquet(out).to_dicts()
    if out.suffix == ".csv":
        return pl.read_csv(out).to_dicts()
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_folder_becomes_a_file_of_answers_in_order(
    answerer: Counted, videos: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"scores{suffix}"
    run(videos, "--out", out)
    rows = rows_of(out)
    assert [row["file"] for row in rows] == in_order(videos)
    for row in rows:
        clips = json.loads(row["clips"]) if suffix == ".csv" else row["clips"]
        if row["error"] in (None, ""):
            assert 0 <= row["probability_fake"] <= 1
            assert [clip["end_s"] for clip in clips] == [0.5, 1.0]
            assert row["video_sha256"] == sha256_of_file(Path(row["file"]))
            assert row["model_version"] == "fvc/1"
        else:
            assert (row["probability_fake"], clips) == (None, [])
    assert "12 scored, 2 failed: " in (said := capsys.readouterr().err)
    assert "large.mkv (too_large: 1.0 MiB, above 1)" in said
    assert "broken.MP4 (not_a_video: " in said
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert answerer.asked == 13, "the large one was read"


@pytest.mark.parametrize("stop", [0, 1, 5, 12])
def test_stopped_it_goes_on_and_scores_nothing_twice(
    answerer: Counted, videos: Path, tmp_path: Path, stop: int
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "scores.jsonl"
    run(videos, "--out", whole)
    answerer.asked, answerer.stop_at = 0, stop
    with pytest.raises(KeyboardInterrupt):
        run(videos, "--out", out)
    assert not out.exists(), "a half-finished file looks like a finished one"
    journal = out.with_name("scores.jsonl.partial")
    kept = journal.read_text().splitlines()[1:]
    with journal.open("a") as file:
        file.write('{"file": "cut')
    answerer.asked, answerer.stop_at = 0, -1
    run(videos, "--out", out)
    assert out.read_bytes() == whole.read_bytes()
    scored = sum(1 for line in kept if "too_large" not in line)
    assert answerer.asked == 13 - scored
    assert not journal.exists()


@pytest.mark.parametrize("change", [["--clips", 3], ["--threshold", 0.2], ["--explain"]])
def test_answers_of_another_request_do_not_mix(
    answerer: Counted, videos: Path, tmp_path: Path, change: list[object]
) -> None:
    answerer.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(videos, "--out", tmp_path / "scores.csv")
    with pytest.raises(FvcError, match=r"scores\.csv\.partial: was begun with another model or"):
        run(videos, "--out", tmp_path / "scores.csv", *change)


def test_answers_to_other_files_do_not_mix(answerer: Counted, videos: Path, tmp_path: Path) -> None:
    answerer.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(videos, "--out", tmp_path / "scores.csv")
    answerer.stop_at = -1
    with pytest.raises(FvcError, match=r"00\.mp4, which is not the next file"):
        run(videos / "b", "--out", tmp_path / "scores.csv")


def test_two_do_not_write_one_file(answerer: Counted, videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    asked = {"model": "fvc/1", "wishes": {"clips": None, "threshold": None, "explain": False}}
    with (
        closing(Journal(out, asked)),
        pytest.raises(FvcError, match=r"scores\.csv\.partial: is being written by another process"),
    ):
        run(videos, "--out", out)
    assert answerer.asked == 0
    run(videos, "--out", out)
    assert len(rows_of(out)) == 14


def test_a_damaged_line_is_told(answerer: Counted, videos: Path, tmp_path: Path) -> None:
    answerer.stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(videos, "--out", tmp_path / "scores.csv")
    journal = tmp_path / "scores.csv.partial"
    with journal.open("a") as file:
        file.write("\0\0\0\n")
    with pytest.raises(FvcError, match=r"scores\.csv\.partial: holds a line that is no answer"):
        run(videos, "--out", tmp_path / "scores.csv")


def test_lines_come_as_soon_as_they_are_there(
    answerer: Counted, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(videos / "b", "--format", "jsonl", "--threshold", 0.3)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == in_order(videos)[7:]
    assert {row["threshold"] for row in rows} == {0.3}
    assert answerer.asked == 7


@pytest.mark.usefixtures("answerer")
def test_a_table_is_for_people(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(videos / "02.mp4", videos / "b" / "broken.MP4", "--format", "table")
    head, good, bad = capsys.readouterr().out.splitlines()
    assert head.split() == ["verdict", "fake", "file"]
    assert good.split()[0] in ("real", "fake", "uncertain")
    assert 0 <= float(good.split()[1]) <= 1
    assert bad.split()[:2] == ["failed", "-"]
    assert "not_a_video" in bad


@pytest.mark.usefixtures("answerer")
def test_a_list_on_standard_input_may_name_what_is_gone(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = f"{videos / '04.mp4'}\n{videos / 'gone.mp4'}\n\n{videos / '02.mp4'}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    run("--format", "jsonl")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["error"] for row in rows] == [None, "unreadable: No such file or directory", None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.mp4"], r"gone\.mp4: is neither a file nor a folder"),
        (["."], "holds no video"),
        ([".", "--out", "folder.csv"], r"folder\.csv: is a folder"),
        (["a.txt", "--out", "a.txt/new/b.csv"], r"b\.csv: its folder cannot be made \(Not a"),
        ([".", "--out", "scores.xlsx"], r"scores\.xlsx: has no known format\. End its name in"),
    ],
)
def test_a_mistake_is_said_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    def never(_: str) -> None:
        raise AssertionError("it was loaded")

    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predict, "load_answerer", never)
    with pytest.raises(FvcError, match=said):
        run(*arguments)


def test_files_are_read_no_further_ahead_than_needed(shared: Counted, videos: Path) -> None:
    taken: list[Path] = []

    def many() -> Iterator[Path]:
        for _ in range(1000):
            taken.append(videos / "02.mp4")
            yield taken[-1]

    answers = answers_of(many(), shared, Wishes())
    for number in range(20):
        next(answers)
        assert len(taken) <= number + 1 + 2 * 3, "memory grows with the number of files"
    before = threading.active_count()
    answers.close()
    assert threading.active_count() < before, "threads are left"


class Closed(io.StringIO):
    """What `head` leaves of a pipe once it has seen enough."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def test_it_ends_when_nobody_reads_on(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = ClipClassifier(nn.Conv3d(3, 4, 3), channels=4, dropout=0.0, clips=CLIPS).eval()
    own = Answerer(network, SETTINGS, "fvc/1", decoders=1)
    monkeypatch.setattr(predict, "load_answerer", lambda _: own)
    monkeypatch.setattr(predict, "connect", lambda: None)
    monkeypatch.setattr("sys.stdout", Closed())
    # In the same thread it would hang here for ever.
    with pytest.raises(BrokenPipeError):
        run(videos, "--format", "jsonl")
    with pytest.raises(RuntimeError, match="closed"):
        own.answer((videos / "02.mp4").read_bytes(), Wishes())


@pytest.mark.usefixtures("answerer")
@pytest.mark.parametrize("suffix", FORMATS)
def test_any_name_that_a_file_can_have_is_an_answer(
    videos: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9, "a"\t.mp4'))
    strange.write_bytes((videos / "02.mp4").read_bytes())
    listed = f"{strange}\nno\0where.mp4\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    out = tmp_path / f"scores{suffix}"
    run("--out", out)
    rows = rows_of(out)
    assert rows[0]["file"] == f'{tmp_path}/caf\\xe9, "a"\t.mp4'
    assert rows[0]["verdict"] is not None
    assert rows[1]["error"].startswith("unreadable: ")


def test_a_folder_that_may_not_be_read_is_an_answer(
    answerer: Counted, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, who runs tests in a container, may read every one, the system is asked to lie."""
    scan = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", closed)
    files = list(video_files([videos]))
    assert files[-1] == videos / "b"
    *_, last = answers_of(files[-1:], answerer, Wishes())
    assert last["file"] == str(videos / "b")
    assert last["error"].startswith("unreadable: ")


def test_what_never_ends_is_not_read(answerer: Counted, tmp_path: Path) -> None:
    """A named pipe in a folder is waited for until somebody writes; a device has no end."""
    os.mkfifo(tmp_path / "pipe.mp4")
    files = [*video_files([tmp_path]), Path("/dev/zero")]
    for answer in answers_of(files, answerer, Wishes()):
        assert answer["error"] == "unreadable: it is neither a file nor a folder"
    assert answerer.asked == 0


def test_folders_are_walked_by_name(videos: Path) -> None:
    assert [str(path) for path in video_files([videos])] == in_order(videos)
