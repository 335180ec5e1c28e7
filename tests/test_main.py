import errno
import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from source_tree import ROOT

from fvc import process
from fvc.__main__ import SETTABLE, main, planned_flags, stage_commands
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


def test_an_interruption_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fvc.stages.extract.main", interrupted)
    assert main(["extract"]) == 130
    said = capsys.readouterr().err
    assert said == "error: fvc extract: was interrupted. Run it again to go on.\n"


def test_elsewhere_the_flags_that_are_missing_are_said_to_come_from_the_pipeline(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["extract"])
    said = capsys.readouterr().err
    assert said.endswith("is not here. Run from the repository root.\n")


def test_an_unknown_parameter_of_a_project_run_leads_to_the_known_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    for run_id, told in (("a" * 32, True), (None, False)):
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        if run_id:
            monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        with pytest.raises(SystemExit, match="2"):
            main(["extract", "--epoch", "1"])
        said = capsys.readouterr().err
        assert "unrecognized arguments: --epoch 1" in said
        assert ("MLproject has the names that 'mlflow run -P' takes" in said) is told


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


class Trainings:
    """The flags of the trainings that were started, and the locks that were held meanwhile."""

    def __init__(self) -> None:
        self.models: list[str] = []
        self.checkpoints: list[str] = []
        self.notes: list[str] = []
        self.locks: list[set[str]] = []

    def start(self, argv: Sequence[str]) -> None:
        parser = ArgumentParser()
        for flag in ("--model", "--checkpoints", "--runs"):
            parser.add_argument(flag)
        args, _ = parser.parse_known_args(argv)
        self.models.append(args.model)
        self.checkpoints.append(args.checkpoints)
        self.notes.append(args.runs)
        self.locks.append(
            {path.stem for path in process.LOCKS.glob("*.lock") if is_held(path.stem)}
        )


def is_held(name: str) -> bool:
    try:
        with process.only_one(name, process.LOCKS):
            return False
    except FvcError:
        return True


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """The repository's own pipeline, in which training only says what it was told."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, name)
    for name in ("MLFLOW_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    started = Trainings()
    monkeypatch.setattr("fvc.stages.train.main", started.start)
    return started


def test_other_parameters_leave_the_pipelines_outputs_alone(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--fold", "3", "--set", "train.epochs=1", "--set=train.loss=focal"]) == 0
    [model], [checkpoints], [notes] = trainings.models, trainings.checkpoints, trainings.notes
    folder = Path(model).parent
    assert folder.parts[:2] == ("work", "runs")
    assert folder.name == "3"
    assert (Path(checkpoints).parent, Path(notes)) == (folder, folder)
    said = capsys.readouterr().err.splitlines()[0]
    assert said == (
        "fvc train: with train.loss=focal train.epochs=1, unlike params.yaml, "
        f"below {folder.parent}"
    )


def test_the_same_command_goes_on_in_the_same_folder_and_others_do_not(
    trainings: Trainings,
) -> None:
    flags = ["--set", "train.epochs=1", "--set", "seed=3"]
    for own in (flags, [*flags[2:], *flags[:2]], ["--set", "train.epochs=2"]):
        assert main(["train", "--fold", "0", *own]) == 0
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["train"]["learning_rate"] = 0.5
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert main(["train", "--fold", "0", *flags]) == 0
    first, again, other, of_other_file = trainings.models
    assert again == first, "a training with equal parameters cannot be resumed"
    assert len({first, other, of_other_file}) == 3, "trainings overwrite each other"


@pytest.mark.parametrize(
    "flags", [[], ["--set", "train.epochs=5"], ["--set", "train.loss=params.yaml"]]
)
def test_parameters_as_written_write_where_the_pipeline_does(
    trainings: Trainings, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--fold", "3", *flags]) == 0
    assert trainings.models == ["work/models/3"]
    assert trainings.checkpoints == ["work/checkpoints/3"]
    assert trainings.locks == [{"train@3"}]
    assert "unlike" not in capsys.readouterr().err


def test_named_folders_are_used(trainings: Trainings, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--model", "here", "--checkpoints=there"]
    assert main(["train", "--fold", "3", "--set", "train.epochs=1", *places]) == 0
    assert (trainings.models, trainings.checkpoints) == (["here"], ["there"])
    assert "below" not in capsys.readouterr().err
    assert trainings.notes != ["work/runs"], "the note of the pipeline's own fold is replaced"


def test_only_equal_trainings_exclude_each_other(trainings: Trainings) -> None:
    for flags in (["--set", "train.epochs=1"], ["--set", "train.epochs=2"], []):
        assert main(["train", "--fold", "0", *flags]) == 0
    [first], [second], [own] = trainings.locks
    assert len({first, second, own}) == 3
    with process.only_one(first, process.LOCKS):
        assert main(["train", "--fold", "0", "--set", "train.epochs=1"]) == 1
        assert main(["train", "--fold", "0", "--set", "train.epochs=2"]) == 0
        assert main(["train", "--fold", "0"]) == 0


def test_what_earlier_stages_made_is_said_to_stay(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--fold", "0", "--set", "clips.side_px=32"]) == 0
    assert "what earlier stages made stays as it is" in capsys.readouterr().err
    assert len(trainings.models) == 1


def test_a_wrong_parameter_is_one_line_before_anything_runs(
    trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--fold", "0", "--set", "train.epoch=1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: --set train.epoch: there is no such parameter")
    assert said.count("\n") == 1
    assert not trainings.models


def test_what_set_moves_are_flags_of_the_stage() -> None:
    commands = stage_commands(ROOT / "dvc.yaml")
    for command, places in SETTABLE.items():
        planned = planned_flags(command, commands[command], ["--fold", "0"])
        assert places.keys() <= set(planned), "the pipeline's own folder would be written to"


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_of_torchrun_holds_the_lock_and_says_what_it_took(
    trainings: Trainings,
    rank: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    if rank:
        with process.only_one("train@0", process.LOCKS):
            assert main(["train", "--fold", "0"]) == 0
    else:
        assert main(["train", "--fold", "0"]) == 0
    assert trainings.models == ["work/models/0"], "a process takes no part in the training"
    assert trainings.locks == [{"train@0"}]
    assert ("took" in capsys.readouterr().err) == (rank == 0)
