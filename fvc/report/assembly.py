"""The whole report: which pictures there are, and which sections in what order."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fvc.config import EvaluateConfig
from fvc.evidence.fold_outputs import Fold
from fvc.evidence.metrics import confusion_matrix
from fvc.evidence.probes import PROBES
from fvc.evidence.weighing import Evidence
from fvc.report import SVG, Headline, Picture, Section, plots, render, sections, verdict

CAPTIONS: Mapping[str, str] = {
    "confusion_matrix": "Every tested video once, by what it is (rows) and what it was called "
    "(columns) at the threshold of its fold.",
    "roc": "How many fakes are found (up) for how many real videos falsely accused (to the right). "
    "The nearer to the upper left corner the better; the dotted line is guessing.",
    "pr": "Of the videos called fake, how many are (up), while more and more of the fakes are "
    "found (to the right). The dotted line is guessing.",
    "reliability": "Whether of the videos given a probability of 0.8 about 80% are fake: points "
    "on the dotted line. Larger points stand for more videos; each stroke at the top is a fake "
    "video, each at the bottom a real one.",
    "risk_coverage": "What share of the answers is wrong when the model answers only where it is "
    "surest: it should fall to the left. The diamond is where its verdicts stand, uncertain ones "
    "left out.",
}
"""The pictures of the report, with what it says below them."""


def figures_of(
    evidence: Evidence, folds: Mapping[int, Fold], config: EvaluateConfig
) -> dict[str, Figure]:
    """Every picture by its file name without ending."""
    histories = {number: fold.history for number, fold in folds.items()}
    probes = [(label, evidence.probes[name].roc_auc) for name, label in PROBES.items()]
    interval = f"ROC-AUC with {config.confidence:.0%} interval"
    return {
        "confusion_matrix": plots.confusion_matrix(confusion_matrix(evidence.pooled)),
        "roc": plots.roc_curve(evidence.pooled, evidence.tested),
        "pr": plots.pr_curve(evidence.pooled, evidence.tested),
        "reliability": plots.reliability(evidence.pooled, config.ece_bins),
        "risk_coverage": plots.risk_coverage(evidence.pooled),
        "learning_curves": plots.learning_curves(histories),
        "probes": plots.forest(
            [("this model", evidence.video["roc_auc"]), *probes],
            title="The model and the probes",
            label=interval,
        ),
        "slices": plots.forest(
            [("all videos", evidence.video["roc_auc"])]
            + [
                (f"{part.by.replace('_', ' ')}: {part.name}", part.roc_auc)
                for part in evidence.slices
            ],
            title="The model by slice",
            label=interval,
        ),
    }


def write_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, Picture]:
    """Save every picture, and draw those of the report."""
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    return {name: drawn(figures[name], caption) for name, caption in CAPTIONS.items()}


def learning_of(folds: Mapping[int, Fold]) -> list[Picture]:
    """Each fold's learning curves, on one scale."""
    histories = {number: fold.history for number, fold in folds.items()}
    top = plots.highest_loss_of(histories)
    return [
        drawn(plots.learning_curves({number: history}, top), f"Fold {number} over its epochs.")
        for number, history in histories.items()
    ]


def drawn(figure: Figure, caption: str) -> Picture:
    """A figure as the page has it."""
    drawing, words = plots.drawing(figure), plots.words_of(figure)
    return Picture(image=drawing, caption=caption, media_type=SVG, alt=words)


def headline_on_page(
    evidence: Evidence, num_leaks: int, availability: sections.Availability, confidence: float
) -> Headline:
    """What the report opens with."""
    return verdict.headline_of(
        evidence.video,
        evidence.cascade,
        evidence.probes,
        num_leaks,
        tested=evidence.pooled,
        availability=availability,
        confidence=confidence,
    )


def page_of(
    evidence: Evidence,
    pictures: Mapping[str, Picture],
    data: Section,
    robustness: Section,
    examples: Section,
    *,
    learning: Sequence[Picture],
    headline: Headline,
    confidence: float,
    weights: Mapping[int, str],
) -> str:
    """The report."""
    video, cascade, probes = evidence.video, evidence.cascade, evidence.probes
    learned = {fold: found.as_dict() for fold, found in evidence.calibrations.items()}
    curves = [pictures[name] for name in CAPTIONS]
    return render(
        headline,
        [
            sections.measures_section(video, cascade, confidence),
            Section(title="Curves", pictures=curves),
            sections.slices_section(evidence.slices),
            robustness,
            examples,
            sections.probes_section(probes, video),
            sections.folds_section(evidence.measured, learned, learning),
            data,
            sections.limits_section(),
            sections.runs_section(weights),
        ],
    )
