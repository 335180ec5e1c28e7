"""Made outcomes: what a model said of videos whose truth is known."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from fvc.config import EvaluateConfig
from fvc.evidence.calibration import Calibration
from fvc.evidence.metrics import Outcomes

CALIBRATION = Calibration(
    temperature=1.0,
    threshold=0.5,
    abstain_low=0.4,
    abstain_high=0.6,
    criterion="macro_f1",
    target_error_rate=0.1,
    num_real=4,
    num_fake=4,
)
CONFIG = EvaluateConfig(
    bootstrap_samples=200,
    confidence=0.95,
    ece_bins=10,
    threshold_criterion="macro_f1",
    target_error_rate=0.1,
    robustness_videos=0,
)


def outcomes_of(
    is_fake: ArrayLike, scores: ArrayLike, groups: ArrayLike | None = None, band: float = 0.0
) -> Outcomes:
    """A call at 0.5, a verdict where the score is `band` away from it, and groups of one."""
    probability = np.asarray(scores, dtype=np.float64)
    return Outcomes(
        is_fake=np.asarray(is_fake, dtype=bool),
        probability=probability,
        called_fake=probability >= 0.5,
        decided=np.abs(probability - 0.5) >= band,
        groups=np.arange(len(probability)) if groups is None else np.asarray(groups),
    )


def random_outcomes(seed: int, num_videos: int = 120, num_groups: int = 30) -> Outcomes:
    """Related, tied scores in groups of unequal size."""
    generator = np.random.default_rng(seed)
    groups = generator.integers(num_groups, size=num_videos) ** 2 // num_groups
    is_fake = generator.random(num_videos) < 0.4
    probability = np.round(np.clip(generator.normal(0.4 + 0.2 * is_fake, 0.25), 0, 1), 2)
    return outcomes_of(is_fake, probability, groups, band=0.1)


def drawn_cascades(
    generator: np.random.Generator, num_groups: int, separation: float, *, equal_sizes: bool
) -> Outcomes:
    """Cascades from a population: two fifths are fake, copies of a video score alike.

    The logit is half the separation to the side of the label, with a deviation of 0.7 from
    cascade to cascade and again from copy to copy. Sizes are 3, or from 1 to 60 and mostly few.
    """
    sizes = np.minimum(generator.geometric(0.12, num_groups), 60)
    groups = np.repeat(np.arange(num_groups), np.where(equal_sizes, 3, sizes))
    is_fake = (generator.random(num_groups) < 0.4)[groups]
    logits = separation * (is_fake - 0.5) + 0.7 * generator.normal(size=num_groups)[groups]
    return outcomes_of(is_fake, expit(logits + 0.7 * generator.normal(size=len(groups))), groups)
