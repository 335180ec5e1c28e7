"""Finished cross-validations, by id, by name or by a model that came out of one."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import polars as pl
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from fvc.errors import FvcError
from fvc.records import OUT_OF_FOLD
from fvc.tracking.answers import store_name, told
from fvc.tracking.experiments import experiment_params_sha256
from fvc.tracking.store import find_runs

RUN_ID = re.compile(r"[0-9a-f]{32}")
SCORES = "out_of_fold.csv"
"""The artifact with what the cross-validation said of each tested video."""

SAME = {"fvc.data_sha256": "videos or labels", "fvc.folds_sha256": "folds"}
"""Tags that tell two tests apart, and what differs in them."""

LIST = "Look at 'mlflow ui' for the runs that there are"


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossValidation:
    """What the run of a finished cross-validation holds."""

    run_id: str
    name: str
    params: Mapping[str, str]
    """By dotted names, as MLflow shows them."""
    tags: Mapping[str, str]
    out_of_fold: pl.DataFrame
    """The OUT_OF_FOLD table."""


def read_cross_validation(client: MlflowClient, which: str) -> CrossValidation:
    """Read one from the store.

    Args:
        client: Of the store.
        which: A run's id or name, the name of an experiment that DVC keeps or kept, or the
            URI of a registered version: `models:/fvc/3`.

    Raises:
        FvcError: There is none of that name, or several; it is no cross-validation, or
            none that `evaluate` has completed.
    """
    run = _cross_validation_run(client, _found(client, which), which)
    try:
        with artifact(run.info.run_id, SCORES) as local:
            table = OUT_OF_FOLD.read(local)
    except FvcError as error:
        cause = f"its {SCORES} {error.args[1]}"
        raise FvcError(which, cause, "Evaluate it anew with 'dvc repro -f -s evaluate'") from error
    except (MlflowException, OSError) as error:
        cause = f"has no {SCORES}; its run is {run.info.status}"
        remedy = "Let 'dvc repro' finish, or name a cross-validation that was evaluated"
        raise FvcError(which, cause, remedy) from error
    return CrossValidation(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        params=_trained_with(run) | _evaluated_with(run),
        tags=dict(run.data.tags),
        out_of_fold=table,
    )


@contextmanager
def artifact(run_id: str, name: str) -> Iterator[Path]:
    """One file of a run, until the block ends.

    Raises:
        MlflowException: The run has none of that name.
        OSError: The store has lost it.
    """
    with TemporaryDirectory() as scratch:
        local = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=name, dst_path=scratch
        )
        yield Path(local)


def _evaluated_with(run: Run) -> dict[str, str]:
    """How the evidence was weighed, which may change from one evaluation of a run to the next."""
    stated: dict[str, Any] = json.loads(run.data.tags.get("fvc.evaluate", "{}"))
    return {f"evaluate.{name}": str(value) for name, value in stated.items()}


def _trained_with(run: Run) -> dict[str, str]:
    """Parameters; one that `mlflow run` left to params.yaml has its value in a later one."""
    ordered = sorted(run.data.params.items(), key=lambda item: item[0].startswith("fvc."))
    return {name.removeprefix("fvc."): value for name, value in ordered}


def _found(client: MlflowClient, which: str) -> Run:
    """The run of that id or name, or the one that trained a registered version."""
    try:
        if which.startswith("models:/"):
            name, number = get_model_name_and_version(client, which)  # type: ignore[no-untyped-call]
            return client.get_run(client.get_model_version(name, number).run_id or "")
        if RUN_ID.fullmatch(which):
            return client.get_run(which)
    except MlflowException as error:
        cause = f"is not in {store_name()} ({told(error)})"
        raise FvcError(which, cause, LIST) from error
    # A run's name goes on with what its experiment changed.
    named = _with(client, "attributes.run_name", which)
    named = named or _with(client, "tags.`fvc.experiment`", which)
    named = named or _of_experiment(client, which)
    # The children of a cross-validation may be called as it is.
    above = [run for run in named if run.data.tags.get("fvc.kind") == "cross-validation"] or named
    if not above:
        raise FvcError(which, f"names no run in {store_name()}", LIST)
    if len(above) > 1:
        ids = ", ".join(run.info.run_id for run in above)
        raise FvcError(which, f"names {len(above)} runs ({ids})", "Give the id of one of them")
    return above[0]


def _of_experiment(client: MlflowClient, name: str) -> list[Run]:
    """The latest finished run with the parameters of DVC's experiment of that name.

    What DVC has run before it does not run again: the experiment then has no run of its own.
    """
    params_sha256 = experiment_params_sha256(name)
    if params_sha256 is None:
        return []
    known = {"fvc.kind": "cross-validation", "fvc.params_sha256": params_sha256}
    return [run for run in find_runs(client, known) if run.info.status == "FINISHED"][-1:]


def _with(client: MlflowClient, field: str, value: str) -> list[Run]:
    """The runs of all experiments with this value; none for one with both kinds of quotes."""
    quote = '"' if "'" in value else "'"
    if quote in value:
        return []
    experiments = [found.experiment_id for found in client.search_experiments()]
    return list(client.search_runs(experiments, f"{field} = {quote}{value}{quote}"))


def _cross_validation_run(client: MlflowClient, run: Run, which: str) -> Run:
    """The run itself, or the one above the fold that a version was trained in."""
    kind, parent = run.data.tags.get("fvc.kind"), run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    if run.info.lifecycle_stage != "active":
        remedy = f"Run 'mlflow runs restore --run-id {run.info.run_id}'"
        raise FvcError(which, "was deleted", remedy)
    if kind == "cross-validation":
        return run
    if kind == "fold" and parent and which.startswith("models:/"):
        return client.get_run(parent)
    if kind == "fold":
        remedy = f"Name its cross-validation, {parent}" if parent else "Name a cross-validation"
        cause = f"is the run of fold {run.data.tags.get('fvc.fold')}, which tests a part alone"
        raise FvcError(which, cause, remedy)
    raise FvcError(which, "is no run of a cross-validation", "Name one that 'dvc repro' made")


def check_same_test(first: CrossValidation, second: CrossValidation) -> None:
    """Make sure that two were tested on the same videos in the same folds.

    Raises:
        FvcError: The second was not.
    """
    keys = ["video_id", "fold", "label"]
    ours, theirs = (run.out_of_fold.select(keys).sort("video_id") for run in (first, second))
    others = [what for tag, what in SAME.items() if first.tags.get(tag) != second.tags.get(tag)]
    if not others and not ours.equals(theirs):
        others = ["videos or folds"]
    if others:
        cause = f"was tested with other {' and other '.join(others)} than {first.name}"
        remedy = "Leave it out, or compare the two alone: 'fvc compare RUN RUN'"
        raise FvcError(second.name, cause, remedy)
