import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import CONFIG, outcomes_of, random_outcomes
from sklearn import metrics as reference

from fvc.evidence.measures import equal_mass_bins
from fvc.evidence.metrics import (
    Estimate,
    Outcomes,
    confusion_matrix,
    estimate,
    measure,
    measures,
    merge,
    risk_points,
)


def measured(outcomes: Outcomes, given: np.ndarray | None = None) -> dict[str, float]:
    weights = np.ones(len(outcomes.is_fake)) if given is None else given
    bins = equal_mass_bins(outcomes.probability, weights, CONFIG.ece_bins)
    found = measures(outcomes, weights[None], bins)
    return {name: float(value[0]) for name, value in found.items()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("weighted", [False, True])
def test_measures_are_those_of_scikit_learn(seed: int, weighted: bool) -> None:
    outcomes = random_outcomes(seed)
    weights = np.random.default_rng(seed).integers(0, 4, size=120).astype(float)
    weights = weights if weighted else np.ones(120)
    truth, score, called = outcomes.is_fake, outcomes.probability, outcomes.called_fake
    precision, recall, f1, _ = reference.precision_recall_fscore_support(
        truth, called, sample_weight=weights
    )
    expected = {
        "roc_auc": reference.roc_auc_score(truth, score, sample_weight=weights),
        "pr_auc": reference.average_precision_score(truth, score, sample_weight=weights),
        "accuracy": reference.accuracy_score(truth, called, sample_weight=weights),
        "balanced_accuracy": reference.balanced_accuracy_score(
            truth, called, sample_weight=weights
        ),
        "macro_f1": reference.f1_score(truth, called, average="macro", sample_weight=weights),
        "macro_precision": reference.precision_score(
            truth, called, average="macro", sample_weight=weights
        ),
        "brier": reference.brier_score_loss(truth, score, sample_weight=weights),
        "precision_real": precision[0],
        "recall_real": recall[0],
        "f1_real": f1[0],
        "precision_fake": precision[1],
        "recall_fake": recall[1],
        "f1_fake": f1[1],
    }
    found = measured(outcomes, weights)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.9, 1.0])), min_size=1)
)
def test_roc_auc_counts_the_pairs_in_the_right_order(videos: list[tuple[bool, float]]) -> None:
    fakes = [score for fake, score in videos if fake]
    reals = [score for fake, score in videos if not fake]
    pairs = [(fake > real) + (fake == real) / 2 for fake in fakes for real in reals]
    outcomes = outcomes_of([fake for fake, _ in videos], [score for _, score in videos])
    found = measured(outcomes)["roc_auc"]
    assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_rankings_do_not_change_when_scores_are_stretched(seed: int, power: float) -> None:
    outcomes = random_outcomes(seed)
    stretched = outcomes_of(outcomes.is_fake, outcomes.probability**power)
    for name in ("roc_auc", "pr_auc", "eer"):
        assert measured(stretched)[name] == pytest.approx(measured(outcomes)[name])


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_swapping_the_classes_mirrors_the_measures(seed: int) -> None:
    outcomes = random_outcomes(seed)
    mirrored = Outcomes(
        is_fake=~outcomes.is_fake,
        probability=1 - outcomes.probability,
        called_fake=~outcomes.called_fake,
        decided=outcomes.decided,
        groups=outcomes.groups,
    )
    before, after = measured(outcomes), measured(mirrored)
    for name in ("roc_auc", "eer", "accuracy", "macro_f1", "brier", "coverage"):
        assert after[name] == pytest.approx(before[name])
    assert after["recall_real"] == pytest.approx(before["recall_fake"])


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_weight_of_two_is_the_same_as_two_videos(seed: int) -> None:
    outcomes = random_outcomes(seed, num_videos=40)
    counts = np.random.default_rng(seed).integers(0, 3, size=40)
    rows = np.repeat(np.arange(40), counts)
    if not 0 < outcomes.is_fake[rows].sum() < len(rows):
        return
    copies = outcomes_of(outcomes.is_fake[rows], outcomes.probability[rows], band=0.1)
    weighted = measured(outcomes, counts.astype(float))
    for name, value in measured(copies).items():
        assert weighted[name] == pytest.approx(value, nan_ok=True), name


def test_a_perfect_and_a_reversed_ranking_reach_the_ends() -> None:
    is_fake = [0, 0, 0, 1, 1]
    perfect = measured(outcomes_of(is_fake, [0.1, 0.2, 0.3, 0.8, 0.9]))
    reversed_ = measured(outcomes_of(is_fake, [0.9, 0.8, 0.7, 0.2, 0.1]))
    assert (perfect["roc_auc"], perfect["pr_auc"], perfect["eer"]) == (1, 1, 0)
    assert (perfect["macro_f1"], perfect["accuracy"]) == (1, 1)
    assert (reversed_["roc_auc"], reversed_["eer"], reversed_["macro_f1"]) == (0, 1, 0)


def test_equal_scores_rank_as_chance() -> None:
    tied = measured(outcomes_of([0, 1, 0, 1, 1], [0.5] * 5))
    assert (tied["roc_auc"], tied["eer"]) == (0.5, 0.5)
    assert tied["pr_auc"] == pytest.approx(3 / 5), "without a ranking, precision is the fake share"


def test_equal_error_rate_lies_where_the_errors_meet() -> None:
    # At the threshold between 0.4 and 0.6, one of four reals and one of four fakes is wrong.
    scores = [0.1, 0.2, 0.3, 0.7, 0.4, 0.6, 0.8, 0.9]
    assert measured(outcomes_of([0] * 4 + [1] * 4, scores))["eer"] == pytest.approx(0.25)


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    probability = np.repeat([0.2, 0.6], 10)
    is_fake = np.r_[np.arange(10) < 4, np.arange(10) < 7]
    outcomes = outcomes_of(is_fake, probability)
    assert measured(outcomes)["ece"] == pytest.approx((0.2 + 0.1) / 2)


