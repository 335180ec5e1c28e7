"""All that is known of the networks of one cross-validation, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fvc.config import EvaluateConfig
from fvc.evidence.calibration import Calibration, calibrate, judge
from fvc.evidence.fold_outputs import Fold
from fvc.evidence.metrics import (
    DECIMALS,
    Estimate,
    Outcomes,
    confusion_matrix,
    estimate,
    measure,
    merge,
)
from fvc.evidence.probes import Probe, beats_probes, best_probe, probe_all
from fvc.evidence.slices import Slice, slice_all
from fvc.seeding import generator_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that is known of the networks of one cross-validation."""

    calibrations: Mapping[int, Calibration]
    tested: Mapping[int, Outcomes]
    """Of each fold's test videos."""
    pooled: Outcomes
    """Of all of them, fold by fold."""
    video: Mapping[str, Estimate]
    cascade: Mapping[str, Estimate]
    measured: Mapping[int, Mapping[str, float | None]]
    """Every measure of each fold."""
    probes: Mapping[str, Probe]
    slices: Sequence[Slice]


def weigh(
    folds: Mapping[int, Fold], index: pl.DataFrame, config: EvaluateConfig, seed: int
) -> Evidence:
    """Calibrate each fold on its validation videos and measure it on its test videos.

    Args:
        folds: What each left behind.
        index: The INDEX table, with what `read_pixel_facts` gives of the folds' videos.
        config: How.
        seed: The seed of params.yaml.
    """
    calibrations, tested = {}, {}
    for number, fold in folds.items():
        chosen, test = fold.part("validation"), fold.part("test")
        calibrations[number] = calibrate(
            chosen["logit"].to_numpy(),
            chosen["is_fake"].to_numpy(),
            criterion=config.threshold_criterion,
            target_error_rate=config.target_error_rate,
        )
        tested[number] = judge(
            calibrations[number],
            test["logit"].to_numpy(),
            is_fake=test["is_fake"].to_numpy(),
            groups=test["group"].to_numpy(),
        )
    pooled = merge(list(tested.values()))
    videos = described([fold.part("test") for fold in folds.values()], index)
    training = {number: described([fold.part("train")], index) for number, fold in folds.items()}
    # The same resamples for both, and for the probes.
    video, cascade = (
        estimate(pooled, per_group=each, config=config, generator=generator_for(seed, "bootstrap"))
        for each in (False, True)
    )
    return Evidence(
        calibrations=calibrations,
        tested=tested,
        pooled=pooled,
        video=video,
        cascade=cascade,
        measured={number: measure(found, config.ece_bins) for number, found in tested.items()},
        probes=probe_all(videos, training, config=config, seed=seed),
        slices=slice_all(videos, pooled, config=config, seed=seed),
    )


def described(parts: Sequence[pl.DataFrame], index: pl.DataFrame) -> pl.DataFrame:
    """The videos of parts of folds, one after the other, with what the index says of them."""
    own = pl.concat(parts).select("video_id", "fold", "group", "is_fake")
    return own.join(index.drop("group"), on="video_id", how="left", maintain_order="left")


def out_of_fold(folds: Mapping[int, Fold], evidence: Evidence) -> pl.DataFrame:
    """The OUT_OF_FOLD table."""
    tested = pl.concat([fold.part("test") for fold in folds.values()])
    pooled = evidence.pooled
    called = pl.when(pl.Series(pooled.called_fake)).then(pl.lit("fake")).otherwise(pl.lit("real"))
    decided = pl.when(pl.Series(pooled.decided))
    return tested.select(
        "video_id",
        "fold",
        "group",
        "label",
        probability_fake=pl.Series(pooled.probability),
        called=called,
        verdict=decided.then(called).otherwise(pl.lit("uncertain")),
    )


def metrics_of(evidence: Evidence, num_leaks: int) -> dict[str, Any]:
    """What `dvc metrics show` shows: numbers at the leaves, and reasons for those unknown."""
    best = best_probe(evidence.probes)
    best_estimate = None if best is None else evidence.probes[best].roc_auc.as_dict()["value"]
    return {
        "video": {name: found.as_dict() for name, found in evidence.video.items()},
        "cascade": {name: found.as_dict() for name, found in evidence.cascade.items()},
        "folds": {name: _per_fold(name, evidence.measured) for name in evidence.video},
        "probes": {name: probe.as_dict() for name, probe in evidence.probes.items()},
        "best_probe": best,
        "best_probe_roc_auc": best_estimate,
        "leaks": num_leaks,
        "beats_probes": beats_probes(evidence.video["roc_auc"], evidence.probes),
        "counts": _counts(evidence.pooled),
    }


def _per_fold(
    name: str, measured: Mapping[int, Mapping[str, float | None]]
) -> dict[str, float | None]:
    values = {str(fold): found[name] for fold, found in measured.items()}
    mean, deviation = spread(list(values.values()))
    return {
        label: None if value is None else round(value, DECIMALS)
        for label, value in {**values, "mean": mean, "std": deviation}.items()
    }


def _counts(pooled: Outcomes) -> dict[str, int]:
    matrix = confusion_matrix(pooled).tolist()
    return {
        "videos": len(pooled.is_fake),
        "groups": len(set(pooled.groups.tolist())),
        "uncertain": int((~pooled.decided).sum()),
        "real_called_real": matrix[0][0],
        "real_called_fake": matrix[0][1],
        "fake_called_real": matrix[1][0],
        "fake_called_fake": matrix[1][1],
    }


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation of what is known; None of too few."""
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None
