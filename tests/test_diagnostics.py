import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from fvc.diagnostics import MEASURED_SERIES, SERIES, Tally, require_finite, validation_series
from fvc.errors import FvcError


def random_scores(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    # Rounded, so that there are ties.
    return np.round(generator.normal(labels, 1.5), 1), labels


@pytest.mark.parametrize("seed", range(5))
def test_validation_agrees_with_scikit_learn(seed: int) -> None:
    logits, labels = random_scores(seed)
    series = validation_series(logits, labels)
    assert series["validation/roc_auc"] == pytest.approx(roc_auc_score(labels, logits))
    assert series["validation/macro_f1"] == pytest.approx(
        f1_score(labels, logits >= 0, average="macro")
    )
    assert series["validation/loss"] == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))))


@pytest.mark.parametrize(("logit", "label"), [(2000.0, 0), (-2000.0, 1)])
def test_a_huge_logit_has_a_finite_loss(logit: float, label: int) -> None:
    assert validation_series(np.array([logit]), np.array([label]))["validation/loss"] == 2000


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_only_the_loss(label: int) -> None:
    series = validation_series(np.array([0.3, -1.0]), np.array([label, label]))
    assert list(series) == ["validation/loss"]


def test_validation_needs_a_video() -> None:
    with pytest.raises(ValueError, match="no video"):
        validation_series(np.empty(0), np.empty(0, np.int64))


def tally_of(norms: list[float]) -> Tally:
    tally = Tally()
    labels = torch.tensor([1.0, 0.0])
    tally.add_batch(torch.tensor([0.5, 1.5]), torch.tensor([2.0, 2.0]), labels)
    tally.add_batch(torch.tensor([1.0]), torch.tensor([-1.0]), torch.tensor([0.0]))
    for norm in norms:
        tally.add_step(torch.tensor(norm))
    return tally


def test_the_series_of_an_epoch() -> None:
    assert tally_of([3.0, 1.0]).series(skips_overflow=False) == {
        "train/loss": 1.0,
        "train/accuracy": pytest.approx(2 / 3),
        "train/grad_norm": 2.0,
        "train/logit_mean": 1.0,
        "train/logit_std": pytest.approx(math.sqrt(2)),
        "train/logit_unique": 2.0,
    }


def test_an_infinite_gradient_shows_unless_its_step_was_skipped() -> None:
    tally = tally_of([3.0, math.inf])
    assert tally.series(skips_overflow=False)["train/grad_norm"] == math.inf
    assert tally.series(skips_overflow=True)["train/grad_norm"] == 3
    assert "train/grad_norm" not in tally_of([math.inf]).series(skips_overflow=True)


def test_an_epoch_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="without a batch"):
        Tally().series(skips_overflow=False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_ends_training(value: float) -> None:
    require_finite({"train/loss": 1.0}, epoch=3)
    with pytest.raises(FvcError, match="epoch 3: train/loss is"):
        require_finite({"train/loss": value}, epoch=3)


def test_what_is_measured_is_a_series() -> None:
    assert set(SERIES) > MEASURED_SERIES
