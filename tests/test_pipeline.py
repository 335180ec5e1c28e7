"""The policies that hold the pipeline together: what is said in two places must agree."""

import ast
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.projects.utils import load_project
from source_tree import ROOT, as_folders, imports_of, reach_of, source_of

from fvc import tracking
from fvc.__main__ import planned_flags, stage_commands
from fvc.config import flat, load_params
from fvc.errors import FvcError
from fvc.training.binding import CODE

PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = list(PIPELINE["stages"])


def name_of(source: Path) -> str:
    """A module by its path inside the package."""
    return source.relative_to(ROOT / "fvc").as_posix()


LIBRARY = [
    path
    for path in sorted((ROOT / "fvc").rglob("*.py"))
    if "stages" not in path.parts and path.name != "__main__.py"
]


def params_read(source: Path) -> set[str]:
    """The sections `x` that a stage reads as `params.x`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
    }


RUN_BY_PATH = {"register": {"fvc/serving/served_model.py"}}
"""Files that run without being imported."""


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_files_a_stage_runs(stage: str) -> None:
    runs = reach_of(ROOT / "fvc" / "stages" / f"{stage}.py")
    expected = {path.relative_to(ROOT).as_posix() for path in runs} | RUN_BY_PATH.get(stage, set())
    # So that a new network is no change of the pipeline.
    expected = as_folders(expected, "fvc/networks")
    deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("fvc/")}
    deps = {dep for dep in deps if dep.endswith(".py") or (ROOT / dep).is_dir()}
    lines = "".join(f"\n      - {path}" for path in sorted(expected))
    assert deps == expected, f"DVC would not see a change; the deps of {stage} are:{lines}"


CHANGES_NO_RESULT = {"engine", "loader"}
"""Sections that decide how fast a stage is, and nothing else (a test of its own shows that): a
change of them must neither run a stage again nor tell its runs apart."""


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_a_stage_reads(stage: str) -> None:
    source = ROOT / "fvc" / "stages" / f"{stage}.py"
    read = params_read(source)
    if "tracking.Identity" in source.read_text(encoding="utf-8"):
        read |= set(tracking.TRAINING_SECTIONS)
    assert set(PIPELINE["stages"][stage]["params"]) == read - CHANGES_NO_RESULT


@pytest.mark.parametrize("stage", STAGES)
def test_outputs_and_inputs_are_flags_of_the_command(stage: str) -> None:
    command = stage_commands(ROOT / "dvc.yaml")[stage]
    flags = planned_flags(stage, command, ["--fold", "3"])
    assert flags, f"{stage} has no flags"
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in named_outs(stage)]
    missing = [out for out in outs if out.replace("${item.fold}", "3") not in flags]
    assert not missing, "an output is written nowhere in the command"


def named_outs(stage: str) -> list[Any]:
    return list(PIPELINE["stages"][stage]["outs"])


def test_stages_never_import_each_other() -> None:
    for source in (ROOT / "fvc" / "stages").glob("*.py"):
        others = [path for path in imports_of(source) if path.parent.name == "stages"]
        assert not others, f"{source.name} imports {others}"


@pytest.mark.parametrize("source", LIBRARY, ids=name_of)
def test_the_library_imports_no_stage_and_little_else(source: Path) -> None:
    imports = imports_of(source)
    assert not [path for path in imports if "stages" in path.parts]
    # Plain data and what everything stands on; where an answer is made, things meet.
    foundations = {"errors", "files", "config", "seeding", "records", "specifications"}
    # The parts of a package are one room.
    home = source if source.parent.name == "fvc" else source.parent
    others = {
        name_of(path)
        for path in imports
        if not foundations & {path.stem, path.parent.name} and home not in (path, *path.parents)
    }
    assert len(others) <= 4 or source.name == "answering.py", (
        f"{name_of(source)} knows too many of its neighbours: {others}"
    )


DOORS = {
    "av": {
        "video/__init__.py",
        "video/limits.py",
        "video/decoding.py",
        "video/picture.py",
        "recompression.py",
        "encoding.py",
    },
    "faiss": {"near_duplicates.py"},
    "zipfile": {"clip_files.py", "demo/corpus.py"},
    "pyzipper": {"archives/entries.py", "archives/reading.py"},
    "_zipdecrypter": {"archives/reading.py"},
    "dask": {"pool/schedulers.py"},
    "distributed": {"pool/chunks.py", "pool/cluster.py", "pool/schedulers.py"},
    "multiprocessing": {
        *(
            "pool/__init__.py",
            "pool/isolation.py",
            "serving/decoders.py",
            "serving/decoder_process.py",
        )
    },
    "mlflow": {
        *("tracking/__init__.py", "tracking/store.py", "tracking/finished.py"),
        *("tracking/open_run.py", "tracking/registry.py", "tracking/lineage.py"),
        *("tracking/finished_folds.py", "tracking/comparisons.py", "tracking/answers.py"),
        *("tracking/sending.py", "tracking/waiting.py", "tracking/system_metrics.py"),
        *("serving/model.py", "serving/packaging.py", "serving/served_model.py"),
        "stages/register.py",
    },
}


@pytest.mark.parametrize("engine", DOORS)
def test_each_engine_has_its_door(engine: str) -> None:
    pattern = re.compile(rf"^\s*(import|from) {engine}\b", re.MULTILINE)
    users = {
        name_of(path)
        for path in (ROOT / "fvc").rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert users <= DOORS[engine], f"{engine} is used past its door"


def test_training_imports_little(tmp_path: Path) -> None:
    """A GPU machine may have no MLflow, DVC, PyAV or polars."""
    for module in ("training.loop", "loading", "predict", "networks"):
        for path in reach_of(source_of(f"fvc.{module}") or tmp_path, lazily=False):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = [
                (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
                for node in tree.body
                if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            heavy = {"mlflow", "dvc", "av", "polars", "sklearn", "cv2", "pydantic"}
            found = {name.split(".")[0] for name in names} & heavy
            assert not found, f"{path.name} imports {found} at its top"


def test_runs_are_told_apart_by_what_training_reads() -> None:
    assert set(PIPELINE["stages"]["train"]["params"]) == set(tracking.TRAINING_SECTIONS)
    assert not CHANGES_NO_RESULT & set(tracking.TRAINING_SECTIONS)


def test_checkpoints_are_bound_to_all_code_behind_the_weights() -> None:
    package = ROOT / "fvc"
    training = (f"training/{name}" for name in ("loop", "trees", "validating"))
    roots = [package / f"{name}.py" for name in ("fold_videos", "loading", *training)]
    reached = {name_of(path) for source in roots for path in reach_of(source)}
    # The settings themselves are bound, too; how strength bends them is in their module.
    settings = {name for name in reached if name.startswith("config/")}
    settings -= {"config/augmentation.py"}
    reached |= {"stages/train.py"}
    # What says how it failed, what writes, and what stops it.
    reached -= {"errors.py", "files.py", "process.py"}
    assert set(CODE) == as_folders(reached - settings, "networks")


def test_folds_of_the_matrix_are_the_folds_of_the_params() -> None:
    assert PIPELINE["stages"]["train"]["matrix"] == {"fold": "${split.folds}"}
    assert load_params(ROOT / "params.yaml").split.folds == (0, 1, 2, 3, 4)


def test_the_project_has_an_entry_point_for_each_stage() -> None:
    project = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    assert set(project["entry_points"]) == {"main", "predict", *STAGES}


PROJECT = load_project(ROOT)  # type: ignore[no-untyped-call]


def project_command(**given: str) -> list[str]:
    """The words of the command that `mlflow run . -e train -P ...` runs."""
    entry = PROJECT.get_entry_point("train")
    return shlex.split(entry.compute_command(given, storage_dir=None))


def set_by(command: list[str]) -> list[str]:
    return [command[at + 1] for at, word in enumerate(command) if word == "--set"]


def test_a_project_run_is_what_params_say_unless_told_otherwise() -> None:
    written = load_params(ROOT / "params.yaml")
    assert load_params(ROOT / "params.yaml", set_by(project_command())) == written
    given = {"epochs": "1", "batch_size": "2", "learning_rate": "5.0e-4", "loss": "focal"}
    command = project_command(fold="3", seed="7", network="r3d_18", **given)
    params = load_params(ROOT / "params.yaml", set_by(command))
    assert command[command.index("--fold") + 1] == "3"
    train = replace(written.train, epochs=1, batch_size=2, learning_rate=5e-4, loss="focal")
    assert params == replace(written, seed=7, train=train)
    with pytest.raises(FvcError, match=r"model: network is"):
        load_params(ROOT / "params.yaml", set_by(project_command(network="resnet")))


def test_every_parameter_of_the_project_reaches_the_training() -> None:
    parameters = PROJECT.get_entry_point("train").parameters
    command = project_command(**{name: f"<{name}>" for name in parameters})
    for name in parameters:
        used = [word for word in command if word.endswith(f"<{name}>")]
        assert len(used) == 1, f"-P {name} changes nothing"
    known = flat(asdict(load_params(ROOT / "params.yaml")))
    assert {word.split("=")[0] for word in set_by(command)} <= known.keys()
    own = {word for word in command if word.startswith("<")}
    assert len(set_by(command)) + len(own) == len(parameters)


def test_requirements_are_pinned_and_name_no_index() -> None:
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        assert re.match(r"[\w.\-\[\]]+==[\w.+!]+( ; .+)?$", line), line


@pytest.mark.parametrize(
    "notebook", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem
)
def test_notebooks_are_kept_without_what_they_gave(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert codes
    given = [cell["id"] for cell in codes if cell["outputs"] or cell["execution_count"]]
    assert not given, f"clear the outputs of {given}"
