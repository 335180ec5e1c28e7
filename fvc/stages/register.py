"""Register the best fold's network, score it on the locked test, decide whether it may serve."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient

from fvc import tracking
from fvc.config import Params, ServingConfig, load_params
from fvc.errors import FvcError
from fvc.evidence import locked
from fvc.evidence.calibration import Calibration
from fvc.evidence.metrics import Estimate, Outcomes, estimate
from fvc.evidence.paired import paired
from fvc.evidence.promotion import Decision, Evidence, Opponent, decide, stay
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.fold_videos import LABELS
from fvc.networks import WEIGHTS, load_network, read_description
from fvc.networks.ensemble import weights_sha256
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX, PREDICTIONS, part_in
from fvc.report.model_card import Facts, Measured, model_card
from fvc.seeding import generator_for
from fvc.serving.packaging import log_model
from fvc.serving.settings import SETTINGS, Settings
from fvc.tracking import registry
from fvc.tracking.store import connect
from fvc.validation import validation_series

WEIGHED = "fvc.weighed"
"""Tag of a version whose aliases have moved: what it was weighed with. There, a decision stands."""

RISK_COVERAGE = "risk_coverage.csv"
"""The file of a version with how its errors on its fold's test fall the less it answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """The network that is to be registered."""

    fold: int
    folder: Path
    """Its weights and description."""
    calibration: Calibration
    limits: ServingConfig
    """What it is to refuse when it serves."""
    videos: pl.DataFrame
    """The locked test, as `locked_videos` gives it."""

    @property
    def weights_sha256(self) -> str:
        """Of the weights file."""
        return sha256_of_file(self.folder / WEIGHTS)

    @property
    def key(self) -> str:
        """Equal for equal candidates: a second registration finds the first one's version."""
        rows = self.videos.select("video_id", "label", "group", "clips_key").rows()
        settings = [self.calibration.as_dict(), asdict(self.limits)]
        return sha256_of([self.weights_sha256, *settings, rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """All that there is to say about a candidate, whoever is in service."""

    candidate: Candidate
    places: locked.Places
    num_training: int
    """Videos that it was trained on."""
    metrics: Mapping[str, Any]
    """What evaluate found."""
    slices: Sequence[Mapping[str, Any]]
    """Where it found what."""
    risk_coverage: pl.DataFrame
    """How errors fall the less is answered, by `fold`; its own is kept with the version."""
    identity: tracking.Identity

    def outcomes(self, logits: Float[np.ndarray, "V"], calibration: Calibration) -> Outcomes:
        """Calibrated verdicts on the locked test."""
        return locked.outcomes_of(self.candidate.videos, logits, calibration)


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


def compare(
    client: MlflowClient, champion: ModelVersion, case: Case, scored: pl.DataFrame
) -> Opponent:
    """Measure the candidate against the champion on the locked test, video by video.

    The champion's stored scores are used where they are of the same videos; of
    another locked test, it is scored anew on this one.
    """
    number, candidate, params = registry.number_of(champion), case.candidate, case.identity.params
    with registry.stored(number) as folder:
        kept = pl.read_parquet(folder / locked.LOCKED)
        # As plain values: another version of this code may have registered it.
        settings = read_json(folder / SETTINGS, "register")
        try:
            calibration = Calibration.from_dict(settings["calibration"])
            logits = locked.kept_logits(kept, candidate.videos)
            if logits is None:
                network = locked.load_registered(folder)
                weights = weights_sha256(folder)
                registry.mark_read(client, locked.digest_of(candidate.videos), weights)
                logits = locked.logits_of(network, candidate.videos, case.places)
        except (locked.IncomparableError, ValueError) as error:
            gain = Estimate(value=None, reason=str(error))
        else:
            compared = paired(
                case.outcomes(logits, calibration),
                case.outcomes(scored["logit"].to_numpy(), candidate.calibration),
                per_group=False,
                config=params.evaluate,
                generator=generator_for(params.seed, "gain"),
            )
            gain = compared["roc_auc"].gain
    return Opponent(
        name=f"version {number}",
        gain_high=gain.high,
        unknown=gain.reason,
        perhaps_seen=locked.count_unlocked(kept, candidate.videos),
    )


def log_candidate(case: Case, scored: pl.DataFrame, run_id: str) -> str:
    """Store the model, what it said of the locked test, and how far to trust it, as a version."""
    candidate = case.candidate
    settings = Settings(
        clips=read_description(candidate.folder)[1],
        calibration=candidate.calibration,
        limits=candidate.limits,
    )
    with TemporaryDirectory() as scratch:
        target, curve = Path(scratch) / locked.LOCKED, Path(scratch) / RISK_COVERAGE
        scored.write_parquet(target)
        case.risk_coverage.filter(fold=candidate.fold).drop("fold").write_csv(curve)
        return log_model(
            registry.NAME,
            candidate.folder,
            settings,
            [target, curve],
            run_id=run_id,
            tags={registry.CANDIDATE: candidate.key},
        )


def candidate_of(params: Params, models: Path, evaluation: Path, videos: pl.DataFrame) -> Candidate:
    """The best fold's network, which the locked `videos` are to test."""
    fold = best_fold(models, params.split.folds)
    calibrations = read_json(evaluation / "calibration.json", "evaluate")
    return Candidate(
        fold=fold,
        folder=models / str(fold),
        calibration=Calibration.from_dict(calibrations[str(fold)]),
        limits=params.serving,
        videos=videos,
    )


def run(
    params: Params,
    *,
    models: Path,
    evaluation: Path,
    clips: Path,
    clips_summary: Path,
    videos: Path,
    index: Path,
    folds: Path,
    summary: Path,
) -> None:
    """Register one candidate; killed and started again, it goes on with the same version.

    Raises:
        FvcError: An input is missing, or the fold's run is not in the store.
    """
    table, known = FOLDS.read(folds), INDEX.read(index)
    candidate = candidate_of(params, models, evaluation, locked.locked_videos(table, known, clips))
    case = Case(
        candidate=candidate,
        places=locked.Places(
            clips=clips,
            sees=read_description(candidate.folder)[1],
            videos=videos,
            paths=dict(known.select("video_id", "path").rows()),
        ),
        num_training=table.filter(part_in(candidate.fold) == "train").height,
        metrics=read_json(evaluation / "metrics.json", "evaluate"),
        slices=read_json(evaluation / "slices.json", "evaluate"),
        risk_coverage=pl.read_csv(evaluation / "risk_coverage_by_fold.csv"),
        identity=tracking.Identity(
            params=params,
            data_sha256=read_json(clips_summary, "clips")["data_sha256"],
            folds_sha256=folds_sha256(table),
        ),
    )
    decision, found = enter(case)
    write_json(summary, {"fold": candidate.fold, **found, **decision.as_dict()})
    sys.stderr.write("".join(f"register: {reason}\n" for reason in decision.reasons))
    said = f"fold {candidate.fold} {decision.outcome}"
    sys.stderr.write(f"register: {said}; the evidence is in {evaluation / 'report.html'}\n")


def enter(case: Case) -> tuple[Decision, dict[str, Any]]:
    """Give the candidate a version, and decide whether it may serve.

    Returns:
        The decision, and what the locked test showed, for JSON.
    """
    client = connect()
    if stopped := registry.finish(client):
        sys.stderr.write(f"register: finished '{stopped.command}', which had been stopped\n")
    version, scored = version_of(client, case)
    measures = measure(case, scored)
    decision, readings = settle(client, version, case, scored, measures)
    return decision, {"locked": measures, "locked_readings": readings}


def version_of(client: MlflowClient, case: Case) -> tuple[ModelVersion, pl.DataFrame]:
    """The candidate's version and its locked scores; scored and stored if it is new.

    Raises:
        FvcError: The run that trained it is not in the store.
    """
    candidate = case.candidate
    if known := registry.find_version(client, candidate.key):
        number = registry.number_of(known)
        with registry.stored(number) as folder:
            return known, pl.read_parquet(folder / locked.LOCKED)
    run_id = tracking.trained_by(client, candidate.weights_sha256)
    if run_id is None:
        cause = "its run is not in the MLflow store"
        raise FvcError(candidate.folder, cause, "Run 'dvc repro -f -s evaluate'")
    network = load_network(candidate.folder)
    # Before the scores are known: who looks and goes away has looked.
    registry.mark_read(client, locked.digest_of(candidate.videos), candidate.weights_sha256)
    scored = candidate.videos.with_columns(
        logit=pl.Series(locked.logits_of(network, candidate.videos, case.places))
    )
    number = log_candidate(case, scored, run_id)
    return client.get_model_version(registry.NAME, number), scored


def measure(case: Case, scored: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Every measure of the candidate on the locked test with its interval, for JSON."""
    params = case.identity.params
    found = estimate(
        case.outcomes(scored["logit"].to_numpy(), case.candidate.calibration),
        per_group=False,
        config=params.evaluate,
        generator=generator_for(params.seed, "locked"),
    )
    return {name: measured.as_dict() for name, measured in found.items()}


def settle(
    client: MlflowClient,
    version: ModelVersion,
    case: Case,
    scored: pl.DataFrame,
    measures: Mapping[str, Mapping[str, Any]],
) -> tuple[Decision, int]:
    """Decide whether the version may serve, and move the aliases; give the decision again if made.

    A decision stands as long as evaluation finds the same of the version and
    some champion is in service: what a rollback undid is not done again. Another
    machine with the same store may promote while the two are compared; then the
    new champion is the one to be met.

    Returns:
        The decision, and how often the locked test had been read when it was made.
    """
    number, champion = registry.number_of(version), registry.version_of(client, "champion")
    evidence = evidence_of(case.metrics, version)
    made = version.tags.get("fvc.decision")
    decided = None if made is None else Decision.from_dict(json.loads(made))
    if champion is not None and decided and version.tags.get(WEIGHED) == evidence.own_sha256:
        sys.stderr.write("register: weighed before with the same evidence; nothing moves\n")
        return decided, int(version.tags["fvc.locked_readings"])
    while True:
        if champion is not None and registry.number_of(champion) == number and decided:
            decision = stay(decided, evidence)
        else:
            opponent = None if champion is None else compare(client, champion, case, scored)
            decision = decide(replace(evidence, opponent=opponent))
        readings = registry.count_readings(client, locked.digest_of(case.candidate.videos))
        describe(client, number, case, decision, measures, readings)
        met, champion = champion, registry.version_of(client, "champion")
        if registry.same_version(met, champion):
            break
        sys.stderr.write("register: the champion was replaced meanwhile; it meets the new one\n")
    aliases = {"challenger": number}
    if decision.promotion != "refused":
        aliases = registry.promotion(number, champion)
    tags = {number: {WEIGHED: evidence.own_sha256}}
    registry.make(client, registry.Change(command="register", aliases=aliases, tags=tags))
    return decision, readings


def evidence_of(metrics: Mapping[str, Any], version: ModelVersion) -> Evidence:
    """What the gate weighs, from what evaluate found; the champion is yet to be met."""
    return Evidence(
        leaks=metrics["leaks"],
        roc_auc_low=metrics["video"]["roc_auc"]["low"],
        best_probe=metrics["best_probe"],
        best_probe_roc_auc=metrics["best_probe_roc_auc"],
        withdrawn=version.tags.get(registry.WITHDRAWN) == "true",
        opponent=None,
    )


def describe(
    client: MlflowClient,
    number: str,
    case: Case,
    decision: Decision,
    measures: Mapping[str, Mapping[str, Any]],
    readings: int,
) -> None:
    """Give the version its tags and its model card."""
    candidate = case.candidate
    identity = {**case.identity.tags(), **tracking.git_commit()}
    tags = {
        **identity,
        "fvc.fold": str(candidate.fold),
        "fvc.weights_sha256": candidate.weights_sha256,
        "fvc.promotion": decision.promotion,
        "fvc.beats_probes": str(decision.beats_probes).lower(),
        "fvc.locked_roc_auc": str(measures["roc_auc"]["value"]),
        "fvc.locked_readings": str(readings),
        "fvc.decision": json.dumps(decision.as_dict()),
    }
    for key, value in tags.items():
        client.set_model_version_tag(registry.NAME, number, key, value)
    counts, videos = case.metrics["counts"], candidate.videos
    facts = Facts(
        decision=decision,
        out_of_fold=Measured(
            num_videos=counts["videos"],
            num_groups=counts["groups"],
            measures=case.metrics["video"],
        ),
        locked=Measured(
            num_videos=videos.height, num_groups=videos["group"].n_unique(), measures=measures
        ),
        readings=readings,
        slices=case.slices,
        clips=case.places.sees,
        num_training=case.num_training,
        num_validation=candidate.calibration.num_real + candidate.calibration.num_fake,
        fold=candidate.fold,
        confidence=case.identity.params.evaluate.confidence,
        identity={**identity, "fvc.weights_sha256": candidate.weights_sha256},
    )
    client.update_model_version(registry.NAME, number, description=model_card(facts))


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc register", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--models", type=Path, required=True, help="read: a folder per fold")
    parser.add_argument("--evaluation", type=Path, required=True, help="read: the evidence")
    parser.add_argument("--clips", type=Path, required=True, help="read: clips of every video")
    parser.add_argument("--clips-summary", type=Path, required=True, help="read: what they are of")
    parser.add_argument("--videos", type=Path, required=True, help="read: the video files")
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--folds", type=Path, required=True, help="read: which videos are locked")
    parser.add_argument("--summary", type=Path, required=True, help="written: the decision")
    args = vars(parser.parse_args(argv))
    run(load_params(args.pop("params")), **args)
