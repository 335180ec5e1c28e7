import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from source_tree import ROOT
from torch import Tensor

from fvc.clip_files import Job, load_clips, save_clips
from fvc.config import AugmentConfig, load_params
from fvc.dataset import Augmentation, ClipDataset
from fvc.errors import FvcError
from fvc.stages.augment import store_versions


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path]:
    """Two clips and three augmented versions of four videos; the value says which."""
    clips, augmented = tmp_path / "clips", tmp_path / "augmented"
    for number, video_id in enumerate("abcd"):
        for folder, count, base in ((clips, 2, 0), (augmented, 3, 100)):
            values = np.arange(count, dtype=np.uint8) + 10 * number + base
            pixels = np.broadcast_to(values[:, None, None, None, None], (count, 4, 3, 6, 6))
            save_clips(folder / f"{video_id}.pt", pixels, "key")
    return clips, augmented


VIDEOS = {"a": 0, "b": 1, "c": 1}


def contents(dataset: ClipDataset, epoch: int = 0) -> list[tuple[bytes, int]]:
    examples = [dataset[epoch, index] for index in range(len(dataset))]
    return [(clip.numpy().tobytes(), label) for clip, label in examples]


def test_every_clip_and_version_of_the_videos_is_an_example(stored: tuple[Path, Path]) -> None:
    dataset = ClipDataset(VIDEOS, *stored)
    values = {int(dataset[0, index][0][0, 0, 0, 0]): dataset[0, index][1] for index in range(15)}
    expected = {
        10 * number + value: label
        for number, label in enumerate(VIDEOS.values())
        for value in (0, 1, 100, 101, 102)
    }
    assert len(dataset) == 15
    assert values == expected
    assert dataset.labels.tolist() == [dataset[0, index][1] for index in range(15)]


def test_stored_examples_are_the_same_in_every_epoch(stored: tuple[Path, Path]) -> None:
    dataset = ClipDataset(VIDEOS, *stored)
    assert contents(dataset, epoch=5) == contents(dataset)


def test_without_augmented_versions_the_clips_remain(stored: tuple[Path, Path]) -> None:
    assert len(ClipDataset(VIDEOS, stored[0], None)) == 6


def test_videos_may_have_clips_of_their_own_number_and_size(tmp_path: Path) -> None:
    for number, video_id in enumerate("abc", start=1):
        pixels = np.full((number, 4, 3, 4 * number, 12), number, np.uint8)
        save_clips(tmp_path / f"{video_id}.pt", pixels, "key")
    dataset = ClipDataset(VIDEOS, tmp_path, None)
    found = [(int(clip.max()), clip.shape[2], label) for clip, label in examples_of(dataset)]
    assert found == [(1, 4, 0), (2, 8, 1), (2, 8, 1), (3, 12, 1), (3, 12, 1), (3, 12, 1)]


def examples_of(dataset: ClipDataset) -> list[tuple[Tensor, int]]:
    return [dataset[0, index] for index in range(len(dataset))]


@pytest.mark.parametrize(("folder", "stage"), [(0, "clips"), (1, "augment")])
def test_a_missing_file_is_named_with_its_stage(
    stored: tuple[Path, Path], folder: int, stage: str
) -> None:
    (stored[folder] / "b.pt").unlink()
    with pytest.raises(FvcError, match=f"b.pt: is missing. Run 'dvc repro {stage}'"):
        ClipDataset(VIDEOS, *stored)


def test_a_copy_sent_elsewhere_holds_the_same_and_no_pixels(stored: tuple[Path, Path]) -> None:
    dataset = ClipDataset(VIDEOS, *stored)
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000, "the clips travel with the dataset"
    assert contents(pickle.loads(sent)) == contents(dataset)


AUGMENT = replace(load_params(ROOT / "params.yaml").augment, versions=3)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Three videos of two clips each."""
    generator = np.random.default_rng(0)
    for video_id in VIDEOS:
        pixels = generator.integers(0, 256, (2, 4, 3, 16, 20), np.uint8)
        save_clips(tmp_path / "clips" / f"{video_id}.pt", pixels, "key")
    return tmp_path / "clips"


def live(clips: Path, seed: int = 0) -> ClipDataset:
    return ClipDataset(VIDEOS, clips, Augmentation(config=AUGMENT, seed=seed))


def store(clips: Path, video_id: str, augmented: Path, config: AugmentConfig) -> Tensor:
    """The versions that stage augment would store."""
    job = Job(clips / f"{video_id}.pt", augmented / f"{video_id}.pt", "key")
    store_versions(job, config=config, seed=0)
    return load_clips(job.target, "augment")


def test_the_first_epoch_on_the_fly_is_what_would_be_stored(noise: Path, tmp_path: Path) -> None:
    for video_id in VIDEOS:
        store(noise, video_id, tmp_path / "augmented", AUGMENT)
    stored = ClipDataset(VIDEOS, noise, tmp_path / "augmented")
    made = live(noise)
    assert len(made) == len(stored) == 15
    assert made.labels.tolist() == stored.labels.tolist()
    assert contents(made) == contents(stored)


def test_later_epochs_make_the_versions_after_those(noise: Path, tmp_path: Path) -> None:
    made = live(noise)
    later = replace(AUGMENT, versions=9)
    for row, video_id in enumerate(VIDEOS):
        all_of_them = store(noise, video_id, tmp_path / "augmented", later)
        for epoch in range(3):
            for version in range(3):
                clip, _ = made[epoch, 5 * row + 2 + version]
                assert torch.equal(clip, all_of_them[3 * epoch + version])


def test_an_example_on_the_fly_depends_on_its_key_alone(noise: Path) -> None:
    made = live(noise)
    ahead = [made[2, index][0] for index in reversed(range(15))][::-1]
    again = [live(noise)[2, index][0] for index in range(15)]
    assert all(torch.equal(*pair) for pair in zip(ahead, again, strict=True))
    other = [live(noise, seed=1)[2, index][0] for index in range(15)]
    assert not all(torch.equal(*pair) for pair in zip(ahead, other, strict=True))


def test_held_clips_are_read_no_more(noise: Path) -> None:
    made = live(noise)
    before = contents(made, epoch=1)
    made.hold(lambda clips: [clip.clone() for clip in clips])
    assert contents(made, epoch=1) == before
    made.hold(lambda clips: [torch.zeros_like(clip) for clip in clips])
    assert contents(made, epoch=1) != before
