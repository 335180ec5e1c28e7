"""The loss of each clip: how it is computed, and how much each class counts in it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from fvc.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipLoss:
    """Binary cross-entropy or focal loss of each clip, weighted by class.

    A target between 0 and 1 counts as that share of a fake and the rest of a
    real clip, so the loss of mixed or smoothed labels is the mean of the
    losses of both labels.

    Source:
        Focal loss: Lin et al., "Focal Loss for Dense Object Detection",
        arXiv:1708.02002, equation 5 (the weights are its alpha).
    """

    config: TrainConfig
    counts: tuple[int, int]
    """Real and fake training examples."""
    weights: tuple[float, float]
    """What a real and a fake clip counts; 1 is the mean over the training examples."""

    def __call__(self, logits: Float[Tensor, " B"], targets: Float[Tensor, " B"]) -> Tensor:
        """The weighted loss of each clip, of shape (B,), at least in float32.

        Finite, as is its gradient, wherever the logit times its weight is.

        Args:
            logits: Positive means fake.
            targets: In [0, 1]; 1 is fake.
        """
        # Logarithms of probabilities: probabilities themselves round to 0 and 1 at logits of 20.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        log_fake, log_real = logsigmoid(wide), logsigmoid(-wide)
        real, fake = self.weights
        of_real, of_fake = -real * log_real, -fake * log_fake
        if self.config.loss == "focal":
            gamma = self.config.focal_gamma
            of_real, of_fake = (
                of_real * (gamma * log_fake).exp(),
                of_fake * (gamma * log_real).exp(),
            )
        return targets * of_fake + (1 - targets) * of_real

    def by_hand(
        self, logits: Float[np.ndarray, " B"], targets: Float[np.ndarray, " B"]
    ) -> Float[np.ndarray, " B"]:
        """The same losses in float64, from the definitions and without torch.

        Weights are found again by counting, and probabilities are written out,
        so a mistake in `__call__` or in the weights shows as a difference.

        Args:
            logits: Positive means fake.
            targets: In [0, 1]; 1 is fake.
        """
        logits, targets = logits.astype(np.float64), targets.astype(np.float64)
        gamma = self.config.focal_gamma if self.config.loss == "focal" else 0.0
        labels = np.array([0, 1])
        # How the probability of each label falls short of 1, as rows of real and fake.
        signed = np.outer(2 * labels - 1, logits)
        surprise = np.logaddexp(0, -signed)
        missed = 1 / (1 + np.exp(np.minimum(signed, 700)))
        share = np.stack([1 - targets, targets])
        costs = self._weights_by_hand()[:, None] * missed**gamma * surprise
        return (share * costs).sum(axis=0)

    def _weights_by_hand(self) -> Float[np.ndarray, "2"]:
        """Weigh every training example, and scale the examples to a mean of 1."""
        if self.config.loss == "class_balanced":
            beta = self.config.class_balanced_beta
            # The first example counts whole, each further one beta of the one before it.
            sizes = np.array([(beta ** np.arange(count)).sum() for count in self.counts])
        elif self.config.imbalance == "class_weights":
            sizes = np.array(self.counts, np.float64)
        else:
            sizes = np.ones(2)
        examples = np.repeat(1 / sizes, self.counts)
        return 1 / sizes / examples.mean()


def make_loss(config: TrainConfig, counts: tuple[int, int]) -> ClipLoss:
    """The loss that a fold trains with.

    Weights are scaled to a mean of 1 over the training examples, so that the
    learning rate means the same with and without them; Cui et al. scale them
    to a mean of 1 over the classes.

    Args:
        config: Which loss, and what makes up for the imbalance.
        counts: Real and fake training examples.

    Raises:
        ValueError: A class has no example.

    Source:
        Effective number of examples: Cui et al., "Class-Balanced Loss Based on
        Effective Number of Samples", arXiv:1901.05555, sections 3 and 4.
    """
    if min(counts) < 1:
        raise ValueError(f"{counts[0]} real and {counts[1]} fake examples: a class has none")
    if config.loss == "class_balanced":
        sizes = [effective_number(count, config.class_balanced_beta) for count in counts]
    elif config.imbalance == "class_weights":
        sizes = [float(count) for count in counts]
    else:
        sizes = [1.0, 1.0]
    mean = sum(count / size for count, size in zip(counts, sizes, strict=True)) / sum(counts)
    real, fake = (1 / (size * mean) for size in sizes)
    return ClipLoss(config=config, counts=counts, weights=(real, fake))


def effective_number(count: int, beta: float) -> float:
    """How many examples a class has where new ones overlap with those before: in [1, count].

    Args:
        count: At least 1.
        beta: In [0, 1); 0 counts the class as one example, near 1 each example whole.
    """
    # Near beta 1 the powers are nearly whole units of rounding below 1, so the differences hold.
    return (1 - beta**count) / (1 - beta)
