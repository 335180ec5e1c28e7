"""Which videos train, choose and test a fold, and their stored clips."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from fvc.clip_files import load_clips

LABELS = {"real": 0, "fake": 1}
PARTS = ("train", "validation", "test")
Parts = Mapping[str, Mapping[str, int]]
"""Labels (1 is fake) by video id, for each of PARTS."""


def videos_of_fold(rows: Iterable[Mapping[str, Any]], fold: int) -> dict[str, dict[str, int]]:
    """Divide the videos of `folds.parquet` into what trains, chooses and tests one fold.

    Args:
        rows: With the columns of the folds table.
        fold: Which fold.

    Returns:
        For each of `train`, `validation` and `test`: labels (1 is fake) by
        video id, sorted. Videos of the locked test are in none.

    Raises:
        ValueError: A part has no video, or all that trains is of one class.
    """
    parts: dict[str, dict[str, int]] = {name: {} for name in PARTS}
    for row in sorted(rows, key=lambda row: row["video_id"]):
        if row["part"] == "fold":
            parts[part_of(row, fold)][row["video_id"]] = LABELS[row["label"]]
    empty = [name for name, videos in parts.items() if not videos]
    if empty:
        raise ValueError(f"fold {fold} has no video to {' or '.join(empty)}")
    missing = [name for name, label in LABELS.items() if label not in parts["train"].values()]
    if missing:
        raise ValueError(f"fold {fold} has no {missing[0]} video to train")
    return parts


def part_of(row: Mapping[str, Any], fold: int) -> str:
    """What a video is to a fold: `train`, `validation` or `test`, or `locked`."""
    if row["part"] == "locked":
        return "locked"
    if row["fold"] == fold:
        return "test"
    return "validation" if fold in row["validates"] else "train"


def video_clips(
    videos: Iterable[str], clips: Path, flow: Path | None = None
) -> Iterator[UInt8[Tensor, "N T C H W"]]:
    """The stored clips of each video, mapped when it is asked for.

    Args:
        videos: Their ids.
        clips: The folder of the clips.
        flow: The folder of their flow, which is then two more channels.

    Raises:
        FvcError: A file is missing or damaged.
    """
    for video_id in videos:
        pixels = load_clips(clips / f"{video_id}.pt", "clips")
        if flow is None:
            yield pixels
        else:
            # That of the augmented versions comes after that of the clips.
            moved = load_clips(flow / f"{video_id}.pt", "flow")[: len(pixels)]
            yield torch.cat([pixels, moved], 2)
