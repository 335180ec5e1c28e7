from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fvc.clip_files import save_clips
from fvc.dataset import (
    BalancedBatches,
    ClipDataset,
    training_batches,
    video_clips,
    videos_of_fold,
)
from fvc.errors import FvcError


def row(video_id: str, label: str, fold: int | None, validates: list[int]) -> dict[str, Any]:
    part = "locked" if fold is None else "fold"
    return {
        "video_id": video_id,
        "group": video_id,
        "label": label,
        "part": part,
        "fold": fold,
        "validates": validates,
    }


ROWS = [
    row("tests_0", "real", 0, [1]),
    row("tests_1", "fake", 1, [2]),
    row("tests_2", "real", 2, [0]),
    row("locked", "fake", None, []),
]
UNTESTED: dict[str, list[int]] = {"trains": [], "validates": [0]}


@pytest.mark.parametrize("fold", range(3))
def test_each_video_of_a_fold_has_one_part(fold: int) -> None:
    parts = videos_of_fold(ROWS, fold)
    assert list(parts["test"]) == [f"tests_{fold}"]
    assert list(parts["validation"]) == [f"tests_{(fold - 1) % 3}"]
    assert list(parts["train"]) == [f"tests_{(fold + 1) % 3}"]


def test_fake_is_one_and_the_order_of_rows_is_nothing() -> None:
    assert videos_of_fold(ROWS, 0) == videos_of_fold(ROWS[::-1], 0)
    assert videos_of_fold(ROWS, 1)["test"] == {"tests_1": 1}
    assert videos_of_fold(ROWS, 2)["test"] == {"tests_2": 0}


def test_a_single_division_trains_on_what_no_fold_tests() -> None:
    rows = [row("tests", "real", 0, []), row("locked", "fake", None, [])]
    rows += [{**row(name, "fake", None, held), "part": "fold"} for name, held in UNTESTED.items()]
    parts = videos_of_fold(rows, 0)
    assert {part: list(videos) for part, videos in parts.items()} == {
        "train": ["trains"],
        "validation": ["validates"],
        "test": ["tests"],
    }


def test_a_fold_without_validation_is_refused() -> None:
    rows = [{**row, "validates": []} for row in ROWS]
    with pytest.raises(ValueError, match="fold 0 has no video to validation"):
        videos_of_fold(rows, 0)


def batches(reals: int, fakes: int, batch_size: int, epoch: int = 0) -> list[np.ndarray]:
    labels = np.array([0] * reals + [1] * fakes)
    return [labels[batch] for batch in BalancedBatches(labels, batch_size, seed=0, epoch=epoch)]


@pytest.mark.parametrize(("reals", "fakes"), [(12, 12), (5, 17), (30, 1)])
@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_each_batch_is_half_real_and_half_fake(reals: int, fakes: int, batch_size: int) -> None:
    drawn = batches(reals, fakes, batch_size)
    assert all(2 * batch.sum() == len(batch) for batch in drawn)
    assert all(len(batch) == batch_size for batch in drawn[:-1])


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_odd_batches_alternate(batch_size: int) -> None:
    drawn = batches(9, 15, batch_size)
    surplus = [2 * int(batch.sum()) - batch_size for batch in drawn if len(batch) == batch_size]
    assert surplus == [-1 if position % 2 == 0 else 1 for position in range(len(surplus))]


@pytest.mark.parametrize(("reals", "fakes"), [(7, 20), (20, 7), (8, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_passes_over_the_larger_class_once(reals: int, fakes: int, seed: int) -> None:
    labels = np.array([0] * reals + [1] * fakes)
    counts = Counter(
        index for batch in BalancedBatches(labels, 4, seed=seed, epoch=0) for index in batch
    )
    for label, size in ((0, reals), (1, fakes)):
        times = [counts[int(index)] for index in np.flatnonzero(labels == label)]
        assert sum(times) == max(reals, fakes)
        assert max(times) - min(times) <= 1, "an example is repeated more than its like"
        if size == max(reals, fakes):
            assert set(times) == {1}


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    labels = np.arange(40) % 2

    def order(seed: int, epoch: int) -> list[list[int]]:
        return list(BalancedBatches(labels, 8, seed=seed, epoch=epoch))

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    assert order(0, 0) == first
    assert order(0, 1) != first
    assert order(1, 0) != first


@pytest.mark.parametrize(("labels", "missing"), [([1, 1], "real"), ([0], "fake"), ([], "real")])
def test_a_class_without_example_is_refused(labels: list[int], missing: str) -> None:
    with pytest.raises(ValueError, match=f"no example is {missing}"):
        BalancedBatches(np.array(labels, np.int64), 2, seed=0, epoch=0)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        BalancedBatches(np.array([0, 1]), 0, seed=0, epoch=0)


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


def test_every_clip_and_version_of_the_videos_is_an_example(stored: tuple[Path, Path]) -> None:
    dataset = ClipDataset(VIDEOS, *stored)
    values = {int(dataset[index][0][0, 0, 0, 0]): int(dataset[index][1]) for index in range(15)}
    expected = {
        10 * number + value: label
        for number, label in enumerate(VIDEOS.values())
        for value in (0, 1, 100, 101, 102)
    }
    assert len(dataset) == 15
    assert values == expected


def test_without_augmented_versions_the_clips_remain(stored: tuple[Path, Path]) -> None:
    assert len(ClipDataset(VIDEOS, stored[0], None)) == 6


def test_a_batch_holds_clips_as_stored(stored: tuple[Path, Path]) -> None:
    drawn = list(training_batches(ClipDataset(VIDEOS, *stored), 4, seed=0, epoch=0))
    assert len(drawn) == 5
    for pixels, labels in drawn:
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (4, 4, 3, 6, 6))
        assert (labels.dtype, labels.tolist()) == (torch.float32, [0, 1, 0, 1])
        assert [VIDEOS["abc"[value // 10 % 10]] for value in pixels[:, 0, 0, 0, 0].tolist()] == [
            0,
            1,
            0,
            1,
        ]


def test_loading_draws_no_random_numbers(stored: tuple[Path, Path]) -> None:
    state = torch.get_rng_state()
    list(training_batches(ClipDataset(VIDEOS, *stored), 4, seed=0, epoch=0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("folder", "stage"), [(0, "clips"), (1, "augment")])
def test_a_missing_file_is_named_with_its_stage(
    stored: tuple[Path, Path], folder: int, stage: str
) -> None:
    (stored[folder] / "b.pt").unlink()
    with pytest.raises(FvcError, match=f"b.pt: is missing. Run 'dvc repro {stage}'"):
        ClipDataset(VIDEOS, *stored)


def test_the_clips_of_a_video_are_its_own(stored: tuple[Path, Path]) -> None:
    first = [int(pixels[0, 0, 0, 0, 0]) for pixels in video_clips(["d", "a"], stored[0])]
    assert first == [30, 0]
