import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef, recall_score

from fvc.config import Criterion
from fvc.evidence.calibration import (
    TEMPERATURE_BOUNDS,
    Calibration,
    best_threshold,
    calibrate,
    fit_temperature,
)

Videos = list[tuple[float, bool]]
Labels = Bool[np.ndarray, "V"]
VIDEOS = st.lists(st.tuples(st.floats(-1e4, 1e4), st.booleans()), max_size=30)


def learned(videos: Videos, target_error_rate: float = 0.1) -> Calibration:
    logits = np.array([logit for logit, _ in videos], dtype=np.float64)
    is_fake = np.array([fake for _, fake in videos], dtype=bool)
    return calibrate(logits, is_fake, criterion="macro_f1", target_error_rate=target_error_rate)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_is_recovered(temperature: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, size=20_000)
    is_fake = generator.random(20_000) < 1 / (1 + np.exp(-logits))
    assert fit_temperature(logits * temperature, is_fake) == pytest.approx(temperature, rel=0.05)


def test_temperature_of_few_separable_videos_is_not_the_coldest() -> None:
    logits = np.array([-1.0, -2.0, -0.5, 1.0, 0.7])
    found = fit_temperature(logits, logits > 0)
    assert 0.3 < found < 1, "five videos were taken for certainty"


@settings(deadline=None)
@given(VIDEOS, st.floats(0.01, 0.5))
def test_any_validation_set_gives_a_usable_calibration(videos: Videos, target: float) -> None:
    found = learned(videos, target)
    coldest, hottest = TEMPERATURE_BOUNDS
    assert coldest <= found.temperature <= hottest
    assert 0 <= found.abstain_low <= found.threshold <= found.abstain_high <= 1
    assert found.num_real + found.num_fake == len(videos)
    assert Calibration.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@settings(deadline=None)
@given(VIDEOS, st.floats(0.01, 0.5))
def test_decided_verdicts_keep_the_target_on_validation(videos: Videos, target: float) -> None:
    found = learned(videos, target)
    for side in ("fake", "real"):
        labels = [
            "fake" if fake else "real"
            for logit, fake in videos
            if found.verdict(found.probability(logit)) == side
        ]
        wrong = sum(label != side for label in labels)
        assert wrong <= target * len(labels), f"{wrong} of {len(labels)} verdicts '{side}' wrong"


@pytest.mark.parametrize("videos", [[], [(2.0, True)], [(-1.0, False), (3.0, False)]])
def test_without_both_classes_every_verdict_is_uncertain(videos: Videos) -> None:
    found = learned(videos)
    assert (found.temperature, found.threshold) == (1.0, 0.5)
    assert {found.verdict(share) for share in (0.0, 0.01, 0.5, 0.99, 1.0)} == {"uncertain"}


def test_separable_videos_leave_no_band() -> None:
    found = learned([(-2.0, False), (-1.0, False), (1.0, True), (3.0, True)])
    assert found.abstain_low == found.threshold == found.abstain_high == 0.5
    assert found.verdict(0.51) == "fake"
    assert found.verdict(0.49) == "real"


def test_confused_videos_are_left_undecided() -> None:
    confused = [(-0.2, True), (-0.1, False), (0.1, True), (0.2, False)]
    sure = [(-3.0, False)] * 5 + [(3.0, True)] * 5
    found = learned(confused + sure)
    verdicts = [found.verdict(found.probability(logit)) for logit, _ in confused + sure]
    assert verdicts == ["uncertain"] * 4 + ["real"] * 5 + ["fake"] * 5


def test_a_reversed_network_gives_no_verdict() -> None:
    found = learned([(2.0, False), (1.0, False), (-1.0, True), (-2.0, True)])
    assert found.temperature == pytest.approx(TEMPERATURE_BOUNDS[1], rel=0.7)
    assert {found.verdict(found.probability(logit)) for logit in (-2.0, 2.0)} == {"uncertain"}


def error_gap(is_fake: Labels, called: Labels) -> float:
    real, fake = recall_score(is_fake, called, average=None)
    return -abs(float(real - fake))


SCORES: dict[Criterion, Callable[[Labels, Labels], float]] = {
    "macro_f1": lambda is_fake, called: f1_score(is_fake, called, average="macro"),
    "balanced_accuracy": balanced_accuracy_score,
    "mcc": matthews_corrcoef,
    "equal_error_rate": error_gap,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("criterion", SCORES)
def test_no_threshold_is_better_by_its_criterion(criterion: Criterion, seed: int) -> None:
    generator = np.random.default_rng(seed)
    is_fake = np.arange(40) % 3 == 0
    probability = np.round(np.clip(generator.normal(0.3 + 0.3 * is_fake, 0.2), 0, 1), 2)
    found = best_threshold(probability, is_fake, criterion)
    score = SCORES[criterion]
    tried = [score(is_fake, probability >= threshold) for threshold in np.linspace(0, 1, 401)]
    assert score(is_fake, probability >= found) == pytest.approx(max(tried))


def test_criteria_disagree_where_fakes_are_rare() -> None:
    generator = np.random.default_rng(0)
    is_fake = np.arange(400) % 20 == 0
    probability = np.clip(generator.normal(0.3 + 0.2 * is_fake, 0.15), 0, 1)
    found = {name: best_threshold(probability, is_fake, name) for name in SCORES}
    assert len(set(found.values())) >= 3, "the parameter changes nothing"
    assert found["balanced_accuracy"] < found["macro_f1"], "F1 of rare fakes asks for precision"
    assert best_threshold(probability, is_fake, "half") == 0.5


@pytest.mark.parametrize("criterion", SCORES)
def test_equal_thresholds_are_settled_by_nearness_to_a_half(criterion: Criterion) -> None:
    is_fake = np.array([False, True])
    assert best_threshold(np.array([0.1, 0.9]), is_fake, criterion) == 0.5
    assert best_threshold(np.array([0.6, 0.9]), is_fake, criterion) == pytest.approx(0.75)


def test_a_model_says_by_what_its_threshold_was_chosen() -> None:
    logits, is_fake = np.array([-1.0, 1.0]), np.array([False, True])
    found = calibrate(logits, is_fake, criterion="mcc", target_error_rate=0.2)
    assert (found.criterion, found.target_error_rate) == ("mcc", 0.2)
    assert Calibration.from_dict(found.as_dict()) == found


def test_one_and_many_logits_give_the_same_probability() -> None:
    found = learned([(-1.0, False), (2.0, True), (0.5, False)])
    logits = np.array([-800.0, -1.0, 0.0, 2.5, 800.0])
    assert found.probabilities(logits).tolist() == [found.probability(x) for x in logits.tolist()]
    assert found.probability(0.0) == 0.5


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        learned([(float("inf"), True), (0.0, False)])


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"abstain_low": 0.7}, {"extra": 1}])
def test_an_impossible_calibration_is_refused(change: dict[str, float]) -> None:
    fields = learned([(-1.0, False), (1.0, True)]).as_dict()
    with pytest.raises(ValueError, match=r"temperature is|not rising|not those"):
        Calibration.from_dict({**fields, **change})
