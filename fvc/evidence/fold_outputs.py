"""What the training of one fold left behind, checked against the split before it is used."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fvc.errors import FvcError
from fvc.evidence.metrics import Outcomes, measure
from fvc.fold_videos import PARTS
from fvc.records import PREDICTIONS, part_in
from fvc.validation import validation_series

HISTORY_COLUMNS = (
    "epoch",
    "train/loss",
    "validation/loss",
    "validation/roc_auc",
    "validation/macro_f1",
)
"""What `history.csv` has at least."""

CHOOSING = ("loss", "roc_auc", "macro_f1")
"""The series of a validation that can choose an epoch."""

CHOSEN_LATER = ("coverage", "decided_accuracy", "ece")
"""Measures of verdicts, and of bins, which a training knows nothing of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """One trained fold: what its network said of each part, and how it learned."""

    predictions: pl.DataFrame
    """PREDICTIONS with `group`, in the order of video ids; nothing of the locked test."""
    history: pl.DataFrame

    def part(self, name: str) -> pl.DataFrame:
        """The rows of one part, with `is_fake`."""
        rows = self.predictions.filter(part=name)
        return rows.with_columns(is_fake=pl.col("label") == "fake")


def read_fold(models: Path, number: int, places: pl.DataFrame) -> Fold:
    """Read what one training left, without its locked rows.

    Raises:
        FvcError: It is missing or damaged, or was trained on other folds.
    """
    source = models / str(number) / "predictions.parquet"
    remedy = f"Run 'dvc repro -f -s train@{number}'"
    predictions = PREDICTIONS.read(source).filter(pl.col("part").is_in(PARTS))
    expected = places.select("video_id", "label", "group", part=part_in(number))
    keys = ["video_id", "label", "part"]
    if sorted(predictions.select(keys).rows()) != sorted(expected.select(keys).rows()):
        raise FvcError(source, "was made with other folds than those of the split", remedy)
    if not predictions["logit"].is_finite().all():
        raise FvcError(source, "holds a logit that is not finite", remedy)
    rows = predictions.join(expected.select("video_id", "group"), on="video_id")
    history = read_history(models / str(number) / "history.csv", remedy)
    return Fold(predictions=rows.sort("video_id"), history=history)


def read_history(source: Path, remedy: str) -> pl.DataFrame:
    """Read a fold's learning curves.

    Raises:
        FvcError: The file or a column is missing.
    """
    if not source.is_file():
        raise FvcError(source, "is missing", remedy)
    try:
        # A stage of the network that trains late has no numbers before.
        history = pl.read_csv(source, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise FvcError(source, f"cannot be read ({error})", remedy) from error
    missing = [name for name in HISTORY_COLUMNS if name not in history.columns]
    if missing:
        raise FvcError(source, f"lacks the columns {', '.join(missing)}", remedy)
    return history


def final_results(predictions: pl.DataFrame) -> dict[str, float]:
    """The metrics that the run of a fold ends with, of the weights that were kept.

    `best/validation_...` are what they were chosen by, where the series `validation/...` go on to
    the last epoch. `test/...`, at a probability of 0.5, go by the names of the cross-validation's;
    what needs a choice of `evaluate`, verdicts and bins, it has alone.

    Args:
        predictions: The PREDICTIONS of the fold.
    """
    tested = predictions.filter(part="test")
    measured = measure(outcomes_at_half(tested), ece_bins=2)
    kept = {name: value for name, value in measured.items() if name not in CHOSEN_LATER}
    chosen, series = _series(predictions.filter(part="validation")), _series(tested)
    return {
        **{f"best/validation_{name}": chosen[name] for name in CHOOSING if name in chosen},
        **{f"test/{name}": value for name, value in series.items()},
        **{f"test/{name}": value for name, value in kept.items() if value is not None},
    }


def outcomes_at_half(tested: pl.DataFrame) -> Outcomes:
    """What comes of calling fake whatever is more likely so; each video is a group of its own.

    Args:
        tested: PREDICTIONS of one part.
    """
    return Outcomes(
        is_fake=(tested["label"] == "fake").to_numpy(),
        probability=tested["probability_fake"].to_numpy(),
        called_fake=(tested["logit"] >= 0).to_numpy(),
        decided=np.ones(tested.height, dtype=bool),
        groups=tested["video_id"].to_numpy(),
    )


def _series(part: pl.DataFrame) -> dict[str, float]:
    is_fake = (part["label"] == "fake").to_numpy().astype(np.int64)
    series = validation_series(part["logit"].to_numpy(), is_fake)
    return {name.removeprefix("validation/"): value for name, value in series.items()}
