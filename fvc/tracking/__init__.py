"""The only door to MLflow runs: one run per fold, below one run per cross-validation."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import mlflow
import polars as pl
from mlflow.data.polars_dataset import from_polars
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.git_utils import get_git_commit
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_GIT_DIRTY,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
)

from fvc.config import Params, flat
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.tracking.answers import REFUSALS, is_away, reason, store_name
from fvc.tracking.changes import changed_params, differs_from_commit, named_after
from fvc.tracking.notes import FOLD_NOTE, linked_files, note_with_links, run_route, ui_address
from fvc.tracking.open_run import OpenRun
from fvc.tracking.store import (
    PARENT_VARIABLE,
    connect,
    experiment_id,
    experiment_of,
    find_runs,
    given_parent,
    may_go_on,
    working_copy,
)
from fvc.tracking.system_metrics import measured
from fvc.tracking.waiting import WaitingRun, no_retries, send_waiting, waiting_run

TRAINING_SECTIONS = ("seed", "augment", "clips", "model", "split", "train")
"""The parameters that a trained network depends on."""

TOLD_SECTIONS = (*TRAINING_SECTIONS, "engine", "loader")
"""Those and the ones that decide how fast it was trained, as the run has them."""

MADE_UP_NAME = re.compile(r"[a-z]+-[a-z]+-[0-9]+")
"""What MLflow calls a run that nobody named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What a training result depends on; equal identities give equal weights on one machine."""

    params: Params
    data_sha256: str
    """Of the ids, contents and labels of the videos behind the clips."""
    folds_sha256: str
    """Of the fold assignment, as `fvc export_folds` publishes it."""

    @property
    def params_sha256(self) -> str:
        """Of the parameters that training depends on."""
        values = asdict(self.params) | {"clips": self.params.clips.pixel_settings()}
        return sha256_of({section: values[section] for section in TRAINING_SECTIONS})

    @property
    def cv_key(self) -> str:
        """Names the cross-validation that folds with this identity belong to."""
        return sha256_of([self.params_sha256, self.data_sha256, self.folds_sha256])

    def flat_params(self) -> dict[str, Any]:
        """The parameters that a training was made with, by dotted names: `train.learning_rate`."""
        values = asdict(self.params)
        settings = flat({section: values[section] for section in TOLD_SECTIONS})
        return {
            name: json.dumps(value) if isinstance(value, list) else value
            for name, value in settings.items()
        }

    def tags(self) -> dict[str, str]:
        """The tags that every run of this identity carries."""
        root = working_copy()
        lock = root / "dvc.lock" if root else None
        return {
            "fvc.network": self.params.model.network,
            "fvc.params_sha256": self.params_sha256,
            "fvc.data_sha256": self.data_sha256,
            "fvc.folds_sha256": self.folds_sha256,
            "fvc.cv_key": self.cv_key,
            "fvc.dvc_lock": sha256_of_file(lock) if lock and lock.is_file() else "none",
            "fvc.experiment": os.environ.get("DVC_EXP_NAME", "none"),
            "fvc.changed": changed_params(self.params),
        }


def require_store() -> None:
    """Ask the store for the experiment, so that one that is away is known before the work.

    Raises:
        FvcError: The experiment was deleted, or no store is known.
    """
    experiment_id(connect())


def cross_validation_run(client: MlflowClient, identity: Identity) -> str:
    """Find or create the run above the folds of one cross-validation; returns its id."""
    tags = {**identity.tags(), **git_commit(), "fvc.kind": "cross-validation"}
    if given := given_parent(client):
        OpenRun(client, given.info.run_id).set_tags(tags)
        return given.info.run_id
    known = {"fvc.kind": "cross-validation", "fvc.cv_key": identity.cv_key}
    if found := find_runs(client, known):
        return found[0].info.run_id
    network = identity.params.model.network
    name = os.environ.get("DVC_EXP_NAME") or f"{network} {identity.cv_key[:7]}"
    name = named_after(name, tags["fvc.changed"])
    tags = resolve_tags({**tags, MLFLOW_SOURCE_NAME: "dvc repro"})
    run_id = client.create_run(experiment_id(client), tags=tags, run_name=name).info.run_id
    # Folds that started at once may each have made one: all take the oldest.
    oldest = find_runs(client, known)[0].info.run_id
    if oldest != run_id:
        client.delete_run(run_id)
        return oldest
    OpenRun(client, run_id).log_params(identity.flat_params())
    return run_id


@contextmanager
def fold_run(
    identity: Identity,
    fold: int,
    folds: pl.DataFrame,
    *,
    binding: str,
    runs: Path,
    alone: bool = False,
) -> Iterator[WaitingRun]:
    """Open the run of one fold, with system metrics, until the block ends.

    The block never waits for the store, and does not fail where it is away.

    Under `mlflow run -e train` it is the run that MLflow opened. Otherwise it
    is that of an earlier attempt at the same training, which a note in `runs`
    tells even where the store is away, or a new one, which the store has to make;
    a child of the cross-validation, unless it is `alone`.

    Args:
        identity: Of the cross-validation.
        fold: Which of its folds.
        folds: The FOLDS table, logged as the run's input.
        binding: What the training depends on, as a hash; attempts with
            another one get a run of their own.
        runs: Folder of the notes.
        alone: No cross-validation will be completed from it.
    """
    client = connect()
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        _name_after_fold(client, run_id, fold, changed_params(identity.params))
    else:
        run_id = _own_run(client, identity, fold, alone=alone, binding=binding, runs=runs)
    with waiting_run(client, run_id) as run, measured(run_id, run.log_measured):
        run.begin()
        _describe(run, identity, fold)
        run.log_dataset(dict(from_polars(folds, name="folds", targets="label")._to_mlflow_entity()))
        yield run


def _name_after_fold(client: MlflowClient, run_id: str, fold: int, changed: str) -> None:
    """Say which fold it is in a name that MLflow made up; one that a user gave stays."""
    name = client.get_run(run_id).info.run_name or ""
    if MADE_UP_NAME.fullmatch(name):
        client.update_run(run_id, name=named_after(f"fold {fold} {name}", changed))


def _own_run(
    client: MlflowClient,
    identity: Identity,
    fold: int,
    *,
    alone: bool,
    binding: str,
    runs: Path,
) -> str:
    """The run that an earlier attempt at this training left, or a new one."""
    note = runs / f"fold-{fold}.json"
    place = {"binding": binding, "store": store_name()}
    known = read_json(note, f"train@{fold}") if note.is_file() else {}
    if place.items() - known.items():
        known = {}
    try:
        # A run whose id is known needs no store to go on, so one that is away is not waited for.
        with no_retries() if "run_id" in known else nullcontext():
            parent = None if alone else cross_validation_run(client, identity)
            run_id = _earlier_run(client, known, parent)
    except REFUSALS as error:
        if "run_id" not in known or not is_away(error):
            raise
        run_id = str(known["run_id"])
        sys.stderr.write(f"warning: {reason(error)}; fold {fold} goes on in its run {run_id}\n")
        return run_id
    if run_id is None:
        # The note comes first: killed in between, the next attempt finds the run by it.
        known = {"attempt": uuid4().hex, **place}
        write_json(note, known)
        run_id = _new_run(client, identity, fold, parent, {"fvc.attempt": known["attempt"]})
    write_json(note, {**known, "run_id": run_id})
    return run_id


def _earlier_run(client: MlflowClient, known: Mapping[str, str], parent: str | None) -> str | None:
    """The run that a note tells of, now a child of the parent; None where it may not go on."""
    found = find_runs(client, {"fvc.attempt": known["attempt"]}) if known else []
    if not found or not may_go_on(client, found[0], parent):
        return None
    if parent:
        client.set_tag(found[0].info.run_id, MLFLOW_PARENT_RUN_ID, parent)
    return found[0].info.run_id


def _new_run(
    client: MlflowClient,
    identity: Identity,
    fold: int,
    parent: str | None,
    tags: Mapping[str, str],
) -> str:
    above = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
    # So that what waits for it on disk is known to be this cross-validation's.
    key = {"fvc.cv_key": identity.cv_key}
    own = resolve_tags({**above, **key, MLFLOW_SOURCE_NAME: "fvc train", **tags})
    name = named_after(f"fold {fold}", changed_params(identity.params))
    experiment = experiment_of(client, parent)
    return client.create_run(experiment, tags=own, run_name=name).info.run_id


def _describe(run: OpenRun, identity: Identity, fold: int) -> None:
    run.log_params({**identity.flat_params(), "fold": fold})
    kind = {"fvc.kind": "fold", "fvc.fold": str(fold)}
    run.set_tags({**identity.tags(), **git_commit(), **kind})
    # What a user has written there stays.
    run.set_missing_tags({MLFLOW_RUN_NOTE: FOLD_NOTE})


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
    rebuilt from the outputs and tagged `fvc.restored`. The run's copies of pages
    link to the runs of the folds, and so does its note; the files themselves hold
    no ids.

    Args:
        identity: Of the cross-validation.
        outputs: Of each fold.
        results: The final metrics of the cross-validation.
        evidence: Folder whose files are stored with the run.
        note: What the run's page says first, in Markdown.
    """
    client = connect()
    send_waiting(client, identity.cv_key)
    parent = cross_validation_run(client, identity)
    trained = {fold.fold: _fold_run(client, parent, identity, fold) for fold in outputs}
    run = OpenRun(client, parent)
    routes = {fold: run_route(experiment_of(client, own), own) for fold, own in trained.items()}
    run.log_params(identity.flat_params())
    run.log_results(results)
    decided = json.dumps(asdict(identity.params.evaluate))
    run.set_tags({"fvc.evaluate": decided, MLFLOW_RUN_NOTE: note_with_links(note, routes)})
    base = ui_address(mlflow.get_tracking_uri())
    addresses = {fold.weights_sha256: f"{base}/{routes[fold.fold]}" for fold in outputs}
    with TemporaryDirectory() as scratch:
        run.replace_files(linked_files(evidence, addresses, Path(scratch)))
    if parent != os.environ.get(PARENT_VARIABLE):
        client.set_terminated(parent)


