from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import CONFIG, outcomes_of, random_outcomes
from scipy.stats import binom

from fvc.evidence.metrics import RAISED_BY_NOISE, Estimate, Outcomes, estimate
from fvc.evidence.paired import Pair, in_common, mcnemar, pair_as_dict, paired
from fvc.records import OUT_OF_FOLD


def pairs(first: Outcomes, second: Outcomes, *, per_group: bool = False) -> dict[str, Pair]:
    generator = np.random.default_rng(0)
    return paired(first, second, per_group=per_group, config=CONFIG, generator=generator)


def better_than(worse: Outcomes) -> Outcomes:
    probability = (worse.probability + worse.is_fake) / 2
    return replace(worse, probability=probability, called_fake=probability >= 0.5)


@pytest.mark.parametrize("per_group", [False, True])
def test_each_side_is_what_it_is_alone(per_group: bool) -> None:
    worse = random_outcomes(0)
    better = better_than(worse)
    found = pairs(worse, better, per_group=per_group)
    for side, outcomes in (("first", worse), ("second", better)):
        generator = np.random.default_rng(0)
        alone = estimate(outcomes, per_group=per_group, config=CONFIG, generator=generator)
        assert {name: getattr(pair, side) for name, pair in found.items()} == alone


@pytest.mark.parametrize("per_group", [False, True])
def test_a_gain_is_the_difference_and_knows_its_sign(per_group: bool) -> None:
    worse = random_outcomes(0)
    there = pairs(worse, better_than(worse), per_group=per_group)
    back = pairs(better_than(worse), worse, per_group=per_group)
    for name, pair in there.items():
        gain, mirrored = pair.gain, back[name].gain
        assert gain.value == pytest.approx(known(pair.second.value) - known(pair.first.value)), name
        if name == "ece":
            assert (gain.low, gain.high, gain.reason) == (None, None, RAISED_BY_NOISE)
            continue
        assert known(gain.low) <= known(gain.value) <= known(gain.high), name
        assert (mirrored.low, mirrored.high) == pytest.approx((-known(gain.high), -known(gain.low)))
    for name in ("roc_auc", "accuracy", "macro_f1"):
        assert known(there[name].gain.low) > 0, f"{name} is not seen to be better"


def known(number: float | None) -> float:
    assert number is not None
    return number


def test_what_is_hard_for_both_cancels_out() -> None:
    worse = random_outcomes(0)
    pair = pairs(worse, better_than(worse))["brier"]
    width = known(pair.gain.high) - known(pair.gain.low)
    apart = known(pair.first.high) - known(pair.first.low)
    assert width < apart


def test_a_model_has_no_gain_over_itself() -> None:
    for name, pair in pairs(random_outcomes(0), random_outcomes(0)).items():
        known_exactly = Estimate(value=0.0, low=0.0, high=0.0)
        no_interval = Estimate(value=0.0, reason=RAISED_BY_NOISE)
        assert pair.gain == (no_interval if name == "ece" else known_exactly)


def test_a_model_that_ranks_as_another_does_need_not_elsewhere() -> None:
    first = outcomes_of([0] * 10 + [1] * 10, np.r_[np.arange(10) / 20, np.arange(5, 15) / 20])
    shifted = replace(first, probability=first.probability * 0.999)
    bound = 1 - 0.025 ** (1 / 10)
    gain = pairs(first, shifted)["roc_auc"].gain
    assert (gain.value, gain.low, gain.high) == pytest.approx((0, -bound, bound))


def test_two_faultless_models_are_not_known_to_be_equal() -> None:
    first = outcomes_of([0] * 10 + [1] * 10, [0.2] * 10 + [0.8] * 10)
    second = outcomes_of([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 10)
    gain = pairs(first, second)["roc_auc"].gain
    bound = 1 - 0.025 ** (1 / 10)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0, -bound, bound))


def test_other_videos_are_refused() -> None:
    with pytest.raises(ValueError, match="not measured on the same videos"):
        pairs(random_outcomes(0), random_outcomes(1))
    with pytest.raises(ValueError, match="not measured on the same videos"):
        mcnemar(random_outcomes(0), random_outcomes(1))


def test_what_one_model_leaves_undefined_has_no_gain() -> None:
    first = random_outcomes(0)
    second = replace(first, called_fake=np.zeros(120, dtype=bool))
    for one, other in ((first, second), (second, first)):
        gain = pairs(one, other)["precision_fake"].gain
        assert gain == Estimate(value=None, reason="no video is called fake")
    fakes = first.select(first.is_fake)
    assert pairs(fakes, fakes)["roc_auc"].gain.reason == "all videos are fake"


