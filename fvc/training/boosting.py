"""Fit boosted trees in one go: what epochs are to a network, rounds are to them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits
from torch import Tensor

from fvc.config import TrainConfig
from fvc.errors import FvcError, Stopped
from fvc.files import replacing
from fvc.networks import ClipClassifier
from fvc.networks.trees import DEPTH, LEAVES, ROUNDS
from fvc.residuals import FEATURES
from fvc.training.diagnostics import EpochRow
from fvc.training.loop import FitResult
from fvc.training.losses import ClipLoss, make_loss
from fvc.training.resuming import Progress, best_epoch
from fvc.validation import roc_auc, validation_series

LEARNING_RATE = 0.1
"""scikit-learn's own. `train.learning_rate` is that of gradients, a thousand times smaller."""
LEAST_IN_LEAF = 5
"""Clips; scikit-learn's own 20 are a third of those of a fold of the demo corpus."""
SHRINKAGE = 1.0
"""L2 penalty on the values of leaves: those of few clips are drawn towards 0."""
AT_ONCE = 64
"""Clips, or videos, that are in memory at a time."""
IMPORTANCE = "importance.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """The features of what trains and of what chooses the best round."""

    examples: Float[Tensor, "N F"]
    labels: Int[np.ndarray, "N"]
    """1 is fake."""
    videos: Sequence[Float[Tensor, "_n F"]]
    """Of the clips of each validation video."""
    video_labels: Int[np.ndarray, "V"]


def rounds_as_epochs(config: TrainConfig) -> TrainConfig:
    """What a training is where each round counts as an epoch, and all are made.

    The validation loss chooses the best one, whatever `best_by` says: a tree or
    two may rank a few videos without a mistake, and only the loss tells that
    more trees are surer of it.

    Raises:
        FvcError: It asks for what trees cannot do.
    """
    if config.loss == "focal":
        remedy = "Set it to bce or class_balanced"
        raise FvcError("train.loss: focal", "trees are fitted by cross-entropy alone", remedy)
    if config.mixup_alpha:
        where, cause = f"train.mixup_alpha: {config.mixup_alpha}", "trees are fitted to whole clips"
        raise FvcError(where, cause, "Set it to 0.0")
    return replace(config, epochs=ROUNDS, patience=ROUNDS, best_by="validation/loss")


def measure(
    network: ClipClassifier,
    examples: Iterable[tuple[UInt8[Tensor, "T C H W"], int]],
    videos: Iterable[UInt8[Tensor, "_n T C _H _W"]],
    video_labels: Sequence[int],
    is_stopped: Callable[[], bool],
) -> Measured:
    """Compute all features, in as many threads as there are cores.

    Raises:
        Stopped: It was asked to stop. What was computed is lost: it takes less
            than reading the checkpoint of a network would.
    """
    labels: list[int] = []

    def clips() -> Iterator[Tensor]:
        for clip, label in examples:
            labels.append(label)
            yield clip[None]

    own = list(_features(network, clips(), is_stopped))
    return Measured(
        examples=torch.cat(own),
        labels=np.array(labels),
        videos=list(_features(network, videos, is_stopped)),
        video_labels=np.array(video_labels),
    )


def _features(
    network: ClipClassifier, given: Iterable[Tensor], is_stopped: Callable[[], bool]
) -> Iterator[Float[Tensor, "n F"]]:
    def of(pixels: Tensor) -> Tensor:
        # One clip at a time: as floating point, clips are large.
        with torch.inference_mode():
            clips = [network.features(network.normalise(clip[None])) for clip in pixels]
            return torch.cat(clips).flatten(1)

    waiting = iter(given)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        while few := list(islice(waiting, AT_ONCE)):
            yield from threads.map(of, few)
            if is_stopped():
                raise Stopped("training", "was stopped", "Start it again: it begins anew")


def boost(
    network: ClipClassifier,
    measured: Measured,
    config: TrainConfig,
    *,
    seed: int,
    scratch: Path,
    on_epoch: Callable[[Sequence[EpochRow]], object] = len,
) -> FitResult:
    """Fit the network's trees, and keep those up to the round that validates best.

    On a CPU equal arguments give equal bytes.

    Args:
        network: Its trees are replaced.
        measured: By this network.
        config: Read are loss, label_smoothing and imbalance. Batches and draws
            that balance the classes are weights here.
        seed: Of scikit-learn, which draws nothing at present.
        scratch: Where `IMPORTANCE` is written: the gain of each feature.
        on_epoch: Called with all rounds.

    Raises:
        FvcError: The configuration asks for what trees cannot do.

    Source:
        Friedman, "Greedy function approximation: a gradient boosting machine",
        2001; Ke et al., "LightGBM", 2017, for histograms.
    """
    config = rounds_as_epochs(config)
    loss = _loss(config, measured.labels)
    targets = _targets(measured.labels, config.label_smoothing)
    _fit(network, measured.examples.numpy(), targets, loss.weights, seed)
    progress = Progress()
    for series in _rounds(network, measured, targets, loss):
        progress.end_epoch(series, config.best_by)
    on_epoch(progress.history)
    best = best_epoch(progress.history, config.best_by)
    network.classifier.keep(best + 1)
    network.eval()
    return FitResult(
        history=tuple(progress.history),
        best_epoch=best,
        kept={IMPORTANCE: _importance(network, scratch)},
        precision="cpu float64",
    )


def _loss(config: TrainConfig, labels: Int[np.ndarray, "N"]) -> ClipLoss:
    balances = config.imbalance != "none"
    weighed = replace(config, imbalance="class_weights") if balances else config
    real, fake = np.bincount(labels, minlength=2)
    return make_loss(weighed, (int(real), int(fake)))


def _targets(labels: Int[np.ndarray, "N"], smoothing: float) -> Float64[np.ndarray, "N"]:
    return labels * (1 - smoothing) + smoothing / 2


def _fit(
    network: ClipClassifier,
    features: Float[np.ndarray, "N F"],
    targets: Float64[np.ndarray, "N"],
    weights: tuple[float, float],
    seed: int,
) -> None:
    """A target between 0 and 1 is a real and a fake clip of such weights, as in `ClipLoss`."""
    sides = [(1 - targets) * weights[0], targets * weights[1]]
    rows = [np.flatnonzero(side) for side in sides]
    # scikit-learn cannot divide what is missing everywhere: of clips of one frame, what changes.
    known = np.where(np.isnan(features).all(axis=0), 0, features)
    trees = HistGradientBoostingClassifier(
        max_iter=ROUNDS,
        learning_rate=LEARNING_RATE,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        min_samples_leaf=LEAST_IN_LEAF,
        l2_regularization=SHRINKAGE,
        # Its own would divide the clips of a video.
        early_stopping=False,
        random_state=seed % 2**32,
    )
    # Sums in several threads are rounded in the order in which they come.
    with threadpool_limits(1):
        trees.fit(
            known[np.concatenate(rows)],
            np.repeat([0, 1], [len(each) for each in rows]),
            sample_weight=np.concatenate(
                [side[each] for side, each in zip(sides, rows, strict=True)]
            ),
        )
    nodes = [predictor.nodes for [predictor] in trees._predictors]
    network.classifier.take(nodes, float(trees._baseline_prediction.item()))


def _rounds(
    network: ClipClassifier,
    measured: Measured,
    targets: Float64[np.ndarray, "N"],
    loss: ClipLoss,
) -> Iterator[Mapping[str, float]]:
    """The series of each round, by the names that they have for networks."""
    staged = network.classifier.staged
    logits = staged(measured.examples).numpy()
    videos = torch.stack([staged(clips).mean(dim=0) for clips in measured.videos]).numpy()
    for own, others in zip(logits.T, videos.T, strict=True):
        called_fake = own >= 0
        yield {
            "train/loss": float(loss.by_hand(own, targets).mean()),
            "train/accuracy": float((called_fake == (measured.labels == 1)).mean()),
            "train/roc_auc": roc_auc(own, measured.labels),
            "train/called_fake": float(called_fake.mean()),
            "train/logit_min": float(own.min()),
            "train/logit_max": float(own.max()),
            "train/logit_mean": float(own.mean()),
            "train/logit_std": float(own.std()),
            "train/logit_unique": float(len(np.unique(own))),
            **validation_series(others, measured.video_labels),
        }


def _importance(network: ClipClassifier, scratch: Path) -> Path:
    gains = network.classifier.gains()
    order = np.argsort(-gains, kind="stable")
    lines = ["feature,gain", *(f"{FEATURES[row]},{gains[row]:.6g}" for row in order)]
    target = scratch / IMPORTANCE
    with replacing(target) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target
