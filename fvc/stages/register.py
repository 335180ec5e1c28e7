"""Register the best fold's network, score it on the locked test, decide whether it may serve."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import polars as pl
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fvc import serving, tracking
from fvc.calibration import Calibration, judge
from fvc.config import Params, load_params
from fvc.dataset import LABELS, video_clips
from fvc.diagnostics import validation_series
from fvc.errors import FvcError
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.metrics import Outcomes, estimate, roc_auc_gain
from fvc.networks import WEIGHTS, ClipClassifier, load_network, read_description
from fvc.predict import probability_fake, video_logits
from fvc.promotion import Decision, Evidence, decide, model_card
from fvc.records import FOLDS, PREDICTIONS
from fvc.seeding import generator_for

NAME = "fvc"
LOCKED = "locked.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The network that is to be registered, and what it said of the locked test."""

    fold: int
    folder: Path
    """Its weights and description."""
    calibration: Calibration
    locked: pl.DataFrame
    """PREDICTIONS with `part` locked, plus the videos' groups."""
    weights_sha256: str

    @property
    def key(self) -> str:
        """Equal for equal candidates: a second registration finds the first one's version."""
        videos = self.locked["video_id"].to_list()
        return sha256_of([self.weights_sha256, self.calibration.as_dict(), videos])


def best_fold(models: Path, folds: Sequence[int]) -> int:
    """The fold whose network ranks its own validation videos best, by ROC-AUC.

    Networks whose validation videos are all of one class come last; of equal
    ones the lowest fold is taken. Test videos play no part.
    """

    def score(fold: int) -> float:
        predictions = PREDICTIONS.read(models / str(fold) / "predictions.parquet")
        rows = predictions.filter(part="validation")
        labels = np.array([LABELS[label] for label in rows["label"]])
        series = validation_series(rows["logit"].to_numpy(), labels)
        return series.get("validation/roc_auc", -1.0)

    return max(folds, key=lambda fold: (score(fold), -fold))


def score_locked(network: ClipClassifier, folds: pl.DataFrame, clips: Path) -> pl.DataFrame:
    """What a network says of every video of the locked test, with the videos' groups."""
    rows = folds.filter(part="locked").sort("video_id")
    videos = list(video_clips(rows["video_id"], clips))
    logits = video_logits(network, videos)
    return rows.select(
        "video_id",
        fold=pl.lit(None, pl.Int64),
        part=pl.lit("locked"),
        label="label",
        probability_fake=pl.Series([probability_fake(float(logit)) for logit in logits]),
        logit=pl.Series(logits),
        num_clips=pl.Series([len(pixels) for pixels in videos], dtype=pl.Int64),
        group="group",
    )


def outcomes_of(locked: pl.DataFrame, calibration: Calibration) -> Outcomes:
    """The calibrated verdicts on the locked test."""
    return judge(
        calibration,
        locked["logit"].to_numpy(),
        is_fake=(locked["label"] == "fake").to_numpy(),
        groups=locked["group"].to_numpy(),
    )


def locked_scores(candidate: Candidate, params: Params) -> dict[str, dict[str, Any]]:
    """Every measure of the candidate on the locked test, with intervals."""
    found = estimate(
        outcomes_of(candidate.locked, candidate.calibration),
        per_group=False,
        config=params.evaluate,
        generator=generator_for(params.seed, "locked"),
    )
    return {name: measured.as_dict() for name, measured in found.items()}


def gain_over(
    opponent: ModelVersion, candidate: Candidate, folds: pl.DataFrame, clips: Path, params: Params
) -> float | None:
    """Upper end of the interval of the candidate's ROC-AUC minus the opponent's.

    The opponent's stored scores are used where they are of the same locked
    test; of another one, it is scored anew. None where its network cannot see
    these clips or the difference is undefined.
    """
    source = f"models:/{NAME}/{opponent.version}"
    with TemporaryDirectory() as scratch:
        local = Path(mlflow.artifacts.download_artifacts(source, dst_path=scratch))
        folder = local / "artifacts" / "network"
        calibration = serving.Settings.read(folder).calibration
        locked = pl.read_parquet(folder / LOCKED)
        if locked["video_id"].to_list() != candidate.locked["video_id"].to_list():
            if read_description(folder)[1] != read_description(candidate.folder)[1]:
                return None
            locked = score_locked(load_network(folder), folds, clips)
    return roc_auc_gain(
        outcomes_of(candidate.locked, candidate.calibration),
        outcomes_of(locked, calibration),
        config=params.evaluate,
        generator=generator_for(params.seed, "gain"),
    ).high


def log_candidate(candidate: Candidate, run_id: str, max_mib: float) -> ModelVersion:
    """Store the model, and what it said of the locked test, as a new version."""
    settings = serving.Settings(
        clips=read_description(candidate.folder)[1],
        calibration=candidate.calibration,
        max_mib=max_mib,
    )
    with TemporaryDirectory() as scratch:
        locked = Path(scratch) / LOCKED
        candidate.locked.write_parquet(locked)
        number = serving.log_model(NAME, candidate.folder, settings, [locked], run_id=run_id)
    return MlflowClient().get_model_version(NAME, number)


def find_version(client: MlflowClient, key: str) -> ModelVersion | None:
    """The version that an earlier registration of the same candidate made."""
    found = client.search_model_versions(f"name = '{NAME}' and tags.`fvc.candidate` = '{key}'")
    return found[0] if found else None


