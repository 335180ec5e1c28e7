"""How far shortcuts go: the scores of simple classifiers that a model has to beat.

None of them sees anything move: they know how common a label is, where a video comes from,
what its file is like, one frame of it, its black bars, or its cascade.

Every probe is fitted on a fold's training videos and scores that fold's test videos, so
each video is scored once by a probe that never saw its group. Both classes weigh the same
in training: otherwise a fold with more fakes in its test has fewer to learn from and
scores lower, and scores pooled over folds rank worse than chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from fvc.config import EvaluateConfig
from fvc.evidence.metrics import Estimate, Outcomes, estimate, lies_above
from fvc.evidence.pixel_probes import frame_model
from fvc.seeding import generator_for, seed_for

PROBES = {
    "majority": "majority",
    "platform": "platform only",
    "container": "container and geometry",
    "frame": "single middle frame",
    "bars": "black bars",
    "cascade": "cascade lookup",
    "shuffle": "label shuffle",
}
"""What each is called wherever people read of it."""

CHANCE = 0.5

MEASURED = ("width", "height", "fps", "bitrate_bps", "duration_s", "size_bytes")
"""Columns of the index that the container probe takes as numbers."""

MIN_LEAF = 5
"""Training videos in a leaf of the boosted trees; scikit-learn's 20 would leave
a corpus of 30 videos without a single split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How far one shortcut goes, per video."""

    roc_auc: Estimate
    accuracy: Estimate

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"roc_auc": self.roc_auc.as_dict(), "accuracy": self.accuracy.as_dict()}


def probe_all(
    videos: pl.DataFrame,
    training: Mapping[int, pl.DataFrame],
    *,
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Probe]:
    """Run every probe on the folds of the model.

    Args:
        videos: Columns of the index, what `read_pixel_facts` gives, `group`, `is_fake`
            (Boolean) and `fold`, the one that tests the video; one row per video.
        training: The same columns of each fold's training videos.
        config: How intervals are drawn.
        seed: The seed of params.yaml. All probes and models that are measured with
            `generator_for(seed, "bootstrap")` see the same resamples.

    Raises:
        ValueError: A fold has no training video.
    """
    pooled: dict[str, Float[np.ndarray, V]] = {}
    for fold, train in sorted(training.items()):
        tests = (videos["fold"] == fold).to_numpy()
        for name, scores in score_probes(train, videos.filter(tests), seed).items():
            pooled.setdefault(name, np.full(videos.height, CHANCE))[tests] = scores
    return {name: _measured(name, scores, videos, config, seed) for name, scores in pooled.items()}


def score_probes(
    train: pl.DataFrame, test: pl.DataFrame, seed: int
) -> dict[str, Float[np.ndarray, "V"]]:
    """Fit every probe on `train` and score `test`: from 0, surely real, to 1, surely fake.

    Raises:
        ValueError: There is nothing to fit on.
    """
    if train.is_empty():
        raise ValueError("a fold has no training video")
    is_fake = train["is_fake"].to_numpy()
    order = generator_for(seed, "label shuffle").permutation(len(is_fake))
    return {
        "majority": np.full(test.height, float(is_fake.mean() >= CHANCE)),
        "platform": score_platform(train, test),
        "container": score_container(train, is_fake, test, seed),
        "frame": score_frame(train, is_fake, test),
        "bars": score_bars(train, is_fake, test, seed),
        "cascade": score_cascade(train, test),
        "shuffle": score_container(train, is_fake[order], test, seed),
    }


def score_platform(train: pl.DataFrame, test: pl.DataFrame) -> Float[np.ndarray, "V"]:
    """How much of a platform is fake in training, with both classes weighing the same.

    Half a video of each class is added to every platform, so that two videos of one
    class prove little.
    """
    rates = train.group_by("platform").agg(
        fakes=pl.col("is_fake").sum() + 0.5, reals=(~pl.col("is_fake")).sum() + 0.5
    )
    shares = rates.with_columns(
        pl.col("fakes") / pl.col("fakes").sum(), pl.col("reals") / pl.col("reals").sum()
    ).select("platform", score=pl.col("fakes") / (pl.col("fakes") + pl.col("reals")))
    return _looked_up(test.select("platform"), shares, "platform")


def score_container(
    train: pl.DataFrame, is_fake: Bool[np.ndarray, "N"], test: pl.DataFrame, seed: int
) -> Float[np.ndarray, "V"]:
    """Gradient-boosted trees on what the file's header says: geometry, rate, size, codec."""
    features = container_features(pl.concat([train, test]))
    shown, asked = features[: train.height], features[train.height :]
    return _fitted(_boosted_trees(seed), shown, is_fake, asked)


def score_frame(
    train: pl.DataFrame, is_fake: Bool[np.ndarray, "N"], test: pl.DataFrame
) -> Float[np.ndarray, "V"]:
    """Logistic regression on the middle frame: scenery, colours and logos, and no motion."""
    return _fitted(frame_model(), train["frame"].to_numpy(), is_fake, test["frame"].to_numpy())


