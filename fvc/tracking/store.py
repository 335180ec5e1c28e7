"""Which MLflow store and which experiment: what the environment says, else the repository's own."""

import os
from collections.abc import Mapping
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from fvc.errors import FvcError
from fvc.process import LOCKS, only_one
from fvc.tracking.answers import is_absent, store_name

PARENT_VARIABLE = "FVC_PARENT_RUN_ID"
"""Names the cross-validation run that `mlflow run . -e main` opened."""

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""What makes MLflow's pages open with runs and charts rather than with traces."""


def working_copy() -> Path | None:
    """The nearest folder, from the working directory upwards, with a dvc.yaml."""
    here = Path.cwd()
    return next((up for up in [here, *here.parents] if (up / "dvc.yaml").is_file()), None)


def repository_root() -> Path | None:
    """The folder of the store: DVC's own root, else that of the working copy.

    DVC runs queued experiments in a copy of the repository and names the
    original in `DVC_ROOT`, so their runs meet in one store.
    """
    root = os.environ.get("DVC_ROOT")
    return Path(root).resolve() if root else working_copy()


def connect() -> MlflowClient:
    """Point MLflow at the store that the environment names, else at the repository's own.

    Raises:
        FvcError: Neither is known.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        root = repository_root()
        if root is None:
            cause = "is in no repository with a dvc.yaml, so no MLflow store is known"
            raise FvcError(Path.cwd(), cause, "Run from the repository, or set MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(_own_store(root))
        # Of processes that have MLflow make the tables of a new store at once, all but one fail.
        with only_one("mlflow", root / LOCKS, waits=True):
            MlflowClient().search_experiments(max_results=1)
    return MlflowClient()


def _own_store(root: Path) -> str:
    return f"sqlite:///{root / 'mlflow.db'}"


def given_parent(client: MlflowClient) -> Run | None:
    """The run that `mlflow run . -e main` opened for the whole pipeline.

    Raises:
        FvcError: The environment names a run that is not in the store.
    """
    run_id = os.environ.get(PARENT_VARIABLE)
    if not run_id:
        return None
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if not is_absent(error):
            raise
        cause = f"names the run {run_id}, which is not in {store_name()}"
        raise FvcError(PARENT_VARIABLE, cause, "Unset it, or start with 'mlflow run .'") from error


def experiment_id(client: MlflowClient) -> str:
    """The experiment that new runs go to; it is made where it is missing.

    It is that of a given parent, or the one that MLflow or the user names in
    the environment, or else `fvc`.

    Raises:
        FvcError: It was deleted.
    """
    if parent := given_parent(client):
        return parent.info.experiment_id
    if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return identifier
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fvc")
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, _artifacts(), tags=EXPERIMENT_TAGS)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another fold was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        cause = "this experiment was deleted"
        number = experiment.experiment_id
        remedy = f"Run 'mlflow experiments restore -x {number}', or set MLFLOW_EXPERIMENT_NAME"
        raise FvcError(name, cause, remedy)
    return experiment.experiment_id


def _artifacts() -> str | None:
    """Where a new experiment keeps its files; None leaves it to a server.

    Left to itself, a local store would put them under the working directory.
    """
    root = repository_root()
    own = root is not None and mlflow.get_tracking_uri() == _own_store(root)
    return (root / "mlruns").as_uri() if own and root else None


def find_runs(client: MlflowClient, tags: Mapping[str, str]) -> list[Run]:
    """The runs of all experiments with these tags, the oldest first."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    clauses = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(client.search_runs(experiments, clauses, order_by=["attributes.start_time ASC"]))


def experiment_of(client: MlflowClient, parent: str | None) -> str:
    """The experiment of a parent, or the one of new runs that have none."""
    return client.get_run(parent).info.experiment_id if parent else experiment_id(client)


def may_go_on(client: MlflowClient, run: Run, parent: str | None) -> bool:
    """Whether a run is where the parent is, and was not finished below another one."""
    beside = run.info.experiment_id == experiment_of(client, parent)
    elsewhere = run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent
    finished = run.info.status == "FINISHED"
    return beside and not (finished and elsewhere)
