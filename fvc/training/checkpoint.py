"""Checkpoints of a training that may be killed at any moment: whole, verified, never stale.

A folder holds the last states, the best weights in a file of their own (they
seldom change, and the state is large), and `checkpoints.json`, which names
them with their hashes. A state counts once that file names it; what it does
not name is removed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fvc.errors import FvcError
from fvc.files import read_json, replacing, sha256_of_file, write_json

logger = logging.getLogger(__name__)

MANIFEST = "checkpoints.json"
KEPT = 2
"""The last one, and the one before it in case the last is damaged."""

Entry = dict[str, Any]


class Position(NamedTuple):
    """How far a training has come."""

    epochs: int
    """Whole epochs, their validation included."""
    steps: int
    """Optimizer steps of the epoch after them."""

    def __str__(self) -> str:
        within = f" and {self.steps} steps" if self.steps else ""
        return f"{self.epochs} epochs{within}"


def save_checkpoint(
    folder: Path,
    binding: str,
    position: Position,
    state: Mapping[str, Any],
    *,
    best_epoch: int | None,
    weights: Mapping[str, Tensor],
) -> None:
    """Add the checkpoint of a position, and remove those no longer needed.

    Args:
        folder: Made if need be.
        binding: What the training depends on, as a hash; `load_checkpoint`
            passes over checkpoints of another one.
        position: One at which an earlier attempt has a checkpoint is written anew.
        state: Tensors and plain values.
        best_epoch: The best so far, counted from 0; None before the first has
            ended. Its weights are written when it has just ended, and were
            written with its own checkpoint when it is an earlier one.
        weights: Those that the last validation scored.

    Raises:
        ValueError: The best epoch is an earlier one that has no checkpoint here.
        FvcError: The disk is full, or the folder cannot be written.
    """
    earlier = [entry for entry in _entries(folder, binding) if _position(entry) < position]
    entry: Entry = {
        "epochs": position.epochs,
        "steps": position.steps,
        "file": f"epoch-{position.epochs:04d}-step-{position.steps:06d}.pt",
    }
    if best_epoch is not None:
        entry["best_file"] = f"best-{best_epoch:04d}.pt"
        if position == (best_epoch + 1, 0):
            entry["best_sha256"] = _write(folder / entry["best_file"], dict(weights))
        elif earlier and earlier[-1].get("best_file") == entry["best_file"]:
            entry["best_sha256"] = earlier[-1]["best_sha256"]
        else:
            raise ValueError(f"{position}: the weights of epoch {best_epoch} were never saved")
    entry["sha256"] = _write(folder / entry["file"], dict(state))
    kept = [*earlier, entry][-KEPT:]
    write_json(folder / MANIFEST, {"binding": binding, "checkpoints": kept})
    _remove_unnamed(folder, kept)


def load_checkpoint(folder: Path, binding: str) -> dict[str, Any] | None:
    """Load the state of the newest undamaged checkpoint of `binding`, on the CPU.

    Returns:
        None where there is no such checkpoint. A damaged one, or one whose
        best weights are, is passed over with a warning.
    """
    entries = _entries(folder, binding)
    if not entries and (folder / MANIFEST).exists():
        logger.warning(
            "%s is damaged, or of other parameters, data, folds, code or device: starting anew",
            folder / MANIFEST,
        )
    while entries:
        damaged = _damaged(folder, entries[-1])
        if damaged is None:
            return _read(folder / entries[-1]["file"])
        logger.warning("%s is damaged: going back to the checkpoint before", damaged)
        # Else it would be kept as the one to go back to, in place of the good one.
        entries.pop()
        write_json(folder / MANIFEST, {"binding": binding, "checkpoints": entries})
    return None


def load_best_weights(folder: Path, binding: str) -> dict[str, Tensor]:
    """Load the best weights so far, as the newest checkpoint names them, on the CPU.

    Raises:
        FvcError: There is no checkpoint, no epoch has ended, or a file is damaged.
    """
    entry = _newest(folder, binding)
    damaged = _damaged(folder, entry)
    if damaged is not None:
        raise FvcError(damaged, "is damaged", "Run 'dvc repro train' to go on from the one before")
    if "best_file" not in entry:
        raise FvcError(folder, "holds no weights: no epoch has ended", "Run 'dvc repro train'")
    return _read(folder / entry["best_file"])


def newest_checkpoint(folder: Path, binding: str) -> Path:
    """The file of the newest checkpoint.

    Raises:
        FvcError: There is none.
    """
    return folder / str(_newest(folder, binding)["file"])


def _write(target: Path, value: dict[str, Any]) -> str:
    try:
        with replacing(target) as partial:
            # To a stream: torch.save would write the name of a path into the file.
            with partial.open("wb") as stream:
                torch.save(value, stream)
            return sha256_of_file(partial)
    except (OSError, RuntimeError) as error:
        # torch's writer fails for want of room with a RuntimeError of its own, after the reason.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        remedy = "Free space, then start again: it goes on from the checkpoint before"
        raise FvcError(target, f"cannot be written ({reason.strerror})", remedy) from error


def _read(source: Path) -> dict[str, Any]:
    return torch.load(source, map_location="cpu", weights_only=True)


def _entries(folder: Path, binding: str) -> list[Entry]:
    """What the manifest names, oldest first; nothing where it cannot be used."""
    try:
        manifest = read_json(folder / MANIFEST, "train")
    except FvcError:
        return []
    known = isinstance(manifest, dict) and manifest.get("binding") == binding
    return manifest["checkpoints"] if known else []


def _position(entry: Entry) -> Position:
    return Position(entry["epochs"], entry["steps"])


def _newest(folder: Path, binding: str) -> Entry:
    entries = _entries(folder, binding)
    if not entries:
        raise FvcError(folder, "holds no checkpoint of this training", "Run 'dvc repro train'")
    return entries[-1]


def _damaged(folder: Path, entry: Entry) -> Path | None:
    """The first file of a checkpoint that is not what was written."""
    for name in ("", "best_"):
        if f"{name}file" not in entry:
            continue
        source = folder / entry[f"{name}file"]
        if not source.is_file() or sha256_of_file(source) != entry[f"{name}sha256"]:
            return source
    return None


def _remove_unnamed(folder: Path, kept: list[Entry]) -> None:
    named = {entry[key] for entry in kept for key in ("file", "best_file") if key in entry}
    for path in [*folder.glob("*.pt"), *folder.glob(".*.pt.partial")]:
        if path.name not in named:
            path.unlink()
