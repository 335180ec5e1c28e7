from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fvc.batches import Batch, collate
from fvc.training.mixing import Mixing, mixed_part, mixing_of

SIDES = st.tuples(st.integers(1, 6), st.integers(1, 6))


def normalise(pixels: Tensor, mask: Tensor | None) -> Tensor:
    """As the network does it: an affine map of the pixels, zero where nothing is."""
    clips = pixels.movedim(1, 2) / 100 - 1
    return clips if mask is None else clips.masked_fill(~mask[:, None, None], 0)


def batch_of(sides: list[tuple[int, int]], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    clips = [
        torch.randint(0, 256, (2, 3, *side), dtype=torch.uint8, generator=generator)
        for side in sides
    ]
    return collate([(clip, number % 2) for number, clip in enumerate(clips)])


def drawn(batch_size: int, alpha: float = 0.4, seed: int = 0) -> Mixing:
    mixing = mixing_of(batch_size, alpha, np.random.default_rng(seed))
    assert mixing is not None
    return mixing


@settings(deadline=None)
@given(sides=st.lists(SIDES, min_size=1, max_size=9), data=st.data())
def test_a_batch_is_mixed_the_same_however_it_is_cut(
    sides: list[tuple[int, int]], data: st.DataObject
) -> None:
    batch = batch_of(sides)
    mixing = drawn(len(sides), seed=data.draw(st.integers(0, 99)))
    size = data.draw(st.integers(1, len(sides)))
    whole = mixed_part(batch, mixing, normalise, first=0, last=len(sides))
    parts = [
        mixed_part(batch, mixing, normalise, first=first, last=min(first + size, len(sides)))
        for first in range(0, len(sides), size)
    ]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        if expected is None:
            assert set(found) == {None}
        else:
            # Vector instructions may round the last bit otherwise at the ends of a part.
            torch.testing.assert_close(torch.cat(found), expected, rtol=1e-6, atol=1e-6)


def test_clips_targets_and_masks_are_mixed_by_definition() -> None:
    batch = batch_of([(4, 4), (2, 4), (4, 3), (4, 4), (1, 1)])
    assert batch.mask is not None
    mixing = drawn(5, seed=3)
    clips, targets, mask = mixed_part(batch, mixing, normalise, first=1, last=4)
    assert mask is not None
    normal = normalise(batch.pixels, batch.mask)
    for row, own in enumerate(range(1, 4)):
        other = int(mixing.partners[own])
        share = mixing.share
        torch.testing.assert_close(clips[row], share * normal[own] + (1 - share) * normal[other])
        expected = share * batch.labels[own] + (1 - share) * batch.labels[other]
        torch.testing.assert_close(targets[row], expected)
        assert torch.equal(mask[row], batch.mask[own] | batch.mask[other])
        assert not (clips[row] * ~mask[row]).any(), "there is something outside the clip"


@pytest.mark.parametrize(("share", "takes"), [(1.0, [0, 1, 2]), (0.0, [2, 0, 1])])
def test_the_whole_share_is_the_clip_itself(share: float, takes: list[int]) -> None:
    batch = batch_of([(3, 3)] * 3)
    mixing = Mixing(share, np.array([2, 0, 1]))
    clips, targets, mask = mixed_part(batch, mixing, normalise, first=0, last=3)
    assert torch.equal(clips, normalise(batch.pixels, None)[takes])
    assert torch.equal(targets, batch.labels[takes])
    assert mask is None


def test_the_batch_is_left_as_it_was() -> None:
    batch, before = batch_of([(3, 3), (2, 3)]), batch_of([(3, 3), (2, 3)])
    mixed_part(batch, drawn(2), normalise, first=0, last=2)
    assert batch.mask is not None
    assert before.mask is not None
    assert torch.equal(batch.pixels, before.pixels)
    assert torch.equal(batch.labels, before.labels)
    assert torch.equal(batch.mask, before.mask)


@settings(deadline=None)
@given(
    batch_size=st.integers(1, 40),
    alpha=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
def test_every_clip_is_a_partner_once(batch_size: int, alpha: float, seed: int) -> None:
    mixing = drawn(batch_size, alpha, seed)
    assert sorted(mixing.partners.tolist()) == list(range(batch_size))
    assert 0 <= mixing.share <= 1
    again = drawn(batch_size, alpha, seed)
    assert again.share == mixing.share
    assert np.array_equal(again.partners, mixing.partners)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_drawn_from_the_beta_of_the_paper(alpha: float) -> None:
    from scipy import stats

    generator = np.random.default_rng(0)
    mixings = [mixing_of(2, alpha, generator) for _ in range(2000)]
    shares = [mixing.share for mixing in mixings if mixing]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_nothing_is_mixed_or_drawn_without_alpha() -> None:
    generator = np.random.default_rng(0)
    before: Any = generator.bit_generator.state
    assert mixing_of(8, 0.0, generator) is None
    assert generator.bit_generator.state == before
