"""The runs that hold comparisons of networks: one for each choice of members."""

from collections.abc import Sequence
from pathlib import Path

from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE, MLFLOW_SOURCE_NAME

from fvc.files import sha256_of
from fvc.tracking.open_run import OpenRun
from fvc.tracking.store import find_runs

KIND = "comparison"


def log_comparison(
    members: Sequence[Sequence[str]],
    name: str,
    note: str,
    files: Sequence[Path],
) -> str:
    """Keep a comparison in the run of its members; the same ones again have the same run.

    Args:
        members: The ids of the runs behind each row, the first one first. The run goes to the
            experiment of that one.
        name: Of a new run.
        note: What its page says first, in Markdown.
        files: The comparison; those of an earlier one are replaced.

    Returns:
        The id of the run.
    """
    client = MlflowClient()
    key = sha256_of([list(runs) for runs in members])
    tags = {"fvc.kind": KIND, "fvc.members_sha256": key}
    found = find_runs(client, tags)
    if found:
        run_id = found[0].info.run_id
    else:
        experiment = client.get_run(members[0][0]).info.experiment_id
        own = {**tags, MLFLOW_SOURCE_NAME: "fvc compare"}
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
