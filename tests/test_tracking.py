import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from fvc import tracking
from fvc.config import load_params
from fvc.errors import FvcError
from fvc.records import FOLDS
from fvc.tracking.changes import changed_params, named_after
from fvc.tracking.store import PARENT_VARIABLE, connect, experiment_id

PARAMS = load_params(Path("params.yaml"))
PARAMS_FILE = Path("params.yaml").read_bytes()
IDENTITY = tracking.Identity(params=PARAMS, data_sha256="d" * 64, folds_sha256="f" * 64)
HISTORY = [
    {"epoch": 0, "train/loss": 0.7, "validation/roc_auc": 0.4},
    {"epoch": 1, "train/loss": 0.6, "validation/roc_auc": 0.6},
]


@pytest.fixture
def folds() -> pl.DataFrame:
    row = {"video_id": "youtube_a", "group": "f0", "label": "fake", "part": "fold", "fold": 0}
    return FOLDS.frame([{**row, "validates": [1]}])


def runs_of(client: MlflowClient, kind: str) -> list[mlflow.entities.Run]:
    experiment = experiment_id(client)
    return list(client.search_runs([experiment], f"tags.`fvc.kind` = '{kind}'"))


def test_a_killed_fold_goes_on_in_its_run(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path
) -> None:
    def killed_after_an_epoch() -> None:
        with tracking.fold_run(IDENTITY, 3, folds, binding="b", runs=tmp_path / "runs") as run:
            run.log_history(HISTORY[:1])
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        killed_after_an_epoch()
    with tracking.fold_run(IDENTITY, 3, folds, binding="b", runs=tmp_path / "runs") as run:
        run.log_history(HISTORY)
    [only] = runs_of(store, "fold")
    steps = [point.step for point in store.get_metric_history(only.info.run_id, "train/loss")]
    assert sorted(steps) == [1, 2], "the resumed run logged a step twice or left one out"
    assert only.info.status == "FINISHED"
    assert only.data.tags["fvc.fold"] == "3"
    assert only.inputs is not None
    [dataset] = only.inputs.dataset_inputs
    assert dataset.dataset.name == "folds"


def test_folds_share_one_parent(store: MlflowClient, folds: pl.DataFrame, tmp_path: Path) -> None:
    for fold in (0, 1):
        with tracking.fold_run(IDENTITY, fold, folds, binding="b", runs=tmp_path / "runs"):
            pass
    [parent] = runs_of(store, "cross-validation")
    children = runs_of(store, "fold")
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert len(children) == 2


