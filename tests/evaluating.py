"""A corpus of made scores, as the training of each fold would have left them for evaluate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import polars as pl
from source_tree import ROOT

from fvc.clip_files import save_clips
from fvc.config import Params, load_params
from fvc.evidence.fold_outputs import HISTORY_COLUMNS
from fvc.files import write_json
from fvc.records import FOLDS, INDEX, PREDICTIONS, REJECTED
from fvc.stages import evaluate

Score = Callable[[np.random.Generator, bool], float]


def separating(generator: np.random.Generator, is_fake: bool) -> float:
    return float(generator.normal(1.5 if is_fake else -1.5))


def perfect(generator: np.random.Generator, is_fake: bool) -> float:
    return float(generator.uniform(1, 2) * (1 if is_fake else -1))


def constant(generator: np.random.Generator, is_fake: bool) -> float:  # noqa: ARG001
    return 0.25


@dataclass(frozen=True)
class Corpus:
    """The inputs of the stage, in a folder of their own."""

    root: Path
    params: Params

    def run(self, evaluation: Path | None = None) -> Path:
        target = evaluation or self.root / "evaluation"
        evaluate.run(
            self.params,
            models=self.root / "models",
            videos=self.root / "videos",
            index=self.root / "index.parquet",
            index_summary=self.root / "index.json",
            rejected=self.root / "rejected.csv",
            clips=self.root / "clips",
            probes=self.root / "probes",
            folds=self.root / "folds.parquet",
            split=self.root / "split.json",
            robustness=self.root / "robustness",
            evaluation=target,
        )
        return target

    def predictions(self, fold: int) -> Path:
        return self.root / "models" / str(fold) / "predictions.parquet"


def quick_params(num_folds: int = 3) -> Params:
    params = load_params(ROOT / "params.yaml")
    return replace(
        params,
        evaluate=replace(params.evaluate, bootstrap_samples=100, robustness_videos=0),
        split=replace(params.split, folds=tuple(range(num_folds))),
    )


def make_corpus(
    root: Path,
    *,
    num_groups: int = 20,
    score: Score = separating,
    only: str | None = None,
    num_folds: int = 3,
) -> Corpus:
    """Groups of one to three videos; two groups are locked; `only` gives all one label."""
    params = quick_params(num_folds)
    generator = np.random.default_rng(0)
    videos: list[dict[str, object]] = []
    for number in range(num_groups):
        locked = number < 2
        for copy in range(1 + number % 3):
            videos.append(
                {
                    "video_id": f"youtube_{number:03}{copy}",
                    "group": f"g{number:03}",
                    "label": only or ("fake" if number % 2 else "real"),
                    "part": "locked" if locked else "fold",
                    "fold": None if locked else number // 2 % num_folds,
                    "validates": [] if locked else [(number // 2 + 1) % num_folds],
                }
            )
    FOLDS.write(root / "folds.parquet", FOLDS.frame([dict(video) for video in videos]))
    INDEX.write(root / "index.parquet", INDEX.frame([described(video) for video in videos]))
    reasons = ["truncated", "missing", "missing"]
    rejected = [
        {"video_id": f"twitter_{row}", "path": "", "reason": reason, "detail": "why"}
        for row, reason in enumerate(reasons)
    ]
    counts = {"annotated": 5, "on_disk": 4, "usable": 3}
    write_json(root / "index.json", {"availability": {"twitter": {"real": counts}}})
    REJECTED.write(root / "rejected.csv", REJECTED.frame([dict(row) for row in rejected]))
    locked_counts = {"groups": 2, "real": 1, "fake": 2}
    audit = {"leaks": 0, "cascade_lookup_balanced_accuracy": 0.5}
    write_json(root / "split.json", {"locked": locked_counts, "audit": audit})
    for video in videos:
        pixels = generator.integers(0, 256, (1, 3, 3, 16, 16), dtype=np.uint8)
        save_clips(root / "clips" / f"{video['video_id']}.pt", pixels, "key")
    # Clips take no draws from what the scores are made of.
    generator = np.random.default_rng(0)
    for fold in params.split.folds:
        rows = [predicted(video, fold, score, generator) for video in videos]
        folder = root / "models" / str(fold)
        PREDICTIONS.write(folder / "predictions.parquet", PREDICTIONS.frame(rows))
        history = {name: [0.7 - 0.1 * epoch for epoch in range(3)] for name in HISTORY_COLUMNS}
        pl.DataFrame({**history, "epoch": [1, 2, 3]}).write_csv(folder / "history.csv")
        (folder / "weights.safetensors").write_bytes(bytes([fold]))
    return Corpus(root=root, params=params)


def make_single(root: Path) -> Corpus:
    """Fold 0 of a cross-validation as the only one."""
    corpus = make_corpus(root, num_groups=30)
    places = FOLDS.read(root / "folds.parquet").with_columns(
        fold=pl.when(pl.col("fold") == 0).then(pl.lit(0, dtype=pl.Int64)),
        validates=pl.col("validates").list.set_intersection([0]),
    )
    FOLDS.write(root / "folds.parquet", places)
    for fold in (1, 2):
        rmtree(root / "models" / str(fold))
    single = replace(corpus.params.split, scheme="single", folds=(0,))
    return Corpus(root=root, params=replace(corpus.params, split=single))


def described(video: dict[str, object]) -> dict[str, object]:
    number = int(str(video["group"])[1:])
    return {
        "video_id": video["video_id"],
        "subset": "FVC1" if number % 3 else "FVC2",
        "platform": "youtube" if number % 4 else "twitter",
        "source_id": str(video["video_id"])[8:],
        "path": f"FVC1/youtube/{video['video_id']}/video.mp4",
        "label": video["label"],
        "raw_label": video["label"],
        "cascade_ids": [f"c{number}"],
        "group": video["group"],
        "width": 320 + number,
        "height": 240,
        "rotation_deg": 0,
        "fps": 25.0,
        "frames": 100,
        "duration_s": 4.0 * (1 + number),
        "codec": "h264",
        "pixel_format": "yuv420p",
        "bitrate_bps": 1e6,
        "size_bytes": 100_000 + number,
        "sha256": f"{number}",
        "fingerprint": b"",
    }


def predicted(
    video: dict[str, object], fold: int, score: Score, generator: np.random.Generator
) -> dict[str, object]:
    part = "train"
    if video["part"] == "locked":
        part = "locked"
    elif video["fold"] == fold:
        part = "test"
    elif [fold] == video["validates"]:
        part = "validation"
    logit = score(generator, video["label"] == "fake")
    return {
        "video_id": video["video_id"],
        "fold": fold,
        "part": part,
        "label": video["label"],
        "probability_fake": 1 / (1 + np.exp(-logit)),
        "logit": logit,
        "num_clips": 1,
    }


def change_logits(corpus: Corpus, part: str, value: float) -> None:
    for fold in corpus.params.split.folds:
        source = corpus.predictions(fold)
        logit = pl.when(pl.col("part") == part).then(value).otherwise("logit").alias("logit")
        PREDICTIONS.write(source, PREDICTIONS.read(source).with_columns(logit))
