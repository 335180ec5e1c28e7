"""Register the best fold's network, score it on the locked test, decide whether it may serve."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from fvc.clip_files import read_key
from fvc.config import Params, load_params
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration, judge
from fvc.evidence.metrics import Outcomes, estimate
from fvc.evidence.paired import paired
from fvc.evidence.promotion import Decision, Evidence, decide, model_card
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.fold_videos import LABELS, video_clips
from fvc.networks import WEIGHTS, ClipClassifier, load_network, read_description
from fvc.predict import probability_fake, video_logits
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, PREDICTIONS
from fvc.seeding import generator_for
from fvc.tracking.store import connect
from fvc.validation import validation_series

NAME = "fvc"
LOCKED = "locked.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The network that is to be registered."""

    fold: int
    folder: Path
    """Its weights and description."""
    calibration: Calibration
    videos: pl.DataFrame
    """The locked test: `video_id`, `label`, `group` and the key of the clips."""

    @property
    def weights_sha256(self) -> str:
        """Of the weights file."""
        return sha256_of_file(self.folder / WEIGHTS)

    @property
    def key(self) -> str:
        """Equal for equal candidates: a second registration finds the first one's version."""
        return sha256_of([self.weights_sha256, self.calibration.as_dict(), self.videos.rows()])


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


def locked_videos(folds: pl.DataFrame, clips: Path) -> pl.DataFrame:
    """The videos of the locked test, each with the key of its clips."""
    rows = folds.filter(part="locked").sort("video_id").select("video_id", "label", "group")
    keys = [read_key(clips / f"{video_id}.pt") for video_id in rows["video_id"]]
    return rows.with_columns(clips_key=pl.Series(keys, dtype=pl.String))


def score_locked(network: ClipClassifier, videos: pl.DataFrame, clips: Path) -> pl.DataFrame:
    """Add what a network says to every video of the locked test."""
    pixels = list(video_clips(videos["video_id"], clips))
    logits = video_logits(network, pixels)
    return videos.with_columns(
        probability_fake=pl.Series([probability_fake(float(logit)) for logit in logits]),
        logit=pl.Series(logits),
        num_clips=pl.Series([len(own) for own in pixels], dtype=pl.Int64),
    )


def outcomes_of(locked: pl.DataFrame, calibration: Calibration) -> Outcomes:
    """The calibrated verdicts on the locked test."""
    return judge(
        calibration,
        locked["logit"].to_numpy(),
        is_fake=(locked["label"] == "fake").to_numpy(),
        groups=locked["group"].to_numpy(),
    )


def locked_scores(
    locked: pl.DataFrame, calibration: Calibration, params: Params
) -> dict[str, dict[str, Any]]:
    """Every measure of a network on the locked test, with intervals."""
    found = estimate(
        outcomes_of(locked, calibration),
        per_group=False,
        config=params.evaluate,
        generator=generator_for(params.seed, "locked"),
    )
    return {name: measured.as_dict() for name, measured in found.items()}


@contextmanager
def stored(number: str) -> Iterator[Path]:
    """The files that a version was registered with, until the block ends."""
    with TemporaryDirectory() as scratch:
        local = mlflow.artifacts.download_artifacts(f"models:/{NAME}/{number}", dst_path=scratch)
        yield Path(local) / "artifacts" / "network"


def gain_over(
    opponent: ModelVersion, candidate: Candidate, locked: pl.DataFrame, clips: Path, params: Params
) -> float | None:
    """Upper end of the interval of the candidate's ROC-AUC minus the opponent's.

    The opponent's stored scores are used where they are of the same locked
    test; of another one, it is scored anew. None where its network cannot see
    these clips or the difference is undefined.
    """
    with stored(str(opponent.version)) as folder:
        # As plain values: another version of this code may have registered the opponent.
        settings = read_json(folder / serving.SETTINGS, "register")
        calibration = Calibration.from_dict(settings["calibration"])
        theirs = pl.read_parquet(folder / LOCKED)
        known = theirs.select(c for c in candidate.videos.columns if c in theirs.columns)
        if not known.equals(candidate.videos):
            ours = read_description(candidate.folder)[1].pixel_settings()
            if any(settings["clips"].get(name) != value for name, value in ours.items()):
                return None
            theirs = score_locked(load_network(folder), candidate.videos, clips)
    compared = paired(
        outcomes_of(theirs, calibration),
        outcomes_of(locked, candidate.calibration),
        per_group=False,
        config=params.evaluate,
        generator=generator_for(params.seed, "gain"),
    )
    return compared["roc_auc"].gain.high


def log_candidate(candidate: Candidate, locked: pl.DataFrame, run_id: str, max_mib: float) -> str:
    """Store the model, and what it said of the locked test, as a new version."""
    settings = serving.Settings(
        clips=read_description(candidate.folder)[1],
        calibration=candidate.calibration,
        max_mib=max_mib,
    )
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / LOCKED
        locked.write_parquet(target)
        return serving.log_model(
            NAME,
            candidate.folder,
            settings,
            [target],
            run_id=run_id,
            tags={"fvc.candidate": candidate.key},
        )


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
    fold = best_fold(models, params.split.folds)
    calibrations = read_json(evaluation / "calibration.json", "evaluate")
    table = FOLDS.read(folds)
    candidate = Candidate(
        fold=fold,
        folder=models / str(fold),
        calibration=Calibration.from_dict(calibrations[str(fold)]),
        videos=locked_videos(table, clips),
    )
    identity = tracking.Identity(
        params=params,
        data_sha256=read_json(clips_summary, "clips")["data_sha256"],
        folds_sha256=folds_sha256(table),
    )
    client = connect()
    number, locked = version_of(client, candidate, clips, params.serving.max_mib)
    champion = champion_of(client)
    # A store gives the number as a text or as an integer.
    if champion is not None and str(champion.version) == number:
        decision = Decision.from_dict(json.loads(champion.tags["fvc.decision"]))
    else:
        gain = None if champion is None else gain_over(champion, candidate, locked, clips, params)
        decision = decide(evidence_of(evaluation, champion, gain))
    scores = locked_scores(locked, candidate.calibration, params)
    describe(client, number, candidate, decision, scores, identity, evaluation)
    move_aliases(client, number, decision)
    write_json(summary, {"fold": fold, "locked": scores, **decision.as_dict()})
    sys.stderr.write("".join(f"register: {reason}\n" for reason in decision.reasons))
    report = evaluation / "report.html"
    sys.stderr.write(f"register: fold {fold} {decision.outcome}; the evidence is in {report}\n")


def version_of(
    client: MlflowClient, candidate: Candidate, clips: Path, max_mib: float
) -> tuple[str, pl.DataFrame]:
    """The candidate's version and its locked scores; scored and stored if it is new.

    Raises:
        FvcError: The run that trained it is not in the store.
    """
    if known := find_version(client, candidate.key):
        with stored(str(known.version)) as folder:
            return str(known.version), pl.read_parquet(folder / LOCKED)
    run_id = tracking.trained_by(client, candidate.weights_sha256)
    if run_id is None:
        cause = "its run is not in the MLflow store"
        raise FvcError(candidate.folder, cause, "Run 'dvc repro -f -s evaluate'")
    locked = score_locked(load_network(candidate.folder), candidate.videos, clips)
    return log_candidate(candidate, locked, run_id, max_mib), locked


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
        "fvc.evidence.promotion": decision.promotion,
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
