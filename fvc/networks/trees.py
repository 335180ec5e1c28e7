"""A sum of small decision trees as a last layer: plain arrays, made by boosting elsewhere."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

ROUNDS = 100
"""Trees that there is room for."""
LEAVES = 8
"""Leaves of a tree at most: enough for three features to speak together."""
DEPTH = 4
"""Questions between the root and a leaf at most."""
NODES = 2 * LEAVES - 1


class BoostedTrees(nn.Module):
    """Features to one logit, as scikit-learn's HistGradientBoostingClassifier computes it.

    Each tree has room for `NODES` nodes, of which the first is the root; a leaf
    leads to itself. What was never filled is a root that is a leaf of value 0,
    so trees without content give the logit 0.

    Args:
        num_features: How many features there are.
    """

    baseline: Tensor
    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    missing_left: Tensor
    value: Tensor
    gain: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("baseline", torch.zeros((), dtype=torch.float64))
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(ROUNDS, NODES, dtype=torch.int64))
        for name in ("threshold", "value", "gain"):
            self.register_buffer(name, torch.zeros(ROUNDS, NODES, dtype=torch.float64))
        self.register_buffer("missing_left", torch.zeros(ROUNDS, NODES, dtype=torch.bool))

    def take(self, trees: Sequence[np.ndarray], baseline: float) -> None:
        """Fill in what was fitted, in the place of what there was.

        Args:
            trees: The nodes of each, as scikit-learn's `TreePredictor.nodes` has
                them: at most `ROUNDS` trees, in the order of boosting.
            baseline: What they are added to.

        Raises:
            ValueError: There are more trees or nodes than there is room for, or
                a question is of another kind than "at most this much?".
        """
        for values in self.buffers():
            values.zero_()
        self.baseline.fill_(baseline)
        if len(trees) > ROUNDS or max(map(len, trees), default=0) > NODES:
            raise ValueError(f"there is room for {ROUNDS} trees of {NODES} nodes")
        for number, nodes in enumerate(trees):
            if nodes["is_categorical"].any() or nodes["depth"].max() > DEPTH:
                raise ValueError("a tree asks for categories, or is too deep")
            leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
            columns = {
                "feature": np.where(leaf, 0, nodes["feature_idx"]),
                "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
                "left": np.where(leaf, own, nodes["left"]),
                "right": np.where(leaf, own, nodes["right"]),
                "missing_left": nodes["missing_go_to_left"].astype(bool),
                "value": np.where(leaf, nodes["value"], 0.0),
                "gain": np.where(leaf, 0.0, nodes["gain"]),
            }
            for name, column in columns.items():
                values = self.get_buffer(name)
                values[number, : len(nodes)] = torch.from_numpy(column).to(values)

    def keep(self, rounds: int) -> None:
        """Forget all trees but the first ones."""
        for name, values in self.named_buffers():
            if name != "baseline":
                values[rounds:] = 0

    def staged(self, features: Float[Tensor, "N F"]) -> Float64[Tensor, "N rounds"]:
        """The logits after each round; a feature that is NaN goes where such ones went."""
        given = features.double()
        tree = torch.arange(ROUNDS, device=given.device)
        at = torch.zeros(len(given), ROUNDS, dtype=torch.int64, device=given.device)
        for _ in range(DEPTH):
            asked = given.gather(1, self.feature[tree, at])
            goes_left = torch.where(
                asked.isnan(), self.missing_left[tree, at], asked <= self.threshold[tree, at]
            )
            at = torch.where(goes_left, self.left[tree, at], self.right[tree, at])
        values = self.value[tree, at]
        # From the baseline on, one after another: so are scikit-learn's sums rounded.
        baseline = self.baseline.expand(len(given), 1)
        return torch.cat([baseline, values], dim=1).cumsum(dim=1)[:, 1:]

    def forward(self, features: Float[Tensor, "N F"]) -> Float32[Tensor, "N 1"]:
        """The logits after the last round."""
        return self.staged(features)[:, -1:].float()

    def reset_parameters(self) -> None:
        """Forget what is asked, at which level, and what follows; the shapes of trees stay.

        Levels and values change places at random, so they stay of a sensible size.
        """
        # Only leaves have a value; trees that were never filled stay out of it.
        asks, says = self.left != self.right, self.value != 0
        self.feature[asks] = torch.randint(self.num_features, (int(asks.sum()),))
        for values, own in ((self.threshold, asks), (self.value, says)):
            values[own] = values[own][torch.randperm(int(own.sum()))]

    def gains(self) -> Float64[np.ndarray, "F"]:
        """How much the questions about each feature lowered the loss that was fitted, in all."""
        found = torch.zeros(self.num_features, dtype=torch.float64)
        found.index_add_(0, self.feature.cpu().ravel(), self.gain.cpu().ravel())
        return found.numpy()
