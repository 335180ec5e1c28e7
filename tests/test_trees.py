import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier

from fvc.networks.trees import DEPTH, LEAVES, ROUNDS, BoostedTrees


def made(seed: int, rows: int, columns: int, missing: float) -> tuple[np.ndarray, np.ndarray]:
    """Features, some of them NaN or equal, and labels that depend on them."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, columns)).round(1).astype(np.float32)
    labels = (features[:, 0] + generator.normal(size=rows) > 0).astype(int)
    labels[:2] = (0, 1)
    features[generator.random(features.shape) < missing] = np.nan
    # scikit-learn refuses a feature that has no value at all.
    features[0] = 0
    return features, labels


def fitted(features: np.ndarray, labels: np.ndarray, rounds: int) -> HistGradientBoostingClassifier:
    trees = HistGradientBoostingClassifier(
        max_iter=rounds,
        max_leaf_nodes=LEAVES,
        max_depth=DEPTH,
        min_samples_leaf=2,
        early_stopping=False,
    )
    return trees.fit(features, labels)


def exported(trees: HistGradientBoostingClassifier, columns: int) -> BoostedTrees:
    made = BoostedTrees(columns)
    made.take([each.nodes for [each] in trees._predictors], trees._baseline_prediction.item())
    return made


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(12, 120),
    columns=st.integers(1, 6),
    missing=st.sampled_from([0.0, 0.2, 0.9]),
)
def test_the_logits_are_those_of_scikit_learn(
    seed: int, rows: int, columns: int, missing: float
) -> None:
    features, labels = made(seed, rows, columns, missing)
    trees = fitted(features, labels, 12)
    others, _ = made(seed + 1, 50, columns, 0.3)
    others[0] = np.inf
    own = exported(trees, columns)
    for asked in (features, others):
        staged = own.staged(torch.from_numpy(asked)).numpy()
        known = asked.copy()
        known[np.isinf(known)] = 1e9
        expected = np.stack(list(trees.staged_decision_function(known)), axis=1)
        assert np.array_equal(staged[:, :12], expected.reshape(len(asked), -1))
        answer = own(torch.from_numpy(asked)).numpy()[:, 0]
        np.testing.assert_allclose(answer, trees.decision_function(known), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rounds", [1, 5])
def test_the_first_rounds_alone_are_what_boosting_had_by_then(rounds: int) -> None:
    features, labels = made(0, 80, 4, 0.1)
    own = exported(fitted(features, labels, 12), 4)
    expected = own.staged(torch.from_numpy(features))[:, rounds - 1]
    own.keep(rounds)
    assert torch.equal(own(torch.from_numpy(features))[:, 0], expected.float())


def test_a_row_has_the_logit_that_it_has_alone() -> None:
    features, labels = made(0, 80, 4, 0.1)
    own, given = exported(fitted(features, labels, ROUNDS), 4), torch.from_numpy(features)
    alone = torch.cat([own(row[None]) for row in given])
    assert torch.equal(own(given), alone)


def test_trees_that_were_never_filled_say_nothing() -> None:
    assert not BoostedTrees(3)(torch.randn(5, 3)).any()


def test_trees_forget_what_they_learned_and_keep_their_shape() -> None:
    features, labels = made(0, 80, 4, 0.1)
    own = exported(fitted(features, labels, 12), 4)
    forgetful = copy.deepcopy(own)
    torch.manual_seed(0)
    forgetful.reset_parameters()
    for name in ("value", "threshold"):
        values, before = forgetful.get_buffer(name), own.get_buffer(name)
        assert not torch.equal(values, before)
        assert torch.equal(values.ravel().sort().values, before.ravel().sort().values)
    assert not torch.equal(forgetful.feature, own.feature)
    assert torch.equal(forgetful.left, own.left)
    given = torch.from_numpy(features)
    correlation = np.corrcoef(forgetful(given)[:, 0], own(given)[:, 0])[0, 1]
    assert abs(correlation) < 0.5, "it still tells what it was fitted to tell"


def test_gains_name_the_feature_that_tells() -> None:
    features, labels = made(0, 120, 4, 0.0)
    gains = exported(fitted(features, labels, 12), 4).gains()
    assert gains.argmax() == 0
    assert (gains >= 0).all()


def test_too_much_is_refused() -> None:
    features, labels = made(0, 120, 4, 0.0)
    nodes = [each.nodes for [each] in fitted(features, labels, 2)._predictors]
    with pytest.raises(ValueError, match="room for 100 trees"):
        BoostedTrees(4).take(nodes[:1] * (ROUNDS + 1), 0.0)
    deep = nodes[0].copy()
    deep["depth"] = DEPTH + 1
    with pytest.raises(ValueError, match="too deep"):
        BoostedTrees(4).take([deep], 0.0)
