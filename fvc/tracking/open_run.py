"""A run of MLflow that is being written to, by attempts that may be stopped at any moment."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from fvc.config import AS_WRITTEN

MOST_METRICS = 1000
"""In one request; MLflow takes no more."""

MOST_PARAMS = 100
"""In one request; MLflow takes no more."""

REPLACED = "fvc.evidence_files"
"""Tag of a run: the files that the next evaluation replaces."""


class OpenRun:
    """A run that is being written to; everything logged twice is logged once."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self._steps: dict[str, set[int]] = {}

    def begin(self) -> None:
        """Say that the run goes on, or begins."""
        self.client.update_run(self.run_id, status="RUNNING")

    def log_dataset(self, dataset: Mapping[str, Any]) -> None:
        """Log what the run is trained on, by the fields of MLflow's `Dataset`."""
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        self.client.log_inputs(self.run_id, [DatasetInput(Dataset(**dataset), [context])])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log the parameters that the run lacks; MLflow refuses to change one.

        Where `mlflow run` has logged under the same name that it left one to
        params.yaml, its value goes by the name `fvc.<name>`.
        """
        known = self.client.get_run(self.run_id).data.params
        named = {
            f"fvc.{key}" if known.get(key) == AS_WRITTEN else key: value
            for key, value in params.items()
        }
        missing = [Param(key, str(value)) for key, value in named.items() if key not in known]
        for first in range(0, len(missing), MOST_PARAMS):
            self.client.log_batch(self.run_id, params=missing[first : first + MOST_PARAMS])

    def log_history(
        self, history: Sequence[Mapping[str, float | int]], time_ms: int | None = None
    ) -> None:
        """Log the epochs that the run lacks; each row has an `epoch`, from 0, and its series.

        A step is the number of epochs that were done, as the log counts them.

        MLflow keeps a step logged twice twice, so what is there is asked for:
        once, since nobody else writes to the run.

        Args:
            history: A row for each epoch.
            time_ms: When they ended, for MLflow; now, where it is not given.
        """
        known = self._steps
        for name in {name for row in history for name in row if name != "epoch"} - known.keys():
            points = self.client.get_metric_history(self.run_id, name)
            known[name] = {point.step for point in points}
        at_ms = time_ms or now_ms()
        missing = [
            Metric(name, value, at_ms, int(row["epoch"]) + 1)
            for row in history
            for name, value in row.items()
            if name != "epoch" and int(row["epoch"]) + 1 not in known[name]
        ]
        for first in range(0, len(missing), MOST_METRICS):
            batch = missing[first : first + MOST_METRICS]
            self.client.log_batch(self.run_id, metrics=batch)
            for metric in batch:
                known[metric.key].add(metric.step)

    def log_results(self, metrics: Mapping[str, float | int], time_ms: int | None = None) -> None:
        """Log final metrics, unless the run has those values already."""
        known = self.client.get_run(self.run_id).data.metrics
        at_ms = time_ms or now_ms()
        missing = [
            Metric(name, value, at_ms, 0)
            for name, value in metrics.items()
            if known.get(name) != value
        ]
        self.client.log_batch(self.run_id, metrics=missing)

    def log_measured(self, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
        """Log what was measured at some time; MLflow keeps what is equal in all, once."""
        points = [Metric(name, value, time_ms, step) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=points)

    def log_file(self, source: Path, folder: str | None = None, name: str | None = None) -> None:
        """Store one file with the run; an earlier one of that name is replaced."""
        with TemporaryDirectory() as scratch:
            # MLflow takes the name of an artifact from its file.
            link = Path(scratch) / (name or source.name)
            link.symlink_to(source.resolve())
            self.client.log_artifact(self.run_id, str(link), folder)

    def replace_files(self, files: Iterable[tuple[Path, str | None]]) -> None:
        """Store files, each in its folder; what an earlier call stored and this one lacks goes."""
        new = {
            str(PurePosixPath(folder or "", file.name)): (file, folder) for file, folder in files
        }
        old = json.loads(self.tags().get(REPLACED, "[]"))
        # Stopped in between, the next attempt still knows what is there.
        self.set_tags({REPLACED: json.dumps(sorted({*old, *new}))})
        for file, folder in new.values():
            self.log_file(file, folder)
        store = get_artifact_repository(self.client.get_run(self.run_id).info.artifact_uri)
        for name in sorted({*old} - new.keys()):
            store.delete_artifacts(name)  # type: ignore[no-untyped-call]
        self.set_tags({REPLACED: json.dumps(sorted(new))})

    def tags(self) -> dict[str, str]:
        """All tags of the run, as they are now."""
        return dict(self.client.get_run(self.run_id).data.tags)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def set_missing_tags(self, tags: Mapping[str, str]) -> None:
        """Set those tags that the run lacks."""
        known = self.tags()
        self.set_tags({name: value for name, value in tags.items() if name not in known})

    def end(self, status: str, time_ms: int | None = None) -> None:
        """Say how the run ended: `FINISHED`, `FAILED`, or `KILLED` for one that goes on."""
        self.client.set_terminated(self.run_id, status, time_ms)


def now_ms() -> int:
    """The time as MLflow writes it."""
    return time.time_ns() // 1_000_000
