"""How the report writes numbers, and what it calls and says of the measures."""

from collections.abc import Mapping

from fvc.evidence.metrics import Estimate
from fvc.report import Span, Terms

MEANINGS: Mapping[str, str] = {
    "roc_auc": "Of one fake and one real video, how often the fake gets the higher score; 0.5 is "
    "guessing, 1 is always.",
    "pr_auc": "How many alarms are right, averaged while more and more fakes are found; guessing "
    "gives the share of fakes.",
    "eer": "The error rate at which as large a share of fakes is missed as of real videos is "
    "accused; lower is better.",
    "accuracy": "The share of videos on the right side of the threshold.",
    "balanced_accuracy": "The accuracy on real videos and the one on fakes, averaged, so that the "
    "more frequent class does not decide; 0.5 is guessing.",
    "macro_f1": "The F1 of both classes, averaged. F1 is high only where few videos of a class are "
    "missed and few are falsely put into it.",
    "macro_precision": "The precision of both classes, averaged.",
    "precision_real": "Of the videos called real, the share that is real.",
    "recall_real": "Of the real videos, the share called real.",
    "f1_real": "The harmonic mean of these two.",
    "precision_fake": "Of the videos called fake, the share that is fake.",
    "recall_fake": "Of the fakes, the share called fake.",
    "f1_fake": "The harmonic mean of these two.",
    "brier": "The squared distance of probability and truth, averaged; lower is better, and "
    "always saying 0.5 gives 0.25.",
    "ece": "How far the stated probabilities lie from the shares of fakes really found; lower is "
    "better. Noise raises it, so that it has no interval.",
    "coverage": "The share called real or fake, not uncertain.",
    "decided_accuracy": "Of these, the share that is right.",
}
"""What each measure means, for a reader who has never met it."""

PROBE_MEANINGS: Mapping[str, str] = {
    "container": "Guesses from the file's header: width, height, frame rate, bitrate, duration, "
    "size, codec.",
    "platform": "Guesses from the platform that the video was on.",
    "majority": "Calls every video what most are.",
    "frame": "Sees the middle frame alone, in 16 x 16 grey levels with its mean colour: scenery "
    "and logos, no motion.",
    "bars": "Sees only where the clips are black: the bars of a repost, and those of the "
    "letterbox, which tell the picture's shape.",
    "cascade": "Looks the video's cascade up among the training videos.",
    "shuffle": "Learns labels that were dealt out at random.",
}
"""What each probe does."""

CALIBRATION_TERMS: Terms = (
    (
        "Temperature",
        "what a network's scores are divided by, so that of the videos with a probability of 0.8 "
        "about 80% are fake.",
    ),
    ("Threshold", "the probability of fake from which on a video is called fake."),
    (
        "Abstention band",
        "the probabilities around the threshold for which the verdict is uncertain, since too "
        "many answers would be wrong.",
    ),
    (
        "Fold",
        "one of the equal parts of the corpus, tested by the network that did not train on it.",
    ),
)


def value_text(value: float | None) -> str:
    """Three decimals, or that it is unknown."""
    return "unknown" if value is None else f"{value:.3f}"


def percent_text(value: float | None) -> str:
    """A share, or that it is unknown."""
    return "unknown" if value is None else f"{value:.0%}"


def interval_text(found: Estimate) -> str:
    """From where to where, or why that is not known."""
    if found.low is None or found.high is None:
        return found.reason or ""
    return f"{found.low:.3f} to {found.high:.3f}"


def estimate_text(found: Estimate) -> str:
    """A value with its interval, or why there is none."""
    if found.value is None:
        return f"unknown: {found.reason}"
    interval = interval_text(found)
    return f"{found.value:.3f} ({interval})" if interval else value_text(found.value)


def span_of(found: Estimate, *, stands_out: bool = False) -> Span:
    """An estimate as it is drawn."""
    return Span(value=found.value, low=found.low, high=found.high, stands_out=stands_out)


def counted(number: int, noun: str) -> str:
    """`1 leak`, `2 leaks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
