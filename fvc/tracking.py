"""The only door to MLflow runs: one run per fold, below one run per cross-validation."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import polars as pl
from mlflow.data.polars_dataset import from_polars
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.git_utils import get_git_commit
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)

from fvc.config import Params
from fvc.errors import FvcError
from fvc.files import read_json, sha256_of, sha256_of_file, write_json

PARENT_VARIABLE = "FVC_PARENT_RUN_ID"
"""Names the cross-validation run that `mlflow run . -e main` opened."""

TRAINING_SECTIONS = ("seed", "augment", "clips", "model", "split", "train")
"""The parameters that a trained network depends on."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""What makes MLflow's pages open with runs and charts rather than with traces."""

BATCH_SIZE = 1000
"""Metrics in one request; MLflow takes no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a training result depends on; equal identities give equal weights on one machine."""

    params: Params
    data_sha256: str
    """Of the ids, contents and labels of the videos behind the clips."""
    folds_sha256: str
    """Of the fold file's bytes."""

    @property
    def params_sha256(self) -> str:
        """Of the parameters that training depends on."""
        values = asdict(self.params)
        return sha256_of({section: values[section] for section in TRAINING_SECTIONS})

    @property
    def cv_key(self) -> str:
        """Names the cross-validation that folds with this identity belong to."""
        return sha256_of([self.params_sha256, self.data_sha256, self.folds_sha256])

    def tags(self) -> dict[str, str]:
        """The tags that every run of this identity carries."""
        lock = repository_root() / "dvc.lock"
        return {
            "fvc.network": self.params.model.network,
            "fvc.params_sha256": self.params_sha256,
            "fvc.data_sha256": self.data_sha256,
            "fvc.folds_sha256": self.folds_sha256,
            "fvc.cv_key": self.cv_key,
            "fvc.dvc_lock": sha256_of_file(lock) if lock.is_file() else "none",
            "fvc.experiment": os.environ.get("DVC_EXP_NAME", "none"),
        }


def repository_root() -> Path:
    """Where the store lies: DVC's own root, else the nearest folder above with a dvc.yaml.

    DVC runs queued experiments in a copy of the repository and names the
    original in `DVC_ROOT`, so their runs meet in one store.

    Raises:
        FvcError: There is none.
    """
    if root := os.environ.get("DVC_ROOT"):
        return Path(root).resolve()
    here = Path.cwd()
    for folder in [here, *here.parents]:
        if (folder / "dvc.yaml").is_file():
            return folder
    remedy = "Run from the repository, or set MLFLOW_TRACKING_URI"
    raise FvcError(here, "is in no repository with a dvc.yaml, so no MLflow store is known", remedy)


def connect() -> MlflowClient:
    """Point MLflow at the store that the environment names, else at the repository's own."""
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(own_store())
    return MlflowClient()


def own_store() -> str:
    """The address of the repository's own store."""
    return f"sqlite:///{repository_root() / 'mlflow.db'}"


def experiment_id(client: MlflowClient) -> str:
    """The experiment that new runs go to; it is made where it is missing.

    It is the one that MLflow or the user names in the environment, else `fvc`.
    """
    if parent := os.environ.get(PARENT_VARIABLE):
        return client.get_run(parent).info.experiment_id
    if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identifier
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fvc")
    # Without a location, a local store would put artifacts under the working directory.
    local = mlflow.get_tracking_uri() == own_store()
    location = (repository_root() / "mlruns").as_uri() if local else None
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another fold was faster
            if experiment is None:
                raise
    return experiment.experiment_id


def cross_validation_run(client: MlflowClient, identity: Identity) -> str:
    """Find or create the run above the folds of one cross-validation; returns its id."""
    tags = {**identity.tags(), **git_commit(), "fvc.kind": "cross-validation"}
    if given := os.environ.get(PARENT_VARIABLE):
        for key, value in tags.items():
            client.set_tag(given, key, value)
        return given
    experiment = experiment_id(client)
    found = _search(
        client, experiment, {"fvc.kind": "cross-validation", "fvc.cv_key": identity.cv_key}
    )
    if found:
        return found[0].info.run_id
    name = (
        os.environ.get("DVC_EXP_NAME") or f"{identity.params.model.network} {identity.cv_key[:7]}"
    )
    run_id = client.create_run(experiment, tags=resolve_tags(tags), run_name=name).info.run_id
    log_params(client, run_id, flat_params(identity.params))
    return run_id


