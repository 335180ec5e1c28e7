"""The folds of a finished cross-validation: what each said, how it was calibrated, what it took."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import polars as pl
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from fvc.errors import FvcError
from fvc.files import read_json
from fvc.networks import DESCRIPTION, WEIGHTS
from fvc.records import PREDICTIONS
from fvc.tracking.finished import CrossValidation, artifact
from fvc.tracking.store import find_runs

SPEED, MEMORY = "train/clips_per_s", "train/memory_mib"
"""Series of a training that a machine decides."""

REBUILD = "Run 'dvc repro -f -s evaluate' where it was made"


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedFold:
    """One fold's run."""

    fold: int
    run_id: str
    weights_sha256: str

    def series(self, name: str) -> list[float]:
        """The values of all epochs; none in a run that was rebuilt."""
        return [point.value for point in MlflowClient().get_metric_history(self.run_id, name)]

    def predictions(self) -> pl.DataFrame:
        """The PREDICTIONS of the fold.

        Raises:
            FvcError: The store has lost them.
        """
        with _told(self.run_id), artifact(self.run_id, "predictions.parquet") as local:
            return PREDICTIONS.read(local)

    @contextmanager
    def network(self) -> Iterator[Path]:
        """A folder with the files of the network, until the block ends.

        Raises:
            FvcError: The store has lost them.
        """
        with TemporaryDirectory() as scratch:
            with _told(self.run_id):
                for name in (WEIGHTS, DESCRIPTION):
                    mlflow.artifacts.download_artifacts(
                        run_id=self.run_id, artifact_path=name, dst_path=scratch
                    )
            yield Path(scratch)


@contextmanager
def _told(run_id: str) -> Iterator[None]:
    """Say in one line what a run lacks."""
    try:
        yield
    except (MlflowException, OSError) as error:
        cause = f"its run lacks a file ({' '.join(str(error).split())[:200]})"
        raise FvcError(run_id, cause, REBUILD) from error


def finished_folds(run: CrossValidation) -> dict[int, FinishedFold]:
    """The runs of the folds that a cross-validation tested, by their numbers.

    Raises:
        FvcError: One is missing.
    """
    below = find_runs(MlflowClient(), {MLFLOW_PARENT_RUN_ID: run.run_id, "fvc.kind": "fold"})
    finished: dict[int, FinishedFold] = {}
    for fold in below:
        number = int(fold.data.tags["fvc.fold"])
        weights = fold.data.tags.get("fvc.weights_sha256")
        # Of equal ones the oldest, as evaluate takes it.
        if fold.info.status == "FINISHED" and weights and number not in finished:
            finished[number] = FinishedFold(
                fold=number, run_id=fold.info.run_id, weights_sha256=weights
            )
    tested = run.out_of_fold["fold"].unique().sort().to_list()
    for number in tested:
        if number not in finished:
            raise FvcError(run.name, f"has no finished run of fold {number}", REBUILD)
    return {number: finished[number] for number in tested}


def calibrations_of(run: CrossValidation) -> dict[int, dict[str, float | int]]:
    """How the logits of each fold are to be read, as plain values.

    Raises:
        FvcError: The store has lost it.
    """
    with _told(run.run_id), artifact(run.run_id, "calibration.json") as local:
        return {int(fold): found for fold, found in read_json(local, "evaluate").items()}