def test_a_gain_without_groups_has_no_interval() -> None:
    first = outcomes_of([0, 1, 1], [0.1, 0.9, 0.2], ["a", "a", "a"])
    second = outcomes_of([0, 1, 1], [0.1, 0.9, 0.8], ["a", "a", "a"])
    gain = pairs(first, second)["accuracy"].gain
    assert gain.value == pytest.approx(1 / 3)
    assert (gain.low, gain.reason) == (None, "there is only one group")


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_mcnemar_sums_the_binomials_that_are_as_unlikely(
    videos: list[tuple[bool, bool, bool]],
) -> None:
    is_fake, called, also_called = np.array(videos).T
    found = mcnemar(outcomes_of(is_fake, called), outcomes_of(is_fake, also_called))
    only_first = sum(one == truth != other for truth, one, other in videos)
    only_second = sum(other == truth != one for truth, one, other in videos)
    assert (found.only_first_right, found.only_second_right) == (only_first, only_second)
    if found.p_value is None:
        assert only_first == only_second == 0
        assert found.reason == "no video is called rightly by one model alone"
    else:
        total = only_first + only_second
        tail = binom.cdf(min(only_first, only_second), total, 0.5)
        assert found.p_value == pytest.approx(min(1, 2 * tail))


def table(*rows: tuple[str, str, str, float]) -> pl.DataFrame:
    """Video, group, label and probability; called at 0.5, uncertain at just that."""
    return OUT_OF_FOLD.frame(
        [
            {
                "video_id": video_id,
                "fold": 0,
                "group": group,
                "label": label,
                "probability_fake": probability,
                "called": "fake" if probability >= 0.5 else "real",
                "verdict": "uncertain" if probability == 0.5 else "real",
            }
            for video_id, group, label, probability in rows
        ]
    )


def test_videos_in_common_are_put_side_by_side() -> None:
    first = table(("c", "g", "fake", 0.9), ("a", "g", "real", 0.5), ("x", "g", "real", 0.1))
    second = table(
        ("a", "h", "real", 0.2),
        ("y", "h", "real", 0.1),
        ("c", "i", "fake", 0.4),
        ("z", "k", "real", 0),
    )
    found = in_common(first, second)
    assert found.first.probability.tolist() == [0.5, 0.9]
    assert found.second.probability.tolist() == [0.2, 0.4]
    assert found.first.is_fake.tolist() == found.second.is_fake.tolist() == [False, True]
    assert found.first.called_fake.tolist() == [True, True]
    assert found.second.called_fake.tolist() == [False, False]
    assert found.first.decided.tolist() == [False, True]
    assert (found.num_only_first, found.num_only_second, found.num_relabelled) == (1, 2, 0)


def test_videos_that_either_one_groups_stay_together() -> None:
    first = table(*((name, group, "real", 0.1) for name, group in zip("abcd", "1123", strict=True)))
    second = table(
        *((name, group, "real", 0.1) for name, group in zip("abcd", "3445", strict=True))
    )
    groups = in_common(first, second).first.groups
    assert len(set(groups.tolist())) == 2, "a b c are tied through b; d is alone"
    assert groups[3] not in groups[:3]


def test_a_video_with_two_labels_is_left_out() -> None:
    first = table(("a", "g", "real", 0.1), ("b", "h", "fake", 0.1))
    second = table(("a", "g", "real", 0.1), ("b", "h", "real", 0.1))
    found = in_common(first, second)
    assert (len(found.first.is_fake), found.num_relabelled) == (1, 1)
    assert (found.num_only_first, found.num_only_second) == (0, 0)
    with pytest.raises(ValueError, match="no video with the same label in common"):
        in_common(first.filter(video_id="b"), second)


def test_a_pair_is_written_with_its_reasons() -> None:
    pair = pairs(random_outcomes(0), random_outcomes(0))["accuracy"]
    assert pair_as_dict(pair)["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}


@pytest.mark.parametrize("seed", range(20))
def test_a_p_value_is_small_just_where_the_interval_leaves_out_none(seed: int) -> None:
    generator = np.random.default_rng(seed)
    worse = random_outcomes(seed)
    nudged = worse.probability + generator.normal(0, 0.15, len(worse.probability))
    nudged = np.clip(nudged + 0.05 * (2 * worse.is_fake - 1), 0, 1)
    other = replace(worse, probability=nudged, called_fake=nudged >= 0.5)
    for name, pair in pairs(worse, other).items():
        if pair.gain.low is None or pair.gain.high is None:
            assert pair.p_value is None
            continue
        assert pair.p_value is not None
        outside = pair.gain.low > 0 or pair.gain.high < 0
        assert outside == (pair.p_value < 1 - CONFIG.confidence), name


def test_what_is_always_right_differs_from_what_is_always_wrong() -> None:
    """No resample differs: as many groups would all have to be right by chance."""
    labels = [0, 1] * 10
    right = outcomes_of(labels, labels)
    wrong = outcomes_of(labels, [1 - label for label in labels])
    found = pairs(wrong, right)["roc_auc"]
    assert found.p_value == pytest.approx(2 * 0.5**10)
    assert pairs(right, right)["roc_auc"].p_value == 1.0


@pytest.mark.slow
def test_a_p_value_is_rarely_small_by_chance() -> None:
    """Of models that are equally good, 5% may seem to differ."""
    small = []
    for seed in range(200):
        generator = np.random.default_rng([7, seed])
        labels = np.arange(60) % 2
        truth = generator.normal(labels.astype(float), 1.0)
        scores = [truth + generator.normal(0, 1.0, 60) for _ in range(2)]
        both = [outcomes_of(labels, 1 / (1 + np.exp(-score))) for score in scores]
        p_value = pairs(both[0], both[1])["roc_auc"].p_value
        small.append(p_value is not None and p_value < 0.05)
    assert 0.01 <= np.mean(small) <= 0.09
