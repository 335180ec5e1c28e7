import errno
from pathlib import Path

import pytest

from fvc.__main__ import main, planned_flags, stage_commands
from fvc.errors import FvcError


@pytest.fixture(autouse=True)
def _no_watching(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test run outlives its parent if it likes, and starts where there is no pipeline."""
    monkeypatch.setattr("fvc.process.end_with_parent", lambda: None)
    monkeypatch.chdir(tmp_path)


def test_flags_come_from_the_pipeline_and_the_users_own_count_last(tmp_path: Path) -> None:
    pipeline = tmp_path / "dvc.yaml"
    pipeline.write_text(
        "stages:\n  train:\n    cmd: >-\n      python -m fvc train --fold ${item.fold}\n"
        "      --model work/models/${item.fold}\n"
    )
    planned = stage_commands(pipeline)["train"]
    flags = planned_flags("train", planned, ["--fold", "3", "--model", "elsewhere"])
    assert flags == ["--fold", "3", "--model", "work/models/3"]
    assert planned_flags("train", planned, ["--fold=4"])[-1] == "work/models/4"
    with pytest.raises(FvcError, match="--fold"):
        planned_flags("train", planned, [])


def test_a_broken_pipeline_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: [")
    assert main(["extract"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: dvc.yaml: is no valid YAML")
    assert said.count("\n") == 1


def test_a_dash_stands_for_an_underscore(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--folds", "f", "--csv", str(tmp_path / "c"), "--digest", str(tmp_path / "d")]
    for command in ("export-folds", "export_folds"):
        assert main([command, *flags]) == 1
        assert capsys.readouterr().err == "error: f: is missing. Run 'dvc repro split'.\n"


def test_a_full_or_protected_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "work/videos")

    monkeypatch.setattr("fvc.stages.extract.main", refuse)
    assert main(["extract"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: work/videos: Permission denied. Make it writable")
    assert said.count("\n") == 1


def test_an_unknown_command_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "train" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "commands: " in capsys.readouterr().out


def test_a_known_error_is_one_line_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none.yaml")
    places = ["--archives", "a", "--videos", "v", "--summary", "s"]
    assert main(["extract", "--params", missing, *places]) == 1
    said = capsys.readouterr().err
    assert said == (
        f"error: {missing}: is missing. Run from the repository root, or name it with --params.\n"
    )
