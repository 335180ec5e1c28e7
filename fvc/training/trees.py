"""Train trees on one fold: all of it is measured first, and then fitted in one go."""

from collections.abc import Callable, Mapping
from pathlib import Path

from fvc.config import TrainConfig
from fvc.dataset import ClipDataset
from fvc.fold_videos import video_clips
from fvc.networks import ClipClassifier
from fvc.process import stop_on_sigterm
from fvc.training.boosting import boost, measure
from fvc.training.loop import FitResult


def fit_trees(
    network: ClipClassifier,
    dataset: ClipDataset,
    validation: Mapping[str, int],
    config: TrainConfig,
    *,
    clips: Path,
    seed: int,
    scratch: Path,
    on_epoch: Callable[..., None],
) -> FitResult:
    """Fit what no gradient trains; of versions that are made on the way, it sees the first ones.

    Raises:
        Stopped: It was asked to stop while it measured.
    """
    examples = (dataset[0, number] for number in range(len(dataset)))
    pixels, labels = video_clips(validation, clips), list(validation.values())
    with stop_on_sigterm() as is_stopped:
        measured = measure(network, examples, pixels, labels, is_stopped)
    return boost(network, measured, config, seed=seed, scratch=scratch, on_epoch=on_epoch)
