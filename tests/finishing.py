"""Finished cross-validations of two folds with made scores, as evaluate would have left them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from mlflow.tracking import MlflowClient
from outcomes import CALIBRATION
from scipy.special import expit
from source_tree import ROOT

from fvc import tracking
from fvc.config import Params, load_params
from fvc.files import write_json
from fvc.records import OUT_OF_FOLD, PREDICTIONS

PARAMS = load_params(ROOT / "params.yaml")
PARAMS = replace(
    PARAMS,
    clips=replace(PARAMS.clips, num_frames=4, side_px=16),
    model=replace(PARAMS.model, head="linear"),
    evaluate=replace(PARAMS.evaluate, bootstrap_samples=100),
    split=replace(PARAMS.split, folds=(0, 1)),
)
NUM_VIDEOS = 40


def logits_of(separation: float, seed: int) -> list[float]:
    """One per video; every other one is fake."""
    generator = np.random.default_rng(seed)
    return [float(generator.normal(separation * (n % 2 - 0.5))) for n in range(NUM_VIDEOS)]


def table_of(logits: Sequence[float], temperature: float = 1.0) -> pl.DataFrame:
    """What evaluate writes of them: every video in a group of its own."""
    rows: list[dict[str, object]] = []
    for number, logit in enumerate(logits):
        probability = float(expit(logit / temperature))
        called = "fake" if probability >= 0.5 else "real"
        row = {"video_id": f"youtube_{number:02}", "fold": number // 2 % 2, "group": f"g{number}"}
        rows.append(
            {
                **row,
                "label": ("real", "fake")[number % 2],
                "probability_fake": probability,
                "called": called,
                "verdict": called,
            }
        )
    return OUT_OF_FOLD.frame(rows)


def predictions_of(logits: Sequence[float], fold: int) -> pl.DataFrame:
    """What the training of a fold leaves: tested on its own videos, validated on the others'."""
    rows: list[dict[str, object]] = [
        {
            "video_id": f"youtube_{number:02}",
            "fold": fold,
            "part": "test" if number // 2 % 2 == fold else "validation",
            "label": ("real", "fake")[number % 2],
            "probability_fake": float(expit(logit)),
            "logit": logit,
            "num_clips": 1,
        }
        for number, logit in enumerate(logits)
    ]
    return PREDICTIONS.frame(rows)


def finished(
    folder: Path,
    name: str,
    logits: Sequence[float],
    *,
    temperature: float = 1.0,
    history: Sequence[dict[str, float | int]] = (),
    params: Params = PARAMS,
    folds: str = "f",
    networks: Sequence[Sequence[Path]] = ((), ()),
) -> str:
    """The id of a cross-validation of two folds that evaluate has completed."""
    evaluation = folder / name / "evaluation"
    OUT_OF_FOLD.write(evaluation / "out_of_fold.csv", table_of(logits, temperature))
    calibration = replace(CALIBRATION, temperature=temperature, threshold=0.5)
    calibration = replace(calibration, abstain_low=0.5, abstain_high=0.5)
    write_json(evaluation / "calibration.json", dict.fromkeys("01", calibration.as_dict()))
    outputs = []
    for fold in (0, 1):
        written = folder / name / str(fold) / "predictions.parquet"
        PREDICTIONS.write(written, predictions_of(logits, fold))
        outputs.append(
            tracking.FoldOutputs(
                fold=fold,
                weights_sha256=f"{name}-{fold}",
                history=history,
                results={"test/roc_auc": 0.5},
                files=[written, *networks[fold]],
            )
        )
    # Its own learning rate tells it from the others.
    rate = 1e-6 * (1 + sum(map(ord, name)))
    own = replace(params, train=replace(params.train, learning_rate=rate))
    identity = tracking.Identity(params=own, data_sha256="d" * 64, folds_sha256=folds * 64)
    tracking.complete_cross_validation(identity, outputs, {}, evaluation, "note")
    client = MlflowClient()
    run_id = tracking.cross_validation_run(client, identity)
    client.update_run(run_id, name=name)
    return run_id