def test_folds_that_start_at_once_share_one_parent(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, fold_run = MlflowClient.create_run, tracking.fold_run
    firsts: list[str] = []

    def another_is_faster(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        if not firsts:
            firsts.append("")
            with fold_run(IDENTITY, 1, folds, binding="b", runs=tmp_path / "runs") as other:
                firsts.append(other.run_id)
        return create(client, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", another_is_faster)
    with fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs") as one:
        pass
    [parent] = runs_of(store, "cross-validation")
    parents = [
        store.get_run(run).data.tags["mlflow.parentRunId"] for run in (one.run_id, firsts[1])
    ]
    assert parents == [parent.info.run_id] * 2


def test_a_finished_fold_stays_with_its_cross_validation(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs") as first:
        pass
    with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs") as again:
        assert again.run_id == first.run_id
    parent = store.create_run(experiment_id(store)).info.run_id
    monkeypatch.setenv(PARENT_VARIABLE, parent)
    with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs") as other:
        assert other.run_id != first.run_id
    tags = store.get_run(other.run_id).data.tags
    assert tags["mlflow.parentRunId"] == parent


def test_a_project_run_is_used_and_stays_in_its_experiment(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = store.create_experiment("elsewhere", (tmp_path / "artifacts").as_uri())
    given = store.create_run(experiment).info.run_id
    store.log_param(given, "fold", "3")
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with tracking.fold_run(IDENTITY, 3, folds, binding="b", runs=tmp_path / "runs") as run:
        assert run.run_id == given
        assert (store.get_run(given).info.run_name or "").startswith("fold 3 ")
        run.log_history(HISTORY)
    assert len(store.search_runs([experiment])) == 1
    assert store.get_experiment_by_name("fvc") is None, "a second experiment was made"
    assert not (tmp_path / "runs").exists(), "a project run must not be taken for DVC's fold"


def test_a_missing_fold_run_is_rebuilt_once(store: MlflowClient, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    evidence = tmp_path / "evaluation"
    evidence.mkdir()
    (evidence / "report.html").write_text(f"<code>{'a' * 64}</code>")
    outputs = tracking.FoldOutputs(
        fold=0,
        weights_sha256="a" * 64,
        history=HISTORY,
        results={"test/roc_auc": 0.5},
        files=[weights],
    )
    for _ in range(2):
        tracking.complete_cross_validation(IDENTITY, [outputs], {"roc_auc": 0.5}, evidence, "note")
    [restored] = runs_of(store, "fold")
    assert restored.data.tags["fvc.restored"] == "true"
    assert restored.data.metrics["test/roc_auc"] == 0.5
    [parent] = runs_of(store, "cross-validation")
    assert parent.info.status == "FINISHED"
    assert len(store.get_metric_history(parent.info.run_id, "roc_auc")) == 1
    assert [file.path for file in store.list_artifacts(parent.info.run_id)] == ["report.html"]
    route = f"#/experiments/{restored.info.experiment_id}/runs/{restored.info.run_id}"
    assert f"note\n\nThe runs behind it: [fold 0]({route})." in parent.data.tags[MLFLOW_RUN_NOTE]
    page = Path(store.download_artifacts(parent.info.run_id, "report.html"))
    assert f'href="http://127.0.0.1:5000/{route}"' in page.read_text()


@pytest.mark.usefixtures("store")
def test_of_two_evaluations_the_run_has_the_files_of_the_second(
    store: MlflowClient, tmp_path: Path
) -> None:
    for names in (["report.html", "robustness.png", "examples/miss_1.jpg"], ["report.html"]):
        evidence = tmp_path / str(len(names))
        for name in names:
            (evidence / name).parent.mkdir(parents=True, exist_ok=True)
            (evidence / name).write_text("evidence")
        tracking.complete_cross_validation(IDENTITY, [], {}, evidence, "note")
        [parent] = runs_of(store, "cross-validation")
        store.log_text(parent.info.run_id, "read", "by_hand.txt")
        found = {file.path for file in store.list_artifacts(parent.info.run_id)}
        if len(names) > 1:
            assert found == {"by_hand.txt", "examples", "report.html", "robustness.png"}
    assert found - {"examples"} == {"by_hand.txt", "report.html"}, "stale, or not ours to remove"
    assert not store.list_artifacts(parent.info.run_id, "examples")


@pytest.mark.usefixtures("store")
def test_the_page_of_a_fold_says_at_which_threshold_unless_its_user_spoke(
    folds: pl.DataFrame, tmp_path: Path
) -> None:
    for _ in range(2):
        with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs") as run:
            before = run.tags()[MLFLOW_RUN_NOTE]
            run.set_tags({MLFLOW_RUN_NOTE: "my own words"})
    assert before == "my own words"
    with tracking.fold_run(IDENTITY, 1, folds, binding="b", runs=tmp_path / "runs") as run:
        assert "at a probability of 0.5, before calibration" in run.tags()[MLFLOW_RUN_NOTE]


def test_the_store_lies_in_the_root_that_dvc_names(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(elsewhere)
    connect()
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    experiment = store.get_experiment(experiment_id(connect()))
    assert experiment.artifact_location == (tmp_path / "mlruns").as_uri()


def test_another_training_gets_a_run_of_its_own(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path
) -> None:
    for binding in ("code of yesterday", "code of today"):
        with tracking.fold_run(IDENTITY, 0, folds, binding=binding, runs=tmp_path / "runs") as run:
            run.log_history(HISTORY)
    assert len(runs_of(store, "fold")) == 2, "one run mixes two trainings"


def test_killed_before_the_run_was_used_it_is_found_again(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    def attempt() -> None:
        with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs"):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_describe", killed)
        with pytest.raises(RuntimeError, match="killed"):
            attempt()
    attempt()
    everything = store.search_runs([experiment_id(store)])
    assert len(everything) == 2, "a run without tags is left behind"


def test_a_store_that_does_not_know_the_parent_is_named(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PARENT_VARIABLE, "0" * 32)
    with pytest.raises(FvcError, match=r"names the run 0{32}, which is not in sqlite"):
        experiment_id(store)


def test_a_deleted_experiment_is_named(store: MlflowClient) -> None:
    store.delete_experiment(experiment_id(store))
    with pytest.raises(FvcError, match=r"fvc: this experiment was deleted.*restore -x 1"):
        experiment_id(store)


def with_rate(rate: float) -> tracking.Identity:
    return replace(
        IDENTITY, params=replace(PARAMS, train=replace(PARAMS.train, learning_rate=rate))
    )


@pytest.fixture
def committed(store: MlflowClient, tmp_path: Path) -> Path:
    """A repository around the store, with the params.yaml of this one committed."""
    del store
    (tmp_path / "params.yaml").write_bytes(PARAMS_FILE)
    commit(tmp_path)
    return tmp_path


def commit(root: Path) -> str:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for words in (["init", "--quiet"], ["add", "params.yaml"], [*who, "commit", "-qm", "-"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True
    )
    return head.stdout.strip()


def test_runs_say_how_they_differ_from_what_is_committed(
    store: MlflowClient, folds: pl.DataFrame, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.fold_run(IDENTITY, 0, folds, binding="b", runs=committed / "runs"):
        pass
    monkeypatch.setenv("DVC_EXP_NAME", "mirky-moor")
    for rate in (0.002, 0.005):
        identity = with_rate(rate)
        with tracking.fold_run(identity, 0, folds, binding=f"{rate}", runs=committed / "runs"):
            pass
    parents = {run.info.run_name: run for run in runs_of(store, "cross-validation")}
    assert parents.keys() == {
        f"r3d_18 {IDENTITY.cv_key[:7]}",
        "mirky-moor train.learning_rate=0.002",
        "mirky-moor train.learning_rate=0.005",
    }
    for kind in ("cross-validation", "fold"):
        tags = {run.data.tags["fvc.changed"] for run in runs_of(store, kind)}
        assert tags == {"none", "train.learning_rate=0.002", "train.learning_rate=0.005"}
    names = {run.info.run_name for run in runs_of(store, "fold")}
    assert names == {
        *("fold 0", "fold 0 train.learning_rate=0.002", "fold 0 train.learning_rate=0.005")
    }


def test_an_experiment_is_compared_with_the_commit_it_started_from(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "tag", "start"], cwd=committed, check=True)
    changed = PARAMS_FILE.replace(b"learning_rate: 0.0001", b"learning_rate: 0.002")
    (committed / "params.yaml").write_bytes(changed)
    assert changed_params(with_rate(0.002).params) == "train.learning_rate=0.002"
    commit(committed)
    assert changed_params(with_rate(0.002).params) == "none"
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "start")
    assert changed_params(with_rate(0.002).params) == "train.learning_rate=0.002"


def test_without_a_commit_it_is_unknown_what_has_changed(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    del store
    assert changed_params(PARAMS) == "unknown"
    monkeypatch.setenv("PATH", "")
    assert changed_params(PARAMS) == "unknown"


def test_a_name_has_room_for_some_changes() -> None:
    assert named_after("fold 0", "none") == named_after("fold 0", "unknown") == "fold 0"
    many = " ".join(f"augment.kind{number}.probability=0.5" for number in range(9))
    name = named_after("fold 0", many)
    assert name.startswith("fold 0 augment.kind0.probability=0.5 ")
    assert name.endswith("0.5 ...")
    assert len(name) <= 120


def test_a_training_alone_has_no_cross_validation_that_never_ends(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path
) -> None:
    for _ in range(2):
        with tracking.fold_run(
            IDENTITY, 0, folds, binding="b", runs=tmp_path / "runs", alone=True
        ) as run:
            run.log_history(HISTORY)
    [only] = runs_of(store, "fold")
    assert "mlflow.parentRunId" not in only.data.tags
    assert not runs_of(store, "cross-validation")


def test_a_seed_left_to_the_file_is_logged_all_the_same(
    store: MlflowClient, folds: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow logs what `mlflow run` was given under names of its own choice."""
    seeds = {}
    for given in ("params.yaml", "0"):
        run_id = store.create_run(experiment_id(store)).info.run_id
        store.log_param(run_id, "seed", given)
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
        for _ in range(2):
            with tracking.fold_run(IDENTITY, 3, folds, binding="b", runs=tmp_path / "runs"):
                pass
        params = store.get_run(run_id).data.params
        seeds[given] = {key: params[key] for key in ("seed", "fvc.seed") if key in params}
    left = {"seed": "params.yaml", "fvc.seed": "0"}
    assert seeds == {"params.yaml": left, "0": {"seed": "0"}}


AT_ONCE = """
import sys
import time
from pathlib import Path
from fvc.tracking.store import connect, experiment_id

Path(sys.argv[1]).touch()
while len(list(Path.cwd().glob("ready-*"))) < 3:
    time.sleep(0.001)
print(experiment_id(connect()))
"""


@pytest.mark.slow
def test_processes_that_begin_at_once_make_one_store(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, f"ready-{number}"],
            cwd=tmp_path,
            env=outside,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert len({out for out, _ in said}) == 1