class OpenRun:
    """A run that is being written to; everything logged twice is logged once."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def log_history(self, history: Sequence[Mapping[str, float | int]]) -> None:
        """Log the epochs that the run lacks; each row has an `epoch` and its series.

        MLflow keeps a step logged twice twice, so what is there is asked for.
        """
        series = {name for row in history for name in row if name != "epoch"}
        known = {
            name: {point.step for point in self.client.get_metric_history(self.run_id, name)}
            for name in series
        }
        time_ms = _now_ms()
        missing = [
            Metric(name, value, time_ms, int(row["epoch"]))
            for row in history
            for name, value in row.items()
            if name != "epoch" and int(row["epoch"]) not in known[name]
        ]
        for first in range(0, len(missing), BATCH_SIZE):
            self.client.log_batch(self.run_id, metrics=missing[first : first + BATCH_SIZE])

    def log_results(self, metrics: Mapping[str, float | int]) -> None:
        """Log final metrics, unless the run has those values already."""
        known = self.client.get_run(self.run_id).data.metrics
        time_ms = _now_ms()
        missing = [
            Metric(name, value, time_ms, 0)
            for name, value in metrics.items()
            if known.get(name) != value
        ]
        self.client.log_batch(self.run_id, metrics=missing)

    def log_file(self, source: Path, folder: str | None = None, name: str | None = None) -> None:
        """Store one file with the run; an earlier one of that name is replaced."""
        with TemporaryDirectory() as scratch:
            # MLflow takes the name of an artifact from its file.
            link = Path(scratch) / (name or source.name)
            link.symlink_to(source.resolve())
            self.client.log_artifact(self.run_id, str(link), folder)

    def set_tag(self, name: str, value: str) -> None:
        """Set or replace a tag."""
        self.client.set_tag(self.run_id, name, value)


@contextmanager
def fold_run(identity: Identity, fold: int, folds: pl.DataFrame, runs: Path) -> Iterator[OpenRun]:
    """Open the run of one fold, with system metrics, until the block ends.

    Under `mlflow run -e train` it is the run that MLflow opened. Otherwise it
    is a child of the cross-validation: the unfinished one of an earlier,
    killed attempt, whose id waits in `runs`, or a new one.
    """
    client = connect()
    run_id = os.environ.get("MLFLOW_RUN_ID") or _pending_run(client, identity, fold, runs)
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    _describe(client, run_id, identity, fold)
    with mlflow.start_run(run_id=run_id, log_system_metrics=True):
        dataset = from_polars(folds, name="folds", targets="label")
        mlflow.log_input(dataset, context="training")
        yield OpenRun(client, run_id)


def _pending_run(client: MlflowClient, identity: Identity, fold: int, runs: Path) -> str:
    note = runs / f"fold-{fold}.json"
    parent = cross_validation_run(client, identity)
    place = {"cv_key": identity.cv_key, "store": mlflow.get_tracking_uri()}
    if note.is_file():
        waiting = read_json(note, f"train@{fold}")
        run_id = waiting.pop("run_id")
        if waiting == place and _may_go_on(client, run_id, parent):
            client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
            return run_id
    run_id = _new_child(client, parent, fold)
    write_json(note, {"run_id": run_id, **place})
    return run_id


def _may_go_on(client: MlflowClient, run_id: str, parent: str) -> bool:
    """Whether a run still exists, where the parent is, and was not finished below another."""
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return False
    beside = run.info.experiment_id == client.get_run(parent).info.experiment_id
    elsewhere = run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent
    finished = run.info.status == "FINISHED"
    return run.info.lifecycle_stage == "active" and beside and not (finished and elsewhere)


def _new_child(client: MlflowClient, parent: str, fold: int) -> str:
    experiment = client.get_run(parent).info.experiment_id
    tags = resolve_tags({MLFLOW_PARENT_RUN_ID: parent, MLFLOW_SOURCE_NAME: "fvc train"})
    return client.create_run(experiment, tags=tags, run_name=f"fold {fold}").info.run_id


def _describe(client: MlflowClient, run_id: str, identity: Identity, fold: int) -> None:
    log_params(client, run_id, {**flat_params(identity.params), "fold": fold})
    tags = {**identity.tags(), **git_commit(), "fvc.kind": "fold", "fvc.fold": str(fold)}
    for key, value in tags.items():
        client.set_tag(run_id, key, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldOutputs:
    """What DVC holds of one trained fold: enough to tell its run, or to rebuild it."""

    fold: int
    weights_sha256: str
    history: Sequence[Mapping[str, float | int]]
    results: Mapping[str, float | int]
    """The final metrics, `test/...`."""
    files: Sequence[Path]


def complete_cross_validation(
    identity: Identity,
    outputs: Sequence[FoldOutputs],
    results: Mapping[str, float | int],
    evidence: Path,
    note: str,
) -> None:
    """Give the cross-validation its evidence and end it; rebuild the fold runs it lacks.

    A fold's run is known by the digest of its weights. One is missing after
    outputs were restored from a cache or remote, or in a fresh store; it is
    rebuilt from the outputs and tagged `fvc.restored`.
    """
    client = connect()
    parent = cross_validation_run(client, identity)
    for fold in outputs:
        if finished_fold_run(client, parent, fold.weights_sha256) is None:
            _restore(client, parent, identity, fold)
    run = OpenRun(client, parent)
    log_params(client, parent, flat_params(identity.params))
    run.log_results(results)
    run.set_tag(MLFLOW_RUN_NOTE, note)
    for source in sorted(path for path in evidence.rglob("*") if path.is_file()):
        folder = source.parent.relative_to(evidence).as_posix()
        run.log_file(source, None if folder == "." else folder)
    if parent != os.environ.get(PARENT_VARIABLE):
        client.set_terminated(parent)


def finished_fold_run(client: MlflowClient, parent: str, weights_sha256: str) -> str | None:
    """The oldest finished run below `parent` that ended with these weights."""
    experiment = client.get_run(parent).info.experiment_id
    tags = {"fvc.weights_sha256": weights_sha256, MLFLOW_PARENT_RUN_ID: parent}
    found = [run for run in _search(client, experiment, tags) if run.info.status == "FINISHED"]
    return found[0].info.run_id if found else None


def _restore(client: MlflowClient, parent: str, identity: Identity, fold: FoldOutputs) -> None:
    run = OpenRun(client, _new_child(client, parent, fold.fold))
    _describe(client, run.run_id, identity, fold.fold)
    run.log_history(fold.history)
    run.log_results(fold.results)
    for source in fold.files:
        run.log_file(source)
    run.set_tag("fvc.restored", "true")
    run.set_tag("fvc.weights_sha256", fold.weights_sha256)
    client.set_terminated(run.run_id)


def flat_params(params: Params) -> dict[str, Any]:
    """All parameters with dotted names: `train.learning_rate`."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = json.dumps(value) if isinstance(value, list | tuple) else value

    walk("", asdict(params))
    return flat


def log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log the parameters that the run lacks; MLflow refuses to change one."""
    known = client.get_run(run_id).data.params
    missing = [Param(key, str(value)) for key, value in params.items() if key not in known]
    for first in range(0, len(missing), 100):
        client.log_batch(run_id, params=missing[first : first + 100])


def git_commit() -> dict[str, str]:
    """The tag that names the commit of the repository, where there is one."""
    commit = get_git_commit(str(repository_root()))
    return {MLFLOW_GIT_COMMIT: commit} if commit else {}


def _search(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> list[Run]:
    clauses = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs([experiment], clauses, order_by=["attributes.start_time ASC"]))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