def score_bars(
    train: pl.DataFrame, is_fake: Bool[np.ndarray, "N"], test: pl.DataFrame, seed: int
) -> Float[np.ndarray, "V"]:
    """Gradient-boosted trees on where the clips are black: bars of a repost, and of a letterbox."""
    shown, asked = train["bars"].to_numpy(), test["bars"].to_numpy()
    return _fitted(_boosted_trees(seed), shown, is_fake, asked)


def _boosted_trees(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        min_samples_leaf=MIN_LEAF,
        class_weight="balanced",
        early_stopping=False,
        random_state=seed_for(seed, "container") % 2**32,
    )


def _fitted(
    model: Any,
    shown: Float[np.ndarray, "N F"],
    is_fake: Bool[np.ndarray, "N"],
    asked: Float[np.ndarray, "V F"],
) -> Float[np.ndarray, "V"]:
    """What a classifier of scikit-learn says; chance where there is nothing to tell apart."""
    known = ~np.isnan(shown).all(axis=0)
    if is_fake.all() or not is_fake.any() or not known.any():
        return np.full(len(asked), CHANCE)
    # Threads that wait for each other on busy cores take ten times as long as one alone.
    with threadpool_limits(1):
        model.fit(shown[:, known], is_fake)
        return model.predict_proba(asked[:, known])[:, 1]


def score_cascade(train: pl.DataFrame, test: pl.DataFrame) -> Float[np.ndarray, "V"]:
    """The label that a video's cascade had in training, by the annotations' own ids.

    Chance for a cascade not seen there; anything else means that folds share cascades.
    """
    seen = train.select(pl.col("cascade_ids").alias("cascade"), "is_fake")
    labels = seen.explode("cascade").drop_nulls().group_by("cascade")
    shares = labels.agg(score=pl.col("is_fake").cast(pl.Float64).mean())
    asked = test.select(row=pl.int_range(pl.len()), cascade="cascade_ids").explode("cascade")
    found = asked.join(shares, on="cascade").group_by("row").agg(pl.col("score").mean())
    return _looked_up(test.select(row=pl.int_range(pl.len())), found, "row")


def container_features(videos: pl.DataFrame) -> Float[np.ndarray, "V F"]:
    """What is known of a file without decoding it; NaN where it is not known."""
    kinds = {
        "codec": videos["codec"].to_list(),
        "container": [PurePosixPath(path).suffix for path in videos["path"].to_list()],
    }
    columns = [videos[name].cast(pl.Float64).fill_null(np.nan).to_numpy() for name in MEASURED]
    for values in kinds.values():
        for kind in sorted({value for value in values if value}):
            columns.append(np.array([float(value == kind) for value in values]))
    return np.stack(columns, axis=1)


def best_probe(probes: Mapping[str, Probe]) -> str | None:
    """The probe with the highest ROC-AUC; None where no probe has one."""
    known = {name: probe.roc_auc.value for name, probe in probes.items()}
    ranked = [(value, name) for name, value in known.items() if value is not None]
    return max(ranked)[1] if ranked else None


def beats_probes(roc_auc: Estimate, probes: Mapping[str, Probe]) -> bool:
    """Whether the model's interval lies above what every probe reached.

    Compared as they are written down, so that whoever reads them decides alike.
    What is not known beats nothing.
    """
    best = best_probe(probes)
    return best is not None and lies_above(roc_auc.rounded.low, probes[best].roc_auc.rounded.value)


def _measured(
    name: str,
    scores: Float[np.ndarray, "V"],
    videos: pl.DataFrame,
    config: EvaluateConfig,
    seed: int,
) -> Probe:
    outcomes = Outcomes(
        is_fake=videos["is_fake"].to_numpy(),
        # One class for all ranks nothing, even where folds disagree which one it is.
        probability=np.full_like(scores, CHANCE) if name == "majority" else scores,
        called_fake=scores >= CHANCE,
        decided=np.ones(len(scores), dtype=bool),
        groups=videos["group"].to_numpy(),
    )
    generator = generator_for(seed, "bootstrap")
    estimates = estimate(outcomes, per_group=False, config=config, generator=generator)
    roc_auc = estimates["roc_auc"]
    if name == "majority" and roc_auc.low is not None:
        # Not because the videos show it.
        roc_auc = Estimate(value=CHANCE, low=CHANCE, high=CHANCE)
    return Probe(roc_auc=roc_auc, accuracy=estimates["accuracy"])


def _looked_up(asked: pl.DataFrame, scores: pl.DataFrame, key: str) -> Float[np.ndarray, "V"]:
    joined = asked.join(scores, on=key, how="left", nulls_equal=True, maintain_order="left")
    return joined["score"].fill_null(CHANCE).to_numpy().astype(np.float64)