def _fold_run(client: MlflowClient, parent: str, identity: Identity, fold: FoldOutputs) -> str:
    """The finished run of a fold below the parent, the oldest of several; rebuilt if missing."""
    known = {"fvc.weights_sha256": fold.weights_sha256, MLFLOW_PARENT_RUN_ID: parent}
    found = find_runs(client, known)
    finished = [run.info.run_id for run in found if run.info.status == "FINISHED"]
    if finished:
        return finished[0]
    begun = [run.info.run_id for run in found if "fvc.restored" in run.data.tags]
    return _restore(client, parent, identity, fold, begun)


def _restore(
    client: MlflowClient,
    parent: str,
    identity: Identity,
    fold: FoldOutputs,
    begun: Sequence[str],
) -> str:
    """Rebuild a run, going on with one that an earlier attempt has begun."""
    tags = {"fvc.restored": "true", "fvc.weights_sha256": fold.weights_sha256}
    run_id = begun[0] if begun else _new_run(client, identity, fold.fold, parent, tags)
    run = OpenRun(client, run_id)
    _describe(run, identity, fold.fold)
    run.log_history(fold.history)
    run.log_results(fold.results)
    for source in fold.files:
        run.log_file(source)
    client.set_terminated(run_id)
    return run_id


def trained_by(client: MlflowClient, weights_sha256: str) -> str | None:
    """The oldest finished run of a fold that ended with these weights."""
    found = find_runs(client, {"fvc.weights_sha256": weights_sha256, "fvc.kind": "fold"})
    finished = [run for run in found if run.info.status == "FINISHED"]
    return finished[0].info.run_id if finished else None


def git_commit() -> dict[str, str]:
    """The tags that tell the commit of the working copy, where there is one."""
    root = working_copy()
    commit = get_git_commit(str(root)) if root else None
    if root is None or commit is None:
        return {}
    return {MLFLOW_GIT_COMMIT: commit, MLFLOW_GIT_DIRTY: str(differs_from_commit(root)).lower()}
