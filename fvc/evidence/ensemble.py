"""Several networks of the same folds as one: the mean of their calibrated logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float

from fvc.config import EvaluateConfig
from fvc.evidence.calibration import Calibration, calibrate
from fvc.records import OUT_OF_FOLD
from fvc.validation import roc_auc

NOT_RANKED = -1.0
"""Below every ROC-AUC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one member said in one fold."""

    predictions: pl.DataFrame
    """The PREDICTIONS of the fold."""
    calibration: Calibration
    """Of the member in this fold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleFold:
    """The members of one fold together."""

    calibration: Calibration
    """Learned from the means on the fold's validation videos."""
    validation_roc_auc: float
    """`NOT_RANKED` where those are all of one class."""
    tested: pl.DataFrame
    """The fold's videos: `video_id`, `label`, and the `logit` before calibration."""


def joined(members: Sequence[Said], config: EvaluateConfig) -> EnsembleFold:
    """Put members together that were trained and tested in the same fold.

    Each one's logit is divided by its own temperature first, so that a network that is too
    sure of itself does not speak louder than the others.

    Raises:
        ValueError: They were not validated or tested on the same videos.
    """
    validation, tested = (mean_logits(members, part) for part in ("validation", "test"))
    logits, is_fake = validation["logit"].to_numpy(), (validation["label"] == "fake").to_numpy()
    calibration = calibrate(
        logits,
        is_fake,
        criterion=config.threshold_criterion,
        target_error_rate=config.target_error_rate,
    )
    both = 0 < is_fake.sum() < len(is_fake)
    return EnsembleFold(
        calibration=calibration,
        validation_roc_auc=roc_auc(logits, is_fake.astype(np.int64)) if both else NOT_RANKED,
        tested=tested,
    )


def mean_logits(members: Sequence[Said], part: str) -> pl.DataFrame:
    """The mean of the members' calibrated logits of each video of a part, by video id.

    Raises:
        ValueError: They are not of the same videos.
    """
    rows = [said.predictions.filter(part=part).sort("video_id") for said in members]
    keys = [own.select("video_id", "label") for own in rows]
    if any(not other.equals(keys[0]) for other in keys):
        raise ValueError(f"they do not have the same {part} videos")
    logits: Float[np.ndarray, "M V"] = np.stack(
        [
            own["logit"].to_numpy() / said.calibration.temperature
            for own, said in zip(rows, members, strict=True)
        ]
    )
    return keys[0].with_columns(logit=pl.Series(logits.mean(axis=0), dtype=pl.Float64))


def out_of_fold(folds: Mapping[int, EnsembleFold], groups: pl.DataFrame) -> pl.DataFrame:
    """The OUT_OF_FOLD table of an ensemble.

    Args:
        folds: Each of its folds.
        groups: A table of the same videos with `video_id` and `group`.
    """
    rows: list[dict[str, object]] = []
    for number, fold in folds.items():
        named = fold.tested.join(groups.select("video_id", "group"), on="video_id")
        for row in named.iter_rows(named=True):
            probability = fold.calibration.probability(row["logit"])
            rows.append(
                {
                    "video_id": row["video_id"],
                    "fold": number,
                    "group": row["group"],
                    "label": row["label"],
                    "probability_fake": probability,
                    "called": "fake" if probability >= fold.calibration.threshold else "real",
                    "verdict": fold.calibration.verdict(probability),
                }
            )
    return OUT_OF_FOLD.frame(rows)


def best_fold(folds: Mapping[int, EnsembleFold]) -> int:
    """The fold whose ensemble ranks its own validation videos best; of equal ones the lowest."""
    return max(folds, key=lambda number: (folds[number].validation_roc_auc, -number))
