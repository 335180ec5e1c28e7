"""What a training's weights depend on, as one hash: a checkpoint of another is not resumed."""

from pathlib import Path

import torch

from fvc.clip_files import require_key
from fvc.dataset import versions_of
from fvc.files import sha256_of, sha256_of_code, sha256_of_file
from fvc.fold_videos import Parts
from fvc.tracking import Identity

CODE = (
    "batches.py",
    "caching.py",
    "clip_files.py",
    "config/augmentation.py",
    "dataset.py",
    "distributed.py",
    "flow.py",
    "fold_videos.py",
    "loading.py",
    "memory.py",
    "networks",
    "precision.py",
    "predict.py",
    "recompression.py",
    "residuals.py",
    "seeding.py",
    "stages/train.py",
    "training/boosting.py",
    "training/checkpoint.py",
    "training/diagnostics.py",
    "training/epoch.py",
    "training/fine_tuning.py",
    "training/loop.py",
    "training/losses.py",
    "training/mixing.py",
    "training/resuming.py",
    "training/schedules.py",
    "training/state.py",
    "training/step.py",
    "training/tally.py",
    "training/trees.py",
    "training/validating.py",
    "transfer.py",
    "transforms/__init__.py",
    "transforms/drawing.py",
    "transforms/geometry.py",
    "transforms/pixels.py",
    "transforms/platforms.py",
    "transforms/timing.py",
    "validation.py",
)
"""The modules behind trained weights: a checkpoint of other code is not resumed."""


def binding_of(identity: Identity, parts: Parts, *, fold: int, clips: Path, augmented: Path) -> str:
    """A hash of all that the weights depend on: a training with another one starts anew.

    Raises:
        FvcError: Clips are missing or damaged.
    """
    videos = sorted(video_id for part in parts.values() for video_id in part)
    versions = versions_of(identity.params.augment, identity.params.seed, augmented)
    keys = [require_key(clips / f"{name}.pt", "clips") for name in videos]
    if isinstance(versions, Path):
        keys += [require_key(versions / f"{name}.pt", "augment") for name in sorted(parts["train"])]
    return sha256_of(
        [
            identity.cv_key,
            fold,
            keys,
            _pretrained_sha256(Path(identity.params.model.pretrained)),
            sha256_of_code(CODE),
            str(torch.__version__),
        ]
    )


def _pretrained_sha256(pretrained: Path) -> str | list[tuple[str, str]] | None:
    """Of the weights' file, or of each file in a folder of them; None where they have a name."""
    if pretrained.is_dir():
        files = (each for each in sorted(pretrained.iterdir()) if each.is_file())
        return [(each.name, sha256_of_file(each)) for each in files]
    return sha256_of_file(pretrained) if pretrained.is_file() else None