def test_per_group_weighting_counts_a_cascade_once() -> None:
    # One cascade of 8 wrong copies, and two right videos.
    outcomes = outcomes_of([1] * 8 + [0, 1], [0.1] * 8 + [0.2, 0.9], [0] * 8 + [1, 2])
    found = estimates(outcomes, per_group=True)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert estimates(outcomes)["accuracy"].value == pytest.approx(0.2)


def estimates(outcomes: Outcomes, *, per_group: bool = False, seed: int = 0) -> dict[str, Estimate]:
    generator = np.random.default_rng(seed)
    return estimate(outcomes, per_group=per_group, config=CONFIG, generator=generator)


def ends_of(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    assert found.reason is None
    return found.low, found.high


@pytest.mark.parametrize("per_group", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_the_estimate(seed: int, per_group: bool) -> None:
    measured = estimates(random_outcomes(seed), per_group=per_group)
    for name in measured.keys() - {"ece"}:
        found = measured[name]
        low, high = ends_of(found)
        assert found.value is not None
        assert low <= found.value <= high, name
        assert low < high, f"{name} claims to be known exactly"


def test_intervals_agree_with_a_bootstrap_that_copies_videos() -> None:
    outcomes = random_outcomes(1)
    names = np.unique(outcomes.groups)
    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(600):
        chosen = generator.choice(names, size=len(names))
        rows = np.concatenate([np.flatnonzero(outcomes.groups == name) for name in chosen])
        drawn.append(reference.roc_auc_score(outcomes.is_fake[rows], outcomes.probability[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = estimates(outcomes)["roc_auc"]
    assert ends_of(found) == pytest.approx((low, high), abs=0.03)


def test_near_duplicates_do_not_narrow_an_interval() -> None:
    once = random_outcomes(3, num_videos=60)
    single = outcomes_of(once.is_fake, once.probability, np.arange(60))
    tripled = outcomes_of(
        np.repeat(once.is_fake, 3), np.repeat(once.probability, 3), np.repeat(np.arange(60), 3)
    )
    assert estimates(tripled)["roc_auc"] == estimates(single)["roc_auc"]


def test_estimates_depend_on_the_seed_alone() -> None:
    outcomes = random_outcomes(0)
    assert estimates(outcomes) == estimates(outcomes)
    assert estimates(outcomes) != estimates(outcomes, seed=1)


def test_one_class_leaves_what_compares_classes_unknown() -> None:
    found = estimates(random_outcomes(0).select(random_outcomes(0).is_fake))
    for name in ("roc_auc", "pr_auc", "eer", "macro_f1", "balanced_accuracy", "recall_real"):
        assert found[name] == Estimate(value=None, reason="all videos are fake")
    assert found["accuracy"].low is not None
    assert found["recall_fake"].value is not None


def test_a_class_never_called_has_no_precision() -> None:
    found = estimates(outcomes_of([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], band=1.0))
    assert found["precision_fake"] == Estimate(value=None, reason="no video is called fake")
    assert found["f1_fake"].value == 0
    assert found["decided_accuracy"].reason == "every verdict is uncertain"


def test_too_few_groups_give_a_value_without_interval() -> None:
    one = estimates(outcomes_of([0, 1, 1], [0.1, 0.9, 0.8], ["a", "a", "a"]))
    assert one["accuracy"] == Estimate(value=1.0, reason="there is only one group")
    few = estimates(outcomes_of([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9, 0.8], list("abcdd")))
    assert few["roc_auc"] == Estimate(value=1.0, reason="fake videos are in fewer than two groups")
    assert few["accuracy"].low is not None


def test_an_estimate_is_written_rounded_and_with_its_reason() -> None:
    known = Estimate(value=0.12345678, low=0.1, high=0.2)
    assert known.as_dict() == {"value": 0.123457, "low": 0.1, "high": 0.2}
    unknown = Estimate(value=None, reason="all videos are real")
    assert unknown.as_dict() == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "all videos are real",
    }


def test_confusion_matrix_has_labels_in_rows() -> None:
    found = confusion_matrix(outcomes_of([0, 0, 0, 1, 1], [0.1, 0.9, 0.2, 0.9, 0.1]))
    assert found.tolist() == [[2, 1], [1, 1]]


@pytest.mark.parametrize("probability", [[], [1.1], [float("nan")]])
def test_what_cannot_be_measured_is_refused(probability: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no video|not in"):
        outcomes_of(np.ones(len(probability)), probability)


def test_merged_parts_are_the_whole() -> None:
    whole = random_outcomes(0)
    first = np.arange(120) < 50
    merged = merge([whole.select(first), whole.select(~first)])
    assert measure(merged, 10) == measure(whole, 10)


def test_a_measure_without_interval_is_the_estimate() -> None:
    outcomes = random_outcomes(2)
    found = measure(outcomes, CONFIG.ece_bins)
    assert found == {name: each.value for name, each in estimates(outcomes).items()}
    assert measure(outcomes_of([1, 1], [0.2, 0.3]), 10)["roc_auc"] is None


def test_risk_falls_as_only_the_surest_are_answered() -> None:
    # Sureness 0.9 (right), twice 0.8 (one wrong), 0.6 (wrong).
    outcomes = outcomes_of([1, 0, 1, 1], [0.9, 0.2, 0.2, 0.4])
    found = risk_points(outcomes)
    expected = np.array([(0.25, 0.0, 0.9), (0.75, 1 / 3, 0.8), (1.0, 0.5, 0.6)])
    assert found.to_numpy() == pytest.approx(expected), "of equal sureness all or none are answered"
