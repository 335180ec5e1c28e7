"""Checkpoints of a training that may be killed at any moment: whole, verified, never stale.

A folder holds the state after each of the last epochs, the best weights in a
file of their own (they seldom change, and the state is large), and
`checkpoints.json`, which names them with their hashes. An epoch counts once
that file names it; what it does not name is removed.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fvc.errors import FvcError
from fvc.files import read_json, replacing, sha256_of_file, write_json

MANIFEST = "checkpoints.json"
KEPT = 2
"""The last one, and the one before it in case the last is damaged."""

Entry = dict[str, Any]


def save_checkpoint(
    folder: Path,
    binding: str,
    *,
    epoch: int,
    state: Mapping[str, Any],
    best_epoch: int,
    weights: Mapping[str, Tensor],
) -> None:
    """Add the checkpoint of an epoch, and remove those no longer needed.

    Args:
        folder: Made if need be.
        binding: What the training depends on, as a hash; `load_checkpoint`
            passes over checkpoints of another one.
        epoch: Counted from 0.
        state: Tensors and plain values.
        best_epoch: The best so far. Its weights are written when it is this
            one, and were written with its own checkpoint when it is not.
        weights: The network's, after this epoch.

    Raises:
        ValueError: The best epoch is an earlier one that has no checkpoint here.
    """
    earlier = [entry for entry in _entries(folder, binding) if entry["epoch"] < epoch]
    entry: Entry = {"epoch": epoch, "file": f"epoch-{epoch:04d}.pt"}
    if best_epoch == epoch:
        entry["best_file"] = f"best-{epoch:04d}.pt"
        entry["best_sha256"] = _write(folder / entry["best_file"], dict(weights))
    elif earlier:
        entry |= {name: earlier[-1][name] for name in ("best_file", "best_sha256")}
    else:
        raise ValueError(f"epoch {epoch}: the weights of epoch {best_epoch} were never saved")
    entry["sha256"] = _write(folder / entry["file"], dict(state))
    kept = [*earlier, entry][-KEPT:]
    write_json(folder / MANIFEST, {"binding": binding, "checkpoints": kept})
    _remove_unnamed(folder, kept)


def load_checkpoint(folder: Path, binding: str) -> dict[str, Any] | None:
    """Load the state of the newest undamaged checkpoint of `binding`, on the CPU.

    Returns:
        None where there is no such checkpoint. A damaged one, or one whose
        best weights are, is passed over with a line on stderr.
    """
    entries = _entries(folder, binding)
    if not entries and (folder / MANIFEST).exists():
        cause = "damaged, or of other parameters, data, folds or device"
        sys.stderr.write(f"{folder / MANIFEST}: {cause}; starting anew\n")
    for entry in reversed(entries):
        damaged = _damaged(folder, entry)
        if damaged is None:
            return _read(folder / entry["file"])
        sys.stderr.write(f"{damaged}: damaged; going back to the checkpoint before\n")
    return None


def load_best_weights(folder: Path, binding: str) -> dict[str, Tensor]:
    """Load the best weights so far, as the newest checkpoint names them, on the CPU.

    Raises:
        FvcError: There is no checkpoint, or it is damaged.
    """
    entry = _newest(folder, binding)
    damaged = _damaged(folder, entry)
    if damaged is not None:
        raise FvcError(damaged, "is damaged", "Run 'dvc repro train' to go on from the one before")
    return _read(folder / entry["best_file"])


def newest_checkpoint(folder: Path, binding: str) -> Path:
    """The file of the newest checkpoint.

    Raises:
        FvcError: There is none.
    """
    return folder / str(_newest(folder, binding)["file"])


def _write(target: Path, value: dict[str, Any]) -> str:
    with replacing(target) as partial:
        # To a stream: torch.save would write the name of a path into the file.
        with partial.open("wb") as stream:
            torch.save(value, stream)
        return sha256_of_file(partial)


def _read(source: Path) -> dict[str, Any]:
    return torch.load(source, map_location="cpu", weights_only=True)


def _entries(folder: Path, binding: str) -> list[Entry]:
    """What the manifest names, oldest first; nothing where it cannot be used."""
    try:
        manifest = read_json(folder / MANIFEST, "train")
    except FvcError:
        return []
    return manifest["checkpoints"] if manifest["binding"] == binding else []


def _newest(folder: Path, binding: str) -> Entry:
    entries = _entries(folder, binding)
    if not entries:
        raise FvcError(folder, "holds no checkpoint of this training", "Run 'dvc repro train'")
    return entries[-1]


def _damaged(folder: Path, entry: Entry) -> Path | None:
    """The first file of a checkpoint that is not what was written."""
    for name in ("", "best_"):
        source = folder / entry[f"{name}file"]
        if not source.is_file() or sha256_of_file(source) != entry[f"{name}sha256"]:
            return source
    return None


def _remove_unnamed(folder: Path, kept: list[Entry]) -> None:
    named = {entry[key] for entry in kept for key in ("file", "best_file")}
    for path in [*folder.glob("*.pt"), *folder.glob(".*.pt.partial")]:
        if path.name not in named:
            path.unlink()
