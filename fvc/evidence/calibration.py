"""From a network's logit to a probability and a verdict, learned from validation videos alone."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize_scalar
from scipy.special import expit

from fvc.config import Criterion
from fvc.evidence.metrics import Outcomes

Verdict = Literal["real", "fake", "uncertain"]

TEMPERATURE_BOUNDS = (0.1, 10.0)
"""Beyond these the network is wrong, not miscalibrated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How to read the logits of one network."""

    temperature: float
    """Logits are divided by it."""
    threshold: float
    """A video at or above it is called fake where no verdict may be withheld."""
    abstain_low: float
    """Below it the verdict is `real`; at 0 it never is."""
    abstain_high: float
    """Above it the verdict is `fake`; at 1 it never is."""
    criterion: Criterion
    """By what the threshold was chosen, as `evaluate.threshold_criterion` has it."""
    target_error_rate: float
    """Largest share of wrong verdicts, of either side, that the band left on the validation
    videos."""
    num_real: int
    """Real validation videos that it was learned from."""
    num_fake: int
    """Fake validation videos that it was learned from."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}, not above 0")
        if not 0 <= self.abstain_low <= self.threshold <= self.abstain_high <= 1:
            band = (self.abstain_low, self.threshold, self.abstain_high)
            raise ValueError(f"low, threshold and high are {band}, not rising within [0, 1]")

    def probability(self, logit: float) -> float:
        """The probability that a video with this logit is fake."""
        return float(expit(logit / self.temperature))

    def probabilities(self, logits: Float[np.ndarray, "V"]) -> Float[np.ndarray, "V"]:
        """The probabilities that videos are fake, each as `probability` gives it."""
        return expit(logits / self.temperature)

    def verdict(self, probability: float) -> Verdict:
        """What to tell a reader; the band's own ends are uncertain."""
        if probability > self.abstain_high:
            return "fake"
        return "real" if probability < self.abstain_low else "uncertain"

    def as_dict(self) -> dict[str, float | int]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Calibration":
        """What `as_dict` gave.

        Raises:
            ValueError: A field is missing, unknown, or out of range.
        """
        if fields.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"fields {sorted(fields)} are not those of a calibration")
        return cls(**fields)


def calibrate(
    logits: Float[np.ndarray, "V"],
    is_fake: Bool[np.ndarray, "V"],
    *,
    criterion: Criterion,
    target_error_rate: float,
) -> Calibration:
    """Learn temperature, threshold and abstention band from one fold's validation videos.

    The threshold is `best_threshold`. Each end of the band is the one nearest the
    threshold beyond which at most `target_error_rate` of the validation videos are wrong:
    the selective risk of either verdict, and so of both together. With no such end, that
    verdict is never given. Rates of a handful of videos are as coarse as they are few: six
    videos that a network happens to separate leave no band. What holds on validation need
    not hold elsewhere; the report shows the risk on test videos.

    Without videos of both classes nothing can be learned: logits are taken as they are,
    the threshold is 0.5, and every verdict is `uncertain`.

    Raises:
        ValueError: A logit is not finite.

    Source:
        Selective risk: El-Yaniv and Wiener, "On the Foundations of Noise-free Selective
        Classification", JMLR 11 (2010), section 2.
    """
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    num_fake, num_real = int(is_fake.sum()), int((~is_fake).sum())
    if num_fake == 0 or num_real == 0:
        temperature, threshold, low, high = 1.0, 0.5, 0.0, 1.0
    else:
        temperature = fit_temperature(logits, is_fake)
        probability = expit(logits / temperature)
        threshold = best_threshold(probability, is_fake, criterion)
        high = _band_end(probability, ~is_fake, threshold, target_error_rate)
        # Mirrored, so that the lower end is found as the upper one is.
        low = 1 - _band_end(1 - probability, is_fake, 1 - threshold, target_error_rate)
        low = min(low, threshold)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        abstain_low=low,
        abstain_high=high,
        criterion=criterion,
        target_error_rate=target_error_rate,
        num_real=num_real,
        num_fake=num_fake,
    )


def judge(
    calibration: Calibration,
    logits: Float[np.ndarray, "V"],
    *,
    is_fake: Bool[np.ndarray, "V"],
    groups: Shaped[np.ndarray, "V"],
) -> Outcomes:
    """What is said of videos with these logits, beside what they are."""
    probability = calibration.probabilities(logits)
    verdicts = np.array([calibration.verdict(value) for value in probability.tolist()])
    return Outcomes(
        is_fake=is_fake,
        probability=probability,
        called_fake=probability >= calibration.threshold,
        decided=verdicts != "uncertain",
        groups=groups,
    )


