"""What a fold trains on, and in which batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fvc.clip_files import load_clips
from fvc.seeding import generator_for

LABELS = {"real": 0, "fake": 1}
PARTS = ("train", "validation", "test")


def videos_of_fold(rows: Iterable[Mapping[str, Any]], fold: int) -> dict[str, dict[str, int]]:
    """Divide the videos of `folds.parquet` into what trains, chooses and tests one fold.

    Args:
        rows: With the columns of the folds table.
        fold: Which fold.

    Returns:
        For each of `train`, `validation` and `test`: labels (1 is fake) by
        video id, sorted. Videos of the locked test are in none.

    Raises:
        ValueError: A part has no video.
    """
    parts: dict[str, dict[str, int]] = {name: {} for name in PARTS}
    for row in sorted(rows, key=lambda row: row["video_id"]):
        if row["part"] == "fold":
            parts[_part(row, fold)][row["video_id"]] = LABELS[row["label"]]
    empty = [name for name, videos in parts.items() if not videos]
    if empty:
        raise ValueError(f"fold {fold} has no video to {' or '.join(empty)}")
    return parts


def _part(row: Mapping[str, Any], fold: int) -> str:
    if row["fold"] == fold:
        return "test"
    return "validation" if fold in row["validates"] else "train"


def video_clips(videos: Iterable[str], clips: Path) -> Iterator[UInt8[Tensor, "N T C H W"]]:
    """The stored clips of each video, mapped when it is asked for.

    Raises:
        FvcError: A file is missing or damaged.
    """
    for video_id in videos:
        yield load_clips(clips / f"{video_id}.pt", "clips")


class ClipDataset(Dataset[tuple[Tensor, Tensor]]):
    """All clips and all augmented versions of some videos, one example each.

    The files are mapped, not read, when the dataset is made, so that a missing
    one is found before the first epoch.

    Args:
        videos: Labels by video id.
        clips: The folder of the clips.
        augmented: The folder of the augmented versions, or None for none.

    Raises:
        FvcError: A file is missing or damaged.
    """

    def __init__(self, videos: Mapping[str, int], clips: Path, augmented: Path | None) -> None:
        folders = [(clips, "clips")] + ([(augmented, "augment")] if augmented else [])
        mapped = [
            (load_clips(folder / f"{video_id}.pt", stage), label)
            for video_id, label in videos.items()
            for folder, stage in folders
        ]
        self._examples = [(clip, label) for tensor, label in mapped for clip in tensor]
        self.labels = np.array([label for _, label in self._examples], np.int64)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "T C H W"], Float[Tensor, ""]]:
        clip, label = self._examples[index]
        return clip, torch.tensor(float(label))


class BalancedBatches(Sampler[list[int]]):
    """Batches of indices, half of them real and half fake, for one epoch.

    The epoch passes over the larger class once; the smaller one is repeated,
    each of its examples as often as any other or once more. Real and fake
    alternate throughout, so batches of an odd size, or of one, balance too.

    Args:
        labels: 1 is fake.
        batch_size: The last batch may be smaller.
        seed: Of `params.yaml`; the order depends on it and on `epoch` alone.
        epoch: Counted from 0.

    Raises:
        ValueError: The batch size is below 1, or a class has no example.
    """

    def __init__(
        self, labels: Int[np.ndarray, "E"], batch_size: int, *, seed: int, epoch: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, below 1")
        generator = generator_for(seed, "batches", epoch)
        classes = [np.flatnonzero(labels == label) for label in LABELS.values()]
        for name, members in zip(LABELS, classes, strict=True):
            if not len(members):
                raise ValueError(f"no example is {name}")
        length = max(len(members) for members in classes)
        orders = [_repeated(members, length, generator) for members in classes]
        alternating = np.stack(orders, axis=1).reshape(-1)
        starts = range(0, len(alternating), batch_size)
        self._batches = [alternating[start : start + batch_size].tolist() for start in starts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _repeated(
    members: Int[np.ndarray, "M"], length: int, generator: np.random.Generator
) -> Int[np.ndarray, "L"]:
    """Shuffle the members again and again until there are `length` of them."""
    rounds = -(-length // len(members))
    return np.concatenate([generator.permutation(members) for _ in range(rounds)])[:length]


def training_batches(
    dataset: ClipDataset, batch_size: int, *, seed: int, epoch: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """The batches of one epoch: stored clips (B, T, C, H, W) and their labels (B).

    No workers: for tensors that only have to be copied from mapped files they
    cost two to four times more than they save.

    Raises:
        ValueError: A class has no example.
    """
    batches = BalancedBatches(dataset.labels, batch_size, seed=seed, epoch=epoch)
    # A generator of its own, or the loader would draw from torch's global random state.
    return DataLoader(
        dataset, batch_sampler=batches, collate_fn=stacked, generator=torch.Generator()
    )


def stacked(
    examples: Sequence[tuple[UInt8[Tensor, "T C H W"], Float[Tensor, ""]]],
) -> tuple[UInt8[Tensor, "B T C H W"], Float[Tensor, "B"]]:
    """Make a batch of its examples."""
    clips, labels = zip(*examples, strict=True)
    return torch.stack(clips), torch.stack(labels)
