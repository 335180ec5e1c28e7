import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.evidence.measures import equal_mass_bins, group_weights


@settings(deadline=None)
@given(st.lists(st.integers(0, 20).map(lambda step: step / 20), min_size=1), st.integers(2, 12))
def test_bins_keep_equal_scores_together_and_in_order(scores: list[float], count: int) -> None:
    probability = np.array(scores)
    bins = equal_mass_bins(probability, np.ones(len(scores)), count)
    assert bins.min() >= 0
    assert bins.max() < count
    assert all(len(set(bins[probability == score])) == 1 for score in scores)
    assert (np.diff(bins[np.argsort(probability)]) >= 0).all()


def test_bins_of_distinct_scores_have_equal_mass() -> None:
    bins = equal_mass_bins(np.random.default_rng(0).random(50), np.ones(50), 10)
    assert (np.bincount(bins) == 5).all()


def test_each_group_has_the_same_weight() -> None:
    groups = np.array(["c", "a", "c", "c", "b", "b"])
    weights = group_weights(groups)
    assert [weights[groups == name].sum() for name in "abc"] == pytest.approx([1.0] * 3)
