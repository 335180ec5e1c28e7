"""Predictions whose worth is known, and slow ways to every number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import CONFIG, outcomes_of, random_outcomes
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn import metrics as reference

from fvc.evidence.intervals import effective_groups, share_interval
from fvc.evidence.measures import equal_mass_bins
from fvc.evidence.metrics import RAISED_BY_NOISE, Estimate, Outcomes, estimate, measures

SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])
VIDEOS = st.lists(
    st.tuples(st.booleans(), SHARES, st.sampled_from([0.0, 0.5, 1.0, 3.0])), min_size=1, max_size=25
)

FEW, MANY = 0.025 ** (1 / 3), 0.025 ** (1 / 6)
"""Lower ends of faultless measures of three groups and of six."""


def estimates(outcomes: Outcomes, *, per_group: bool = False) -> dict[str, Estimate]:
    generator = np.random.default_rng(0)
    return estimate(outcomes, per_group=per_group, config=CONFIG, generator=generator)


def values(outcomes: Outcomes, weights: np.ndarray, count: int = 10) -> dict[str, float]:
    bins = equal_mass_bins(outcomes.probability, weights, count)
    return {name: float(v[0]) for name, v in measures(outcomes, weights[None], bins).items()}


@settings(deadline=None)
@given(VIDEOS)
def test_equal_error_rate_lies_on_the_curve_of_scikit_learn(
    videos: list[tuple[bool, float, float]],
) -> None:
    is_fake, scores, weights = (np.array(column) for column in zip(*videos, strict=True))
    found = values(outcomes_of(is_fake, scores), weights)["eer"] if weights.sum() else np.nan
    if not (weights * is_fake).sum() or not (weights * ~is_fake).sum():
        assert np.isnan(found)
        return
    false_fake, true_fake, _ = reference.roc_curve(
        is_fake, scores, sample_weight=weights, drop_intermediate=False
    )
    # Vertical steps of the curve are made steep, not skipped.
    along = np.arange(len(false_fake), dtype=float)
    at = brentq(
        lambda place: np.interp(place, along, false_fake) - np.interp(place, along, 1 - true_fake),
        0,
        along[-1],
    )
    assert found == pytest.approx(np.interp(at, along, false_fake), abs=1e-9)


@settings(deadline=None)
@given(VIDEOS, st.integers(2, 5))
def test_calibration_error_and_brier_score_are_sums_over_videos(
    videos: list[tuple[bool, float, float]], count: int
) -> None:
    is_fake, scores, weights = (np.array(column) for column in zip(*videos, strict=True))
    if not weights.sum():
        return
    total, below, gaps = sum(weights), 0.0, dict.fromkeys(range(count), 0.0)
    for score in sorted(set(scores)):
        mass = sum(w for s, w in zip(scores, weights, strict=True) if s == score)
        own = min(int((below + mass / 2) / total * count + 1e-12), count - 1)
        below += mass
        for fake, s, weight in videos:
            gaps[own] += weight * (s - fake) if s == score else 0.0
    found = values(outcomes_of(is_fake, scores), weights, count)
    assert found["ece"] == pytest.approx(sum(abs(gap) for gap in gaps.values()) / total)
    brier = sum(weight * (score - fake) ** 2 for fake, score, weight in videos) / total
    assert found["brier"] == pytest.approx(brier)


@settings(deadline=None)
@given(VIDEOS)
def test_verdicts_are_counted_one_by_one(videos: list[tuple[bool, float, float]]) -> None:
    is_fake, scores, weights = (np.array(column) for column in zip(*videos, strict=True))
    if not weights.sum():
        return
    decided = [row for row in videos if abs(row[1] - 0.5) >= 0.2]
    right = sum(weight for fake, score, weight in decided if (score >= 0.5) == fake)
    mass = sum(weight for _, _, weight in decided)
    found = values(outcomes_of(is_fake, scores, band=0.2), weights)
    assert found["coverage"] == pytest.approx(mass / weights.sum())
    expected = right / mass if mass else np.nan
    assert found["decided_accuracy"] == pytest.approx(expected, nan_ok=True)


def test_perfect_predictions_are_not_known_to_be_perfect() -> None:
    found = estimates(outcomes_of([0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]))
    for name in ("roc_auc", "pr_auc", "recall_real", "precision_fake", "macro_f1"):
        assert ends(found[name]) == pytest.approx((1, FEW, 1)), name
    for name in ("accuracy", "coverage", "decided_accuracy"):
        assert ends(found[name]) == pytest.approx((1, MANY, 1)), name
    assert ends(found["eer"]) == pytest.approx((0, 0, 1 - FEW))
    assert ends(found["brier"]) == pytest.approx((0, 0, 1 - MANY))


def test_the_calibration_error_has_no_interval_and_says_why() -> None:
    found = estimates(random_outcomes(0))["ece"]
    assert found.value is not None
    assert (found.low, found.high, found.reason) == (None, None, RAISED_BY_NOISE)


def ends(found: Estimate) -> tuple[float | None, float | None, float | None]:
    assert found.reason is None
    return found.value, found.low, found.high


def test_inverted_predictions_reach_the_other_end() -> None:
    found = estimates(outcomes_of([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]))
    for name in ("roc_auc", "recall_real", "precision_fake", "f1_fake", "macro_f1"):
        assert ends(found[name]) == pytest.approx((0, 0, 1 - FEW)), name
    for name in ("eer", "brier", "ece"):
        assert found[name].value == 1, name
    # scikit-learn: every threshold that finds a fake has found all reals.
    assert found["pr_auc"].value == pytest.approx(
        reference.average_precision_score([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    )


def test_random_predictions_are_worth_nothing() -> None:
    generator = np.random.default_rng(0)
    outcomes = outcomes_of(generator.random(20_000) < 0.3, generator.random(20_000))
    found = values(outcomes, np.ones(20_000))
    for name in ("roc_auc", "eer", "accuracy", "balanced_accuracy"):
        assert found[name] == pytest.approx(0.5, abs=0.02), name
    assert found["pr_auc"] == pytest.approx(0.3, abs=0.02)
    assert found["brier"] == pytest.approx(1 / 3, abs=0.02)
    # The mean distance of a uniform number from 0.3: ten bins have their centres as far.
    assert found["ece"] == pytest.approx(0.29, abs=0.02)


def test_too_sure_predictions_are_ranked_alike_and_miscalibrated() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random(20_000)
    honest = outcomes_of(generator.random(20_000) < truth, truth)
    sure = replace(honest, probability=expit(3 * logit(truth)))
    for name, value in values(honest, np.ones(20_000)).items():
        after = values(sure, np.ones(20_000))[name]
        if name == "ece":
            assert value < 0.02
            assert after > 0.1
        elif name == "brier":
            assert value == pytest.approx(1 / 6, abs=0.01)
            assert after > value + 0.01
        else:
            assert after == pytest.approx(value), name


def test_ties_rank_as_chance_as_far_as_so_few_groups_can_tell() -> None:
    found = estimates(outcomes_of([0, 0, 1, 1, 1], [0.5] * 5))
    # Real videos are of two groups: were a share of all groups otherwise, up to this one, two that
    # are not would be nothing rare.
    otherwise = 1 - 0.025 ** (1 / 2)
    for name in ("roc_auc", "eer", "balanced_accuracy"):
        low, high = (1 - otherwise) / 2, (1 + otherwise) / 2
        assert ends(found[name]) == pytest.approx((0.5, low, high)), name
    assert found["precision_real"] == Estimate(value=None, reason="no video is called real")
    assert found["macro_precision"] == Estimate(value=None, reason="no video is called real")


@pytest.mark.parametrize("num_right", range(4))
def test_groups_that_agree_leave_something_to_be_known(num_right: int) -> None:
    """Of the three copies in every group as many are called rightly."""
    is_fake = np.repeat(np.arange(20) % 2 == 0, 3)
    right = np.tile(np.arange(3) < num_right, 20)
    scores, groups = np.where(is_fake == right, 0.9, 0.1), np.arange(60) // 3
    found = estimates(outcomes_of(is_fake, scores, groups))
    for name, each in found.items():
        if each.value is not None and name != "ece":
            assert each.low is not None
            assert each.high is not None
            assert 0 <= each.low <= each.value <= each.high <= 1, name
            assert each.high > each.low, f"{name} claims to be known exactly"
    bound = 1 - 0.025 ** (1 / 20)
    share = num_right / 3
    expected = (share, share * (1 - bound), share * (1 - bound) + bound)
    assert ends(found["accuracy"]) == pytest.approx(expected)


@pytest.mark.parametrize("is_fake", [False, True])
def test_one_video_has_values_where_it_can_and_reasons_elsewhere(is_fake: bool) -> None:
    found = estimates(outcomes_of([is_fake], [0.8], band=0.1))
    label = "fake" if is_fake else "real"
    expected = {"accuracy": float(is_fake), "brier": (0.8 - is_fake) ** 2, "coverage": 1.0}
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value)
        assert (found[name].low, found[name].reason) == (None, "there is only one group")
    for name in ("roc_auc", "pr_auc", "eer", "macro_f1", "balanced_accuracy"):
        assert found[name] == Estimate(value=None, reason=f"all videos are {label}")
    assert found["precision_real"] == Estimate(value=None, reason="no video is called real")
    assert all(each.low is None and each.reason for each in found.values())


@pytest.mark.parametrize("per_group", [False, True])
def test_every_number_is_there_or_has_its_reason(per_group: bool) -> None:
    whole = random_outcomes(0)
    several = [whole, whole.select(whole.is_fake), whole.select(np.arange(120) < 3)]
    for outcomes in several:
        for name, found in estimates(outcomes, per_group=per_group).items():
            assert (found.low is None) == (found.high is None) == (found.reason is not None), name
            assert found.value is None or 0 <= found.value <= 1, name


def test_an_interval_of_many_groups_is_the_textbook_one() -> None:
    drawn = np.random.default_rng(0).normal(0.8, 0.01, size=4000)
    low, high = share_interval(0.8, drawn, 1e6, 0.95)
    reach = norm.ppf(0.975) * 0.01 / (0.8 * 0.2)
    assert (low, high) == pytest.approx(expit([logit(0.8) - reach, logit(0.8) + reach]), abs=2e-3)


def test_groups_of_unequal_weight_count_for_fewer() -> None:
    assert effective_groups(np.array([0, 0, 1, 1, 2, 2]), np.ones(6)) == pytest.approx(3)
    assert effective_groups(np.array([0] * 8 + [1, 2]), np.ones(10)) == pytest.approx(100 / 66)
