"""Where a model comes from: its version, its run, and the code and data behind that."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_GIT_DIRTY, MLFLOW_PARENT_RUN_ID

from fvc.errors import FvcError
from fvc.networks.ensemble import weights_sha256
from fvc.tracking import registry
from fvc.tracking.answers import store_name, told
from fvc.tracking.changes import NONE
from fvc.tracking.comparisons import ENSEMBLE
from fvc.tracking.notes import run_route, ui_address
from fvc.tracking.store import find_runs

TOLD = frozenset(
    f"fvc.{name}"
    for name in (
        *("changed", "data_sha256", "experiment", "fold", "folds_sha256", "network"),
        *("params_sha256", "weights_sha256"),
    )
)
"""Tags that every trained network has."""

STORE = "Point MLFLOW_TRACKING_URI at the store that it was served from"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """What a verdict rests on; a text that nobody has written down is empty."""

    model: str
    """A URI that MLflow loads; empty where the network of a fold was not registered."""
    aliases: Sequence[str]
    """Of the version, now."""
    run_id: str
    """Of the run that trained the network."""
    run_name: str
    page: str
    """The address of the run in MLflow's pages."""
    cross_validation: str
    """The id of the run above it."""
    fold: int
    network: str
    weights_sha256: str
    params_sha256: str
    folds_sha256: str
    data_sha256: str
    commit: str
    """Of the code that registered the version, or trained the network."""
    uncommitted: bool
    """Whether that code was changed and not committed, so that no commit has it."""
    changed: str
    """The parameters that the commit has not so, as `dvc exp run -S` takes them."""
    experiment: str
    """DVC's name of the experiment."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def lineage_of_model(client: MlflowClient, model: str) -> Lineage:
    """Walk from what an answer names as `model_version`: `fvc/3`, or the id of a logged model.

    Raises:
        FvcError: The store has no such model, or not the run that trained it, or other
            weights than were registered.
    """
    name, slash, number = model.partition("/")
    try:
        if not slash:
            logged = client.get_logged_model(model)
            return _lineage(_run(client, logged.source_run_id, model), f"models:/{model}")
        version = client.get_model_version(name, number)
    except MlflowException as error:
        cause = f"is not in {store_name()} ({told(error)})"
        raise FvcError(f"models:/{model}", cause, STORE) from error
    if version.tags.get("fvc.kind") == ENSEMBLE:
        cause = f"is an ensemble of the runs {version.tags['fvc.members']}"
        raise FvcError(f"models:/{model}", cause, "Look at each of them in 'mlflow ui'")
    _check_weights(version)
    return _lineage(_run(client, version.run_id, model), f"models:/{model}", version)


def named_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The version that `models:/fvc/3` or `models:/fvc@champion` names.

    Raises:
        FvcError: There is none.
    """
    try:
        name, number = get_model_name_and_version(client, uri)  # type: ignore[no-untyped-call]
        return client.get_model_version(name, number)
    except MlflowException as error:
        cause = f"names no version in {store_name()} ({told(error)})"
        raise FvcError(uri, cause, "Run 'dvc repro', or name another with --model") from error


def lineage_of_fold(client: MlflowClient, cross_validation: str, fold: int) -> Lineage:
    """Walk from one fold of a cross-validation; its network may be registered, or not.

    Raises:
        FvcError: The store has no finished run of that fold.
    """
    below = {MLFLOW_PARENT_RUN_ID: cross_validation, "fvc.fold": str(fold)}
    finished = [run for run in find_runs(client, below) if run.info.status == "FINISHED"]
    if not finished:
        cause = f"has no finished run of fold {fold}"
        raise FvcError(cross_validation, cause, "Run 'dvc repro -f -s evaluate'")
    version = registry.version_of_run(client, finished[0].info.run_id)
    model = "" if version is None else f"models:/{version.name}/{registry.number_of(version)}"
    return _lineage(finished[0], model, version)


def _run(client: MlflowClient, run_id: str | None, model: str) -> Run:
    try:
        return client.get_run(run_id or "")
    except MlflowException as error:
        cause = f"was trained by the run {run_id}, which is not in {store_name()}"
        raise FvcError(f"models:/{model}", cause, STORE) from error


def _check_weights(version: ModelVersion) -> None:
    """Make sure that the version has the weights that it was registered with."""
    registered, number = version.tags.get("fvc.weights_sha256"), registry.number_of(version)
    if registered is None:
        cause = "has no fvc.weights_sha256: 'register' has not finished it, or never made it"
        raise FvcError(f"models:/{version.name}/{number}", cause, "Run 'dvc repro'")
    with registry.stored(number, version.name) as folder:
        found = weights_sha256(folder)
    if found != registered:
        cause = f"its weights are {found}, and {registered} was registered: they were changed"
        raise FvcError(f"models:/{version.name}/{number}", cause, "Restore MLflow's artifacts")


def _lineage(run: Run, model: str = "", version: ModelVersion | None = None) -> Lineage:
    """Put it together: what the version was registered with goes before what its run has."""
    own: Mapping[str, str] = {} if version is None else version.tags
    tags = {**run.data.tags, **own}
    missing = sorted(TOLD - tags.keys())
    if missing:
        cause = f"has no {', '.join(missing)}: it was not trained by fvc, or not to its end"
        raise FvcError(model or run.info.run_id, cause, "Name another")
    route = run_route(run.info.experiment_id, run.info.run_id)
    return Lineage(
        model=model,
        aliases=[] if version is None else sorted(version.aliases),
        run_id=run.info.run_id,
        run_name=run.info.run_name or "",
        page=f"{ui_address(mlflow.get_tracking_uri())}/{route}",
        cross_validation=run.data.tags.get(MLFLOW_PARENT_RUN_ID, ""),
        fold=int(tags["fvc.fold"]),
        network=tags["fvc.network"],
        weights_sha256=tags["fvc.weights_sha256"],
        params_sha256=tags["fvc.params_sha256"],
        folds_sha256=tags["fvc.folds_sha256"],
        data_sha256=tags["fvc.data_sha256"],
        commit=tags.get(MLFLOW_GIT_COMMIT, ""),
        uncommitted=tags.get(MLFLOW_GIT_DIRTY) == "true",
        changed="" if tags["fvc.changed"] == NONE else tags["fvc.changed"],
        experiment="" if tags["fvc.experiment"] == NONE else tags["fvc.experiment"],
    )