def fit_temperature(logits: Float[np.ndarray, "V"], is_fake: Bool[np.ndarray, "V"]) -> float:
    """The temperature under which the labels are likeliest, within `TEMPERATURE_BOUNDS`.

    A normal prior on its logarithm, with mean 0 and deviation 1, keeps a few videos that
    happen to be separable from asking for the coldest; among hundreds it has no weight.

    Source:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    signed = np.where(is_fake, logits, -logits)

    def cost(log_temperature: float) -> float:
        losses = np.logaddexp(0, -signed * math.exp(-log_temperature))
        return float(losses.sum() + log_temperature**2 / 2)

    coldest, hottest = TEMPERATURE_BOUNDS
    bounds = (math.log(coldest), math.log(hottest))
    return math.exp(minimize_scalar(cost, bounds=bounds, method="bounded").x)


def best_threshold(
    probability: Float[np.ndarray, "V"], is_fake: Bool[np.ndarray, "V"], criterion: Criterion
) -> float:
    """The threshold that a criterion likes best, of equals the one nearest 0.5.

    Candidates are 0.5 and the middles between neighbouring probabilities; both classes
    have to be there.

    Source:
        `macro_f1`: Opitz and Burst, "Macro F1 and Macro F1", arXiv:1911.03347, the mean of
        the classes' F1. `balanced_accuracy`: Brodersen et al., "The balanced accuracy and
        its posterior distribution", ICPR 2010; Youden, "Index for rating diagnostic
        tests", Cancer 3 (1950), is twice as much less 1. `equal_error_rate`: Martin et
        al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
        `mcc`: Matthews, "Comparison of the predicted and observed secondary structure of
        T4 phage lysozyme", BBA 405 (1975). `half`: the rule of Bayes for calibrated
        probabilities where either error costs the same.
    """
    if criterion == "half":
        return 0.5
    candidates = np.union1d([0.5], _middles(probability))
    false_real = np.searchsorted(np.sort(probability[is_fake]), candidates)
    true_real = np.searchsorted(np.sort(probability[~is_fake]), candidates)
    true_fake, false_fake = is_fake.sum() - false_real, (~is_fake).sum() - true_real
    score = _SCORES[criterion](true_fake, false_fake, true_real, false_real)
    best = candidates[score >= score.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))])


Counts = Int[np.ndarray, "C"]
"""Of videos, for each candidate."""
Scores = Float[np.ndarray, "C"]


def _macro_f1(
    true_fake: Counts, false_fake: Counts, true_real: Counts, false_real: Counts
) -> Scores:
    errors = false_real + false_fake
    return true_fake / (2 * true_fake + errors) + true_real / (2 * true_real + errors)


def _balanced_accuracy(
    true_fake: Counts, false_fake: Counts, true_real: Counts, false_real: Counts
) -> Scores:
    return true_fake / (true_fake + false_real) + true_real / (true_real + false_fake)


def _equal_error_rate(
    true_fake: Counts, false_fake: Counts, true_real: Counts, false_real: Counts
) -> Scores:
    missed, alarms = false_real / (true_fake + false_real), false_fake / (true_real + false_fake)
    return -np.abs(missed - alarms)


def _matthews(
    true_fake: Counts, false_fake: Counts, true_real: Counts, false_real: Counts
) -> Scores:
    called = (true_fake + false_fake) * (true_real + false_real)
    # Where one class is never called there is no correlation, and the numerator is 0.
    scale = np.sqrt(np.maximum(called * (true_fake + false_real) * (true_real + false_fake), 1.0))
    return (true_fake * true_real - false_fake * false_real) / scale


_SCORES: Mapping[str, Callable[[Counts, Counts, Counts, Counts], Scores]] = {
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "equal_error_rate": _equal_error_rate,
    "mcc": _matthews,
}


def _band_end(
    probability: Float[np.ndarray, "V"],
    wrong: Bool[np.ndarray, "V"],
    threshold: float,
    target_error_rate: float,
) -> float:
    middles = _middles(probability)
    candidates = np.concatenate([[threshold], middles[middles > threshold]])
    ordered = np.sort(probability)
    decided = len(ordered) - np.searchsorted(ordered, candidates, side="right")
    ordered = np.sort(probability[wrong])
    errors = len(ordered) - np.searchsorted(ordered, candidates, side="right")
    enough = candidates[(decided > 0) & (errors <= target_error_rate * decided)]
    return float(enough[0]) if enough.size else 1.0


def _middles(probability: Float[np.ndarray, "V"]) -> Float[np.ndarray, "M"]:
    values = np.unique(probability)
    return (values[1:] + values[:-1]) / 2
