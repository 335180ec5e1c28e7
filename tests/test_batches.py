import logging
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from fvc.batches import Batch, EpochBatches, collate


def indices(
    labels: np.ndarray, batch_size: int, *, seed: int = 0, epoch: int = 0, first: int = 0
) -> list[list[int]]:
    batches = EpochBatches(labels, batch_size, seed)
    batches.epoch, batches.first = epoch, first
    drawn = list(batches)
    assert len(batches) == len(drawn)
    assert {number for batch in drawn for number, _ in batch} <= {epoch}
    return [[index for _, index in batch] for batch in drawn]


def labels_of(reals: int, fakes: int) -> np.ndarray:
    return np.array([0] * reals + [1] * fakes)


def batches(reals: int, fakes: int, batch_size: int) -> list[np.ndarray]:
    labels = labels_of(reals, fakes)
    return [labels[batch] for batch in indices(labels, batch_size)]


@pytest.mark.parametrize(("reals", "fakes"), [(12, 12), (5, 17), (30, 4)])
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
    labels = labels_of(reals, fakes)
    counts = Counter(index for batch in indices(labels, 4, seed=seed) for index in batch)
    for label, size in ((0, reals), (1, fakes)):
        times = [counts[int(index)] for index in np.flatnonzero(labels == label)]
        assert sum(times) == max(reals, fakes)
        assert max(times) - min(times) <= 1, "an example is repeated more than its like"
        if size == max(reals, fakes):
            assert set(times) == {1}


SIZES = [(20, 20, 8), (40, 3, 8), (3, 40, 32)]


@pytest.mark.parametrize(("reals", "fakes", "batch_size"), SIZES)
def test_the_order_depends_on_seed_and_epoch_alone(reals: int, fakes: int, batch_size: int) -> None:
    labels = labels_of(reals, fakes)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return indices(labels, batch_size, seed=seed, epoch=epoch)

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert order(0, 0) == first
    assert torch.equal(torch.get_rng_state(), state), "drawing moved torch's random state"
    assert order(0, 1) != first
    assert order(1, 0) != first


@pytest.mark.parametrize(("reals", "fakes", "batch_size"), SIZES)
def test_an_epoch_can_begin_with_any_batch(reals: int, fakes: int, batch_size: int) -> None:
    labels = labels_of(reals, fakes)
    whole = indices(labels, batch_size, epoch=3)
    for first in range(len(whole) + 1):
        assert indices(labels, batch_size, epoch=3, first=first) == whole[first:]


@pytest.mark.parametrize(("reals", "fakes"), [(400, 3), (2, 300)])
def test_a_class_too_small_for_half_a_batch_is_drawn_by_weight(reals: int, fakes: int) -> None:
    labels = labels_of(reals, fakes)
    drawn = np.concatenate([indices(labels, 8, epoch=epoch) for epoch in range(20)]).ravel()
    assert len(drawn) == 20 * 2 * max(reals, fakes)
    share = labels[drawn].mean()
    # Five standard deviations of as many fair coins.
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(len(drawn)), "the classes are not equally likely"
    small = np.flatnonzero(labels == (1 if fakes < reals else 0))
    times = [np.count_nonzero(drawn == index) for index in small]
    assert min(times) > 0.9 * max(times), "an example is likelier than its like"
    per_batch = {int(labels[batch].sum()) for batch in indices(labels, 8)}
    assert len(per_batch) > 1, "these batches alternate"


@pytest.mark.parametrize(("smaller", "said"), [(3, 1), (4, 0)])
def test_small_classes_are_named_once(
    smaller: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fvc"):
        batches = EpochBatches(labels_of(50, smaller), 8, 0)
        for batches.epoch in range(3):
            list(batches)
    assert len(caplog.messages) == said
    if said:
        assert caplog.messages[0].startswith("50 real and 3 fake training examples: too few")


@pytest.mark.parametrize(("labels", "missing"), [([1, 1], "real"), ([0], "fake"), ([], "real")])
def test_a_class_without_example_is_refused(labels: list[int], missing: str) -> None:
    with pytest.raises(ValueError, match=f"no example is {missing}"):
        EpochBatches(np.array(labels, np.int64), 2, 0)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        EpochBatches(np.array([0, 1]), 0, 0)


def random_clip(height: int, width: int) -> Tensor:
    return torch.randint(1, 256, (2, 3, height, width), dtype=torch.uint8)


def test_equal_clips_are_stacked() -> None:
    clips = [random_clip(5, 7) for _ in range(3)]
    pixels, labels, mask = collate(list(zip(clips, (0, 1, 1), strict=True)))
    assert torch.equal(pixels, torch.stack(clips))
    assert (labels.dtype, labels.tolist()) == (torch.float32, [0, 1, 1])
    assert mask is None


def test_smaller_clips_are_padded_at_the_bottom_and_right() -> None:
    sizes = [(5, 8), (8, 3), (8, 8), (1, 8)]
    clips = [random_clip(*size) for size in sizes]

    def used_before(shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, 77, dtype=torch.uint8)

    batch = collate([(clip, 0) for clip in clips], used_before)
    assert isinstance(batch, Batch)
    assert batch.pixels.shape == (4, 2, 3, 8, 8)
    assert batch.mask is not None
    for pixels, own, clip, (height, width) in zip(
        batch.pixels, batch.mask, clips, sizes, strict=True
    ):
        assert torch.equal(pixels[..., :height, :width], clip)
        assert int(own.sum()) == height * width
        assert own[:height, :width].all()
        assert not (pixels * ~own).any(), "padding holds what was in memory before"


def test_clips_cut_from_a_larger_tensor_are_copied_whole() -> None:
    whole = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    pixels, _, _ = collate([(whole[..., :4, 2:8], 0), (whole[..., 1:5, :6], 1)])
    assert torch.equal(pixels[0], whole[..., :4, 2:8])
    assert torch.equal(pixels[1], whole[..., 1:5, :6])
