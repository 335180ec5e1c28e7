"""The examples that a fold trains on: stored clips, and augmented versions stored or made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from fvc.clip_files import load_clips
from fvc.config import AugmentConfig

Key = tuple[int, int]
"""The epoch, counted from 0, and the number of an example."""
Example = tuple[Tensor, int]
"""A clip, uint8 of (T, C, H, W), and its label: 1 is fake. With flow, C is 5."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How versions are made while a network trains: as stage `augment` would have made them."""

    config: AugmentConfig
    seed: int
    """Of `params.yaml`."""


def versions_of(config: AugmentConfig, seed: int, augmented: Path) -> Path | Augmentation | None:
    """Where the augmented versions come from: a folder, the loader, or nowhere."""
    if not config.versions:
        return None
    return augmented if config.mode == "stored" else Augmentation(config=config, seed=seed)


class ClipDataset(Dataset[Example]):
    """All clips and all augmented versions of some videos, one example each.

    An example depends on its key alone, so that any process may make it, and
    training can go on anywhere in an epoch. The files are mapped once, when
    the dataset is made, so that a missing one is found before the first epoch.

    Args:
        videos: Labels by video id.
        clips: The folder of the clips.
        versions: The folder of the stored versions, or how to make them, new
            ones in every epoch; None for none.
        flow: The folder of the flow of the clips and of the stored versions;
            None where the network does not see it.

    Raises:
        FvcError: A file is missing or damaged.
    """

    labels: Int[np.ndarray, " examples"]
    """Of each example; 1 is fake."""

    def __init__(
        self,
        videos: Mapping[str, int],
        clips: Path,
        versions: Path | Augmentation | None,
        flow: Path | None = None,
    ) -> None:
        self._origin = (dict(videos), clips, versions, flow)
        self._names = list(videos)
        self._augmentation = versions if isinstance(versions, Augmentation) else None
        self._clips = [load_clips(clips / f"{name}.pt", "clips") for name in videos]
        self._versions = (
            [load_clips(versions / f"{name}.pt", "augment") for name in videos]
            if isinstance(versions, Path)
            else []
        )
        self._flow = [load_clips(flow / f"{name}.pt", "flow") for name in videos] if flow else []
        counts = [len(own) + self._num_versions(row) for row, own in enumerate(self._clips)]
        self._places = [(row, place) for row, count in enumerate(counts) for place in range(count)]
        self.labels = np.repeat(np.array(list(videos.values()), np.int64), counts)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: Key) -> Example:
        epoch, index = key
        row, place = self._places[index]
        label, version = int(self.labels[index]), place - len(self._clips[row])
        if version >= 0 and self._augmentation is not None:
            return self._made(row, epoch, version, self._augmentation), label
        stored = self._clips[row][place] if version < 0 else self._versions[row][version]
        return torch.cat([stored, self._flow[row][place]], 1) if self._flow else stored, label

    def hold(self, keep: Callable[[Sequence[Tensor]], list[Tensor]]) -> None:
        """Read from copies instead of files: `keep` gives those of the tensors it is given."""
        held = iter(keep([*self._clips, *self._versions, *self._flow]))
        self._clips, self._versions, self._flow = (
            list(islice(held, len(own))) for own in (self._clips, self._versions, self._flow)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker that is sent the dataset maps the files itself: no pixels travel.
        return ClipDataset, self._origin

    def _num_versions(self, row: int) -> int:
        if self._augmentation is not None:
            return self._augmentation.config.versions
        return len(self._versions[row]) if self._versions else 0

    def _made(
        self, row: int, epoch: int, version: int, augmentation: Augmentation
    ) -> UInt8[Tensor, "T C H W"]:
        # Imported here: a machine that only trains on stored versions has no OpenCV.
        from fvc.transforms import augmented_version

        config = augmentation.config
        made = augmented_version(
            self._clips[row].numpy(),
            self._names[row],
            epoch * config.versions + version,
            config,
            augmentation.seed,
        )
        if not self._flow:
            return torch.from_numpy(made)
        from fvc.flow import clip_flow

        return torch.from_numpy(np.concatenate([made, clip_flow(made)], 1))
