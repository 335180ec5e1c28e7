"""What a trained fold leaves behind: its network, its learning curve and its scores."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from fvc.config import Params
from fvc.files import replacing
from fvc.fold_videos import Parts, video_clips
from fvc.networks import ClipClassifier, save_network
from fvc.predict import probability_fake, video_logits
from fvc.records import PREDICTIONS
from fvc.training.diagnostics import EpochRow, repeatable_series


def score_fold(
    network: ClipClassifier, parts: Parts, *, fold: int, clips: Path, flow: Path | None
) -> pl.DataFrame:
    """The PREDICTIONS of every video of the fold's three parts."""
    rows: list[dict[str, object]] = []
    for part, videos in parts.items():
        pixels = list(video_clips(videos, clips, flow))
        logits = video_logits(network, pixels)
        for (video_id, label), logit, own in zip(videos.items(), logits, pixels, strict=True):
            rows.append(
                {
                    "video_id": video_id,
                    "fold": fold,
                    "part": part,
                    "label": "fake" if label else "real",
                    "probability_fake": probability_fake(float(logit)),
                    "logit": float(logit),
                    "num_clips": len(own),
                }
            )
    return PREDICTIONS.frame(rows)


def history_frame(history: Sequence[EpochRow]) -> pl.DataFrame:
    """One row per epoch with every series that is equal in two equal runs."""
    schema = {"epoch": pl.Int64(), **dict.fromkeys(repeatable_series(history), pl.Float64())}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in history], schema)


def write_outputs(
    model: Path,
    network: ClipClassifier,
    params: Params,
    predictions: pl.DataFrame,
    history: Sequence[EpochRow],
) -> None:
    """Fill the fold's folder."""
    save_network(network, model, params.model, params.clips)
    PREDICTIONS.write(model / "predictions.parquet", predictions)
    with replacing(model / "history.csv") as partial:
        history_frame(history).write_csv(partial)
