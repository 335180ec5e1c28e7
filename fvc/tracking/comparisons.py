"""The runs that are of several cross-validations: comparisons and ensembles of them."""

from collections.abc import Sequence
from pathlib import Path

from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME

from fvc.files import sha256_of
from fvc.tracking.open_run import OpenRun
from fvc.tracking.store import find_runs

COMPARISON, ENSEMBLE = "comparison", "ensemble"
"""What the tag `fvc.kind` says of them."""

COMMANDS = {COMPARISON: "fvc compare", ENSEMBLE: "fvc ensemble"}
"""What makes them."""


def log_together(
    kind: str,
    members: Sequence[Sequence[str]],
    name: str,
    note: str,
    files: Sequence[Path],
) -> str:
    """Keep what is of several cross-validations; the same ones again have the same run.

    Args:
        kind: COMPARISON or ENSEMBLE.
        members: The ids of the runs behind each row, the first one first. The run goes to the
            experiment of that one.
        name: Of a new run.
        note: What its page says first, in Markdown.
        files: Those of an earlier attempt are replaced.

    Returns:
        The id of the run.
    """
    client = MlflowClient()
    key = sha256_of([list(runs) for runs in members])
    tags = {"fvc.kind": kind, "fvc.members_sha256": key}
    found = find_runs(client, tags)
    if found:
        run_id = found[0].info.run_id
    else:
        experiment = client.get_run(members[0][0]).info.experiment_id
        own = {**tags, MLFLOW_SOURCE_NAME: COMMANDS[kind]}
        run_id = client.create_run(experiment, tags=own, run_name=name).info.run_id
    run = OpenRun(client, run_id)
    run.set_tags(
        {
            MLFLOW_RUN_NOTE: note,
            "fvc.members": " ".join("+".join(runs) for runs in members),
        }
    )
    for source in files:
        run.log_file(source)
    client.set_terminated(run_id)
    return run_id
