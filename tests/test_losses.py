import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import train_config
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from fvc.training.losses import ClipLoss, effective_number, make_loss
from fvc.training.mixing import smoothed

NONE = {"imbalance": "none"}
WEIGHTED = {"imbalance": "class_weights"}
CHOICES: dict[str, dict[str, object]] = {
    "bce": {"loss": "bce", **NONE},
    "weighted bce": {"loss": "bce", **WEIGHTED},
    "focal": {"loss": "focal", **NONE},
    "weighted focal": {"loss": "focal", **WEIGHTED},
    "flat focal": {"loss": "focal", "focal_gamma": 0.5, **WEIGHTED},
    "class-balanced": {"loss": "class_balanced", **NONE},
}
COUNTS = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
CHOSEN = st.sampled_from(list(CHOICES))
LOGITS = st.floats(-60, 60, width=32)
TARGETS = st.floats(0, 1, width=32)
CLIPS = st.lists(st.tuples(LOGITS, TARGETS), min_size=1, max_size=8)


def loss_of(choice: str, counts: tuple[int, int] = (30, 10), **changes: object) -> ClipLoss:
    return make_loss(train_config(**CHOICES[choice] | changes), counts)


def tensors(clips: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    logits, targets = torch.tensor(clips, dtype=torch.float32).unbind(1)
    return logits, targets


GRID = torch.linspace(-12, 12, 49)
LABELS = torch.arange(49) % 2 * 1.0


@pytest.mark.parametrize("soft", [False, True])
def test_plain_loss_is_torch_s_cross_entropy(soft: bool) -> None:
    targets = torch.linspace(0, 1, 49) if soft else LABELS
    expected = functional.binary_cross_entropy_with_logits(GRID, targets, reduction="none")
    torch.testing.assert_close(loss_of("bce")(GRID, targets), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_is_torchvision_s(gamma: float) -> None:
    expected = sigmoid_focal_loss(GRID.double(), LABELS.double(), alpha=-1, gamma=gamma)
    found = loss_of("focal", focal_gamma=gamma)(GRID, LABELS)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-12)


def test_focal_loss_of_the_paper() -> None:
    # Lin et al., section 3.2: with gamma 2, an example classified with 0.9 has 100 times
    # lower loss than cross-entropy gives it, one with 0.968 about 1000 times lower.
    logits = torch.logit(torch.tensor([0.9, 0.968]))
    ones = torch.ones(2)
    ratio = loss_of("bce")(logits, ones) / loss_of("focal", focal_gamma=2.0)(logits, ones)
    assert ratio.tolist() == pytest.approx([100, 1000], rel=0.03)


@settings(deadline=None)
@given(counts=COUNTS, clips=CLIPS)
def test_focal_loss_without_focus_is_cross_entropy(
    counts: tuple[int, int], clips: list[tuple[float, float]]
) -> None:
    logits, targets = tensors(clips)
    for plain, focal in (("bce", "focal"), ("weighted bce", "weighted focal")):
        expected = loss_of(plain, counts)(logits, targets)
        assert torch.equal(loss_of(focal, counts, focal_gamma=0.0)(logits, targets), expected)


@settings(deadline=None)
@given(counts=COUNTS, choice=CHOSEN)
def test_weights_average_one_over_the_examples(counts: tuple[int, int], choice: str) -> None:
    loss = loss_of(choice, counts)
    mean = np.dot(loss.weights, counts) / sum(counts)
    assert mean == pytest.approx(1, rel=1e-9), "weights change the learning rate"
    rarer = int(counts[1] < counts[0])
    assert loss.weights[rarer] >= loss.weights[1 - rarer] - 1e-9, "the rarer class counts less"


@settings(deadline=None)
@given(counts=COUNTS)
def test_inverse_frequency_makes_the_classes_equal(counts: tuple[int, int]) -> None:
    for choice in ("weighted bce", "weighted focal"):
        real, fake = loss_of(choice, counts).weights
        assert real * counts[0] == pytest.approx(fake * counts[1])
    for choice in ("bce", "focal"):
        assert loss_of(choice, counts).weights == pytest.approx((1, 1), rel=1e-12)


@settings(deadline=None)
@given(counts=COUNTS)
def test_class_balance_lies_between_none_and_inverse_frequency(counts: tuple[int, int]) -> None:
    weights = [
        loss_of("class-balanced", counts, class_balanced_beta=beta).weights
        for beta in (0.0, 0.5, 0.9, 0.999, 1 - 1e-12)
    ]
    assert weights[0] == pytest.approx((1, 1), rel=1e-12)
    assert weights[-1] == pytest.approx(loss_of("weighted bce", counts).weights, rel=1e-6)
    ratios = [max(pair) / min(pair) for pair in weights]
    steps = itertools.pairwise(ratios)
    assert all(after >= before * (1 - 1e-9) for before, after in steps)


def test_effective_numbers_of_the_paper() -> None:
    # Cui et al., section 3.2: (1 - beta^n) / (1 - beta); in the limits 1 and n.
    assert effective_number(5000, 0.0) == 1
    assert effective_number(1, 0.9) == pytest.approx(1)
    assert effective_number(2, 0.9) == pytest.approx(1.9)
    assert effective_number(3, 0.9) == pytest.approx(2.71)
    assert effective_number(10**6, 0.999) == pytest.approx(1000)
    assert effective_number(5000, 1 - 1e-13) == pytest.approx(5000)


@settings(deadline=None)
@given(count=st.integers(1, 5000), smallness=st.floats(0, 14))
def test_effective_numbers_lose_no_digits(count: int, smallness: float) -> None:
    beta = 1 - 10**-smallness
    expected = math.fsum(beta**power for power in range(count))
    assert effective_number(count, beta) == pytest.approx(expected, rel=1e-6)


@settings(deadline=None)
@given(counts=COUNTS, choice=CHOSEN, clips=CLIPS)
def test_by_hand_it_is_the_same(
    counts: tuple[int, int], choice: str, clips: list[tuple[float, float]]
) -> None:
    logits, targets = tensors(clips)
    loss = loss_of(choice, counts)
    found = loss(logits, targets)
    assert (found.dtype, found.shape) == (torch.float32, logits.shape)
    by_hand = loss.by_hand(logits.numpy(), targets.numpy())
    assert by_hand.dtype == np.float64
    np.testing.assert_allclose(found.numpy(), by_hand, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("choice", ["weighted bce", "weighted focal", "class-balanced"])
def test_by_hand_a_wrong_weight_shows(choice: str) -> None:
    right = loss_of(choice)
    wrong = ClipLoss(config=right.config, counts=right.counts, weights=right.weights[::-1])
    assert not np.allclose(wrong(GRID, LABELS), wrong.by_hand(GRID.numpy(), LABELS.numpy()))


@pytest.mark.parametrize("choice", CHOICES)
def test_extreme_logits_have_a_finite_loss_and_gradient(choice: str) -> None:
    sizes = torch.tensor([0.0, 30.0, 90.0, 1e4, 1e30])
    logits = torch.cat([sizes, -sizes]).repeat(3).requires_grad_()
    targets = torch.tensor([0.0, 0.3, 1.0]).repeat_interleave(10)
    losses = loss_of(choice)(logits, targets)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert losses.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (losses >= 0).all()
    by_hand = loss_of(choice).by_hand(logits.detach().numpy(), targets.numpy())
    np.testing.assert_allclose(losses.detach().numpy(), by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("choice", CHOICES)
def test_gradients_are_those_of_the_loss(choice: str) -> None:
    logits = torch.linspace(-9, 9, 14, dtype=torch.float64, requires_grad=True)
    targets = torch.linspace(0, 1, 14, dtype=torch.float64)
    loss = loss_of(choice)
    assert torch.autograd.gradcheck(partial(loss, targets=targets), logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened_first(dtype: torch.dtype) -> None:
    logits = GRID.to(dtype)
    for choice in CHOICES:
        found = loss_of(choice)(logits, LABELS)
        assert found.dtype == torch.float32
        assert torch.equal(found, loss_of(choice)(logits.float(), LABELS))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(loss_of(choice)(logits, LABELS), found)


@settings(deadline=None)
@given(choice=CHOSEN, logit=LOGITS, first=TARGETS, second=TARGETS, share=TARGETS)
def test_the_loss_of_mixed_targets_is_the_mixed_loss(
    choice: str, logit: float, first: float, second: float, share: float
) -> None:
    loss = loss_of(choice)
    logits = torch.full((3,), logit, dtype=torch.float64)
    mixed = share * first + (1 - share) * second
    a, b, ab = loss(logits, torch.tensor([first, second, mixed], dtype=torch.float64)).tolist()
    assert ab == pytest.approx(share * a + (1 - share) * b, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(labels=st.lists(st.sampled_from([0.0, 1.0]), min_size=1), share=st.floats(0, 1, width=32))
def test_smoothed_labels_keep_their_side(labels: list[float], share: float) -> None:
    hard = torch.tensor(labels)
    soft = smoothed(hard, share)
    assert ((soft - 0.5) * (hard - 0.5) >= 0).all()
    torch.testing.assert_close((soft - hard).abs(), torch.full_like(hard, share / 2))
    assert torch.equal(smoothed(hard, 0.0), hard)


def test_smoothed_labels_are_those_of_torch_for_two_classes() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    logits = torch.tensor([0.3, -2.0, 4.0, 9.0])
    pairs = torch.stack([torch.zeros(4), logits], dim=1)
    expected = functional.cross_entropy(pairs, labels, reduction="none", label_smoothing=0.2)
    found = loss_of("bce")(logits, smoothed(labels.float(), 0.2))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("counts", [(0, 3), (3, 0)])
def test_a_class_without_example_has_no_weight(choice: str, counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{counts[0]} real and {counts[1]} fake"):
        loss_of(choice, counts)
