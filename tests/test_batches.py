import logging
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fvc.batches import Batch, EpochBatches, collate
from fvc.config import Imbalance


def indices(
    labels: np.ndarray,
    batch_size: int,
    imbalance: Imbalance = "balanced_batches",
    *,
    seed: int = 0,
    epoch: int = 0,
    first: int = 0,
) -> list[list[int]]:
    batches = EpochBatches(labels, batch_size, seed, imbalance)
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


KINDS: tuple[Imbalance, ...] = ("balanced_batches", "class_weights", "weighted_sampler", "none")
SIZES = [(20, 20, 8), (40, 3, 8), (3, 40, 32)]


@pytest.mark.parametrize("imbalance", KINDS)
@pytest.mark.parametrize(("reals", "fakes", "batch_size"), SIZES)
def test_the_order_depends_on_seed_and_epoch_alone(
    reals: int, fakes: int, batch_size: int, imbalance: Imbalance
) -> None:
    labels = labels_of(reals, fakes)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return indices(labels, batch_size, imbalance, seed=seed, epoch=epoch)

    torch.manual_seed(1)
    first = order(0, 0)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert order(0, 0) == first
    assert torch.equal(torch.get_rng_state(), state), "drawing moved torch's random state"
    assert order(0, 1) != first
    assert order(1, 0) != first


@pytest.mark.parametrize("imbalance", KINDS)
@pytest.mark.parametrize(("reals", "fakes", "batch_size"), [*SIZES, (5, 4, 2), (1, 1, 1)])
def test_an_epoch_can_begin_with_any_batch(
    reals: int, fakes: int, batch_size: int, imbalance: Imbalance
) -> None:
    labels = labels_of(reals, fakes)
    whole = indices(labels, batch_size, imbalance, epoch=3)
    for first in range(len(whole) + 1):
        rest = indices(labels, batch_size, imbalance, epoch=3, first=first)
        assert rest == whole[first:], "a resumed epoch would go on with other clips"


@pytest.mark.parametrize("imbalance", ["none", "class_weights"])
@settings(deadline=None)
@given(data=st.data())
def test_an_epoch_has_every_example_once(imbalance: Imbalance, data: st.DataObject) -> None:
    drawn_labels = data.draw(st.lists(st.sampled_from([0, 1]), min_size=2, max_size=40))
    labels = np.array([0, 1, *drawn_labels])
    batch_size = data.draw(st.integers(1, 50))
    epochs = [indices(labels, batch_size, imbalance, epoch=epoch) for epoch in range(2)]
    for batches_of_epoch in epochs:
        together = [index for batch in batches_of_epoch for index in batch]
        assert sorted(together) == list(range(len(labels)))
        assert all(len(batch) == batch_size for batch in batches_of_epoch[:-1])


def test_examples_are_shuffled_and_not_sorted_by_class() -> None:
    labels = labels_of(300, 100)
    for epoch in range(3):
        shares = [labels[batch].mean() for batch in indices(labels, 100, "none", epoch=epoch)]
        # Five standard deviations of a hundred drawn from these without replacement.
        assert all(abs(share - 0.25) < 5 * 0.0375 for share in shares)


@pytest.mark.parametrize("imbalance", KINDS)
def test_nothing_is_said_where_the_classes_fill_their_batches(
    imbalance: Imbalance, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fvc"):
        indices(labels_of(9, 20), 8, imbalance)
        if imbalance != "balanced_batches":
            indices(labels_of(100, 1), 8, imbalance)
    assert not caplog.messages


DRAWN: list[tuple[int, int, Imbalance]] = [
    (400, 3, "balanced_batches"),
    (2, 300, "balanced_batches"),
    (400, 3, "weighted_sampler"),
    (40, 300, "weighted_sampler"),
]


@pytest.mark.parametrize(("reals", "fakes", "imbalance"), DRAWN)
def test_weights_make_the_classes_equally_likely(
    reals: int, fakes: int, imbalance: Imbalance
) -> None:
    labels = labels_of(reals, fakes)
    epochs = [indices(labels, 8, imbalance, epoch=epoch) for epoch in range(20)]
    drawn = np.concatenate(epochs).ravel()
    assert len(drawn) == 20 * 2 * max(reals, fakes)
    share = labels[drawn].mean()
    # Five standard deviations of as many fair coins.
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(len(drawn)), "the classes are not equally likely"
    small = np.flatnonzero(labels == (1 if fakes < reals else 0))
    times = np.array([np.count_nonzero(drawn == index) for index in small])
    mean = len(drawn) / 2 / len(small)
    # Five standard deviations of a count that is nearly Poisson's.
    assert np.all(abs(times - mean) < 5 * np.sqrt(mean)), "an example is likelier than its like"
    per_batch = {int(labels[batch].sum()) for batch in epochs[0]}
    assert len(per_batch) > 1, "these batches alternate"


@pytest.mark.parametrize(("smaller", "said"), [(3, 1), (4, 0)])
def test_small_classes_are_named_once(
    smaller: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "fvc"):
        batches = EpochBatches(labels_of(50, smaller), 8, 0, "balanced_batches")
        for batches.epoch in range(3):
            list(batches)
    assert len(caplog.messages) == said
    if said:
        assert caplog.messages[0].startswith("50 real and 3 fake training examples: too few")


@pytest.mark.parametrize("imbalance", KINDS)
@pytest.mark.parametrize(("labels", "missing"), [([1, 1], "real"), ([0], "fake"), ([], "real")])
def test_a_class_without_example_is_refused(
    labels: list[int], missing: str, imbalance: Imbalance
) -> None:
    with pytest.raises(ValueError, match=f"no example is {missing}"):
        EpochBatches(np.array(labels, np.int64), 2, 0, imbalance)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        EpochBatches(np.array([0, 1]), 0, 0, "none")


def random_clip(height: int, width: int) -> Tensor:
    return torch.randint(1, 256, (2, 3, height, width), dtype=torch.uint8)


def test_equal_clips_are_stacked() -> None:
    clips = [random_clip(5, 7) for _ in range(3)]
    pixels, labels, mask, *_ = collate(list(zip(clips, (0, 1, 1), strict=True)))
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
    pixels, *_ = collate([(whole[..., :4, 2:8], 0), (whole[..., 1:5, :6], 1)])
    assert torch.equal(pixels[0], whole[..., :4, 2:8])
    assert torch.equal(pixels[1], whole[..., 1:5, :6])