def champion_of(client: MlflowClient) -> ModelVersion | None:
    """The version in service."""
    try:
        return client.get_model_version_by_alias(NAME, "champion")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def run(
    params: Params,
    *,
    models: Path,
    evaluation: Path,
    clips: Path,
    clips_summary: Path,
    folds: Path,
    summary: Path,
) -> None:
    """Register one candidate; killed and started again, it goes on with the same version.

    Raises:
        FvcError: An input is missing, or the fold's run is not in the store.
    """
    table = FOLDS.read(folds)
    fold = best_fold(models, params.split.folds)
    folder = models / str(fold)
    calibrations = read_json(evaluation / "calibration.json", "evaluate")
    candidate = Candidate(
        fold=fold,
        folder=folder,
        calibration=Calibration.from_dict(calibrations[str(fold)]),
        locked=score_locked(load_network(folder), table, clips),
        weights_sha256=sha256_of_file(folder / WEIGHTS),
    )
    identity = tracking.Identity(
        params=params,
        data_sha256=read_json(clips_summary, "clips")["data_sha256"],
        folds_sha256=sha256_of_file(folds),
    )
    client = tracking.connect()
    registered = find_version(client, candidate.key)
    if registered is None:
        run_id = source_run(client, identity, candidate)
        registered = log_candidate(candidate, run_id, params.serving.max_mib)
        client.set_model_version_tag(NAME, registered.version, "fvc.candidate", candidate.key)
    # A store gives the number as a text or as an integer.
    number = str(registered.version)
    champion = champion_of(client)
    if champion is not None and str(champion.version) == number:
        decision = Decision.from_dict(json.loads(champion.tags["fvc.decision"]))
    else:
        gain = None if champion is None else gain_over(champion, candidate, table, clips, params)
        decision = decide(evidence_of(evaluation, champion, gain))
    scores = locked_scores(candidate, params)
    describe(client, number, candidate, decision, scores, identity, evaluation)
    move_aliases(client, number, decision)
    write_json(summary, {"fold": fold, "locked": scores, **decision.as_dict()})
    sys.stderr.write("".join(f"register: {reason}\n" for reason in decision.reasons))


def source_run(client: MlflowClient, identity: tracking.Identity, candidate: Candidate) -> str:
    """The run that trained the candidate.

    Raises:
        FvcError: It is not in the store.
    """
    parent = tracking.cross_validation_run(client, identity)
    run_id = tracking.finished_fold_run(client, parent, candidate.weights_sha256)
    if run_id is None:
        cause = "its run is not in the MLflow store"
        raise FvcError(candidate.folder, cause, "Run 'dvc repro --force evaluate'")
    return run_id


def evidence_of(evaluation: Path, champion: ModelVersion | None, gain: float | None) -> Evidence:
    """What the gate weighs, from what evaluate wrote."""
    metrics = read_json(evaluation / "metrics.json", "evaluate")
    return Evidence(
        leaks=metrics["leaks"],
        roc_auc_low=metrics["video"]["roc_auc"]["low"],
        best_probe=metrics["best_probe"],
        best_probe_roc_auc=metrics["best_probe_roc_auc"],
        opponent=None if champion is None else f"version {champion.version}",
        gain_high=gain,
    )


def describe(
    client: MlflowClient,
    number: str,
    candidate: Candidate,
    decision: Decision,
    scores: Mapping[str, Mapping[str, Any]],
    identity: tracking.Identity,
    evaluation: Path,
) -> None:
    """Give the version its tags and its model card."""
    metrics = read_json(evaluation / "metrics.json", "evaluate")["video"]
    tags = {
        **identity.tags(),
        **tracking.git_commit(),
        "fvc.fold": str(candidate.fold),
        "fvc.weights_sha256": candidate.weights_sha256,
        "fvc.promotion": decision.promotion,
        "fvc.beats_probes": str(decision.beats_probes).lower(),
        "fvc.locked_roc_auc": str(scores["roc_auc"]["value"]),
        "fvc.decision": json.dumps(decision.as_dict()),
    }
    for key, value in tags.items():
        client.set_model_version_tag(NAME, number, key, value)
    named = ("network", "data_sha256", "folds_sha256", "params_sha256")
    card = model_card(
        decision,
        headline=headline(metrics),
        locked=headline(scores),
        data={name: tags[f"fvc.{name}"] for name in named},
    )
    client.update_model_version(NAME, number, description=card)


def headline(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """ROC-AUC and macro-F1 with their intervals, in a line."""
    texts = []
    for name, label in (("roc_auc", "ROC-AUC"), ("macro_f1", "macro-F1")):
        value, low, high = (scores[name][part] for part in ("value", "low", "high"))
        known = "unknown" if value is None else f"{value:.3f}"
        texts.append(f"{label} {known}" + ("" if low is None else f" ({low:.3f} to {high:.3f})"))
    return ", ".join(texts)


def move_aliases(client: MlflowClient, number: str, decision: Decision) -> None:
    """Every candidate is the challenger; one that the gate let through is the champion."""
    client.set_registered_model_alias(NAME, "challenger", number)
    if decision.promotion != "refused":
        client.set_registered_model_alias(NAME, "champion", number)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc register", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--models", type=Path, required=True, help="read: a folder per fold")
    parser.add_argument("--evaluation", type=Path, required=True, help="read: the evidence")
    parser.add_argument("--clips", type=Path, required=True, help="read: clips of every video")
    parser.add_argument("--clips-summary", type=Path, required=True, help="read: what they are of")
    parser.add_argument("--folds", type=Path, required=True, help="read: which videos are locked")
    parser.add_argument("--summary", type=Path, required=True, help="written: the decision")
    args = vars(parser.parse_args(argv))
    run(load_params(args.pop("params")), **args)
