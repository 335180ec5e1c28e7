import numpy as np
import pytest
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from fvc.validation import roc_auc, validation_series


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
    assert series["validation/called_fake"] == np.mean([logit >= 0 for logit in logits])
    assert series["validation/logit_std"] == pytest.approx(np.std(logits))


@pytest.mark.parametrize(("logit", "label"), [(2000.0, 0), (-2000.0, 1)])
def test_a_huge_logit_has_a_finite_loss(logit: float, label: int) -> None:
    assert validation_series(np.array([logit]), np.array([label]))["validation/loss"] == 2000


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_no_score(label: int) -> None:
    series = validation_series(np.array([0.3, -1.0]), np.array([label, label]))
    assert series.keys() == {"validation/loss", "validation/called_fake", "validation/logit_std"}


def test_validation_needs_a_video() -> None:
    with pytest.raises(ValueError, match="no video"):
        validation_series(np.empty(0), np.empty(0, np.int64))


def test_the_area_under_the_curve_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="one class"):
        roc_auc(np.array([0.3, -1.0]), np.array([1, 1]))


def test_the_area_takes_as_many_clips_as_an_epoch_has() -> None:
    logits = np.arange(400_000) % 1000 / 1000
    labels = (np.arange(400_000) // 1000) % 2
    assert roc_auc(logits, labels) == 0.5, "all pairs at once would take 300 GB"
