"""Pictures of the evidence: each function gives a Figure, `save` and `drawing` the file.

They are as wide as a phone is at the size of their letters, and legends stand below.

Colours are Okabe and Ito's, which people with any kind of colour vision tell apart: blue
is real, orange is fake, black is the model over all folds, grey is chance or a probe.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from jaxtyping import Int
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics as reference

from fvc.evidence.measures import equal_mass_bins
from fvc.evidence.metrics import Estimate, Outcomes, risk_points
from fvc.files import replacing

REAL, FAKE, CHANCE, INK = "#0072B2", "#D55E00", "#767676", "#1a1a1a"
FOLD_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#B8A800")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8c8c8c",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Ids inside a drawing would be random, and letters would depend on the reader's fonts.
    "svg.hashsalt": "fvc",
    "svg.fonttype": "path",
}

DPI = 150

WIDTH_IN = 4.4

LOSSES: Mapping[str, dict[str, Any]] = {
    "train/loss": {"label": "training", "color": CHANCE, "linestyle": "--"},
    "validation/loss": {"label": "validation", "color": INK},
}
SCORES: Mapping[str, dict[str, Any]] = {
    "validation/roc_auc": {"label": "ROC-AUC", "color": REAL},
    "validation/macro_f1": {"label": "macro-F1", "color": FAKE, "linestyle": "-."},
}
MARKED: dict[str, Any] = {"linewidth": 1.6, "marker": "o", "markersize": 3.5}
"""The two panels of a fold's learning curves: columns of `history.csv`, and their looks."""


def png(figure: Figure) -> bytes:
    """A figure as a PNG; equal figures give equal bytes."""
    file = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def save(figure: Figure, target: Path) -> None:
    """Write a PNG, atomically."""
    with replacing(target) as partial:
        partial.write_bytes(png(figure))


def drawing(figure: Figure) -> bytes:
    """The figure as an SVG, sharp at any size; equal figures give equal bytes."""
    target = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return target.getvalue()


def words_of(figure: Figure) -> str:
    """What a figure says in words and numbers, for those who cannot see it."""
    titles = [axes.get_title("left") for axes in figure.axes]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    said = [text.replace("\n", ": ") for text in [*texts, *legends] if text]
    return f"{', '.join(titles)}. {'; '.join(said)}".strip()


def confusion_matrix(counts: Int[np.ndarray, "2 2"], title: str = "Confusion matrix") -> Figure:
    """Videos by label (rows: real, fake) and by what they were called, with row shares."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _canvas(WIDTH_IN, 4.0) as (figure, (axes,)):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, label in enumerate(("real", "fake")):
            for column in range(2):
                share = float(shares[row, column])
                text = f"{counts[row, column]}\n{share:.0%} of {label}"
                colour = "white" if share > 0.7 else INK
                axes.text(column, row, text, ha="center", va="center", color=colour, size=11)
        axes.set_xticks([0, 1], ["called real", "called fake"])
        axes.set_yticks([0, 1], ["real", "fake"])
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_title(title)
    return figure


def roc_points(outcomes: Outcomes) -> pl.DataFrame:
    """The corners of the ROC curve; no rows where there is one class only."""
    names = ("false_positive_rate", "true_positive_rate")
    if not _has_both(outcomes):
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64))
    false_rate, true_rate, _ = reference.roc_curve(outcomes.is_fake, outcomes.probability)
    return pl.DataFrame(dict(zip(names, (false_rate, true_rate), strict=True)))


def pr_points(outcomes: Outcomes) -> pl.DataFrame:
    """Recall and precision of fakes at every threshold; no rows with one class only."""
    names = ("recall", "precision")
    if not _has_both(outcomes):
        return pl.DataFrame(schema=dict.fromkeys(names, pl.Float64))
    precision, recall, _ = reference.precision_recall_curve(
        outcomes.is_fake, outcomes.probability, drop_intermediate=True
    )
    return pl.DataFrame(dict(zip(names, (recall, precision), strict=True)))


def roc_curve(pooled: Outcomes, folds: Mapping[int, Outcomes]) -> Figure:
    """True over false positive rate, of all folds (or of one test, without `folds`).

    What has one class only has no curve and is left out.
    """
    with _canvas(WIDTH_IN, 5.2) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=CHANCE, linestyle=":", label="chance 0.50")
        for name, look, outcomes in _curves(pooled, folds):
            points = roc_points(outcomes)
            area = reference.roc_auc_score(outcomes.is_fake, outcomes.probability)
            axes.plot(*points.get_columns(), label=f"{name} {area:.2f}", **look)
        _unit_square(axes, "share of real videos called fake", "share of fakes called fake")
        axes.set_title("ROC curve")
        _legend_below(figure, [axes], "area under the curve")
    return figure


def pr_curve(pooled: Outcomes, folds: Mapping[int, Outcomes]) -> Figure:
    """Precision over recall of fakes; chance is the share of fakes."""
    with _canvas(WIDTH_IN, 5.2) as (figure, (axes,)):
        share = float(pooled.is_fake.mean())
        axes.axhline(share, color=CHANCE, linestyle=":", label=f"chance {share:.2f}")
        for name, look, outcomes in _curves(pooled, folds):
            points = pr_points(outcomes)
            area = reference.average_precision_score(outcomes.is_fake, outcomes.probability)
            axes.step(*points.get_columns(), where="pre", label=f"{name} {area:.2f}", **look)
        _unit_square(
            axes, "recall: share of fakes called fake", "precision: share of these that is fake"
        )
        axes.set_title("Precision and recall")
        _legend_below(figure, [axes], "average precision")
    return figure


def reliability(outcomes: Outcomes, num_bins: int) -> Figure:
    """Share of fakes over predicted probability, in bins of equal mass sized by their videos."""
    bins = equal_mass_bins(outcomes.probability, np.ones(len(outcomes.is_fake)), num_bins)
    numbers, counts = np.unique(bins, return_counts=True)
    claimed = [outcomes.probability[bins == number].mean() for number in numbers]
    found = [outcomes.is_fake[bins == number].mean() for number in numbers]
    with _canvas(WIDTH_IN, 5.2) as (figure, (axes,)):
        axes.plot([0, 1], [0, 1], color=CHANCE, linestyle=":", label="perfectly calibrated")
        for label, colour, side in (("a fake video", FAKE, True), ("a real video", REAL, False)):
            values = outcomes.probability[outcomes.is_fake == side]
            # One line with gaps stays small where there are thousands of videos.
            gaps = np.full(len(values), np.nan)
            ends = np.array([1.02, 1.07]) if side else np.array([-0.07, -0.02])
            across = np.stack([values, values, gaps], axis=1).ravel()
            along = np.stack([np.full_like(gaps, ends[0]), np.full_like(gaps, ends[1]), gaps], 1)
            axes.plot(across, along.ravel(), color=colour, alpha=0.6, linewidth=1, label=label)
        axes.plot(claimed, found, color=INK, linewidth=1.4)
        axes.scatter(claimed, found, s=30 + 120 * counts / counts.max(), color=INK, zorder=3)
        axes.plot([], [], "o", color=INK, label="a bin of videos")
        _unit_square(axes, "predicted probability of fake", "share that is fake")
        axes.set_title("Reliability")
        _legend_below(figure, [axes])
        axes.set_ylim(-0.08, 1.08)
    return figure


def risk_coverage(outcomes: Outcomes) -> Figure:
    """Share of wrong answers when only the surest are given, and where the verdicts stand."""
    wrong = outcomes.is_fake != outcomes.called_fake
    points = risk_points(outcomes)
    with _canvas(WIDTH_IN, 5.2) as (figure, (axes,)):
        axes.plot(
            points["coverage"], points["selective_risk"], color=INK, label="by sureness alone"
        )
        axes.axhline(float(wrong.mean()), color=CHANCE, linestyle=":", label="every video answered")
        if outcomes.decided.any():
            place = (outcomes.decided.mean(), wrong[outcomes.decided].mean())
            axes.plot(*place, "D", color=FAKE, markersize=9, label="verdicts real and fake")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, max(0.55, float(points["selective_risk"].to_numpy().max()) + 0.05))
        axes.set_xlabel("share of videos answered")
        axes.set_ylabel("share of answers that are wrong")
        axes.set_title("Risk and coverage")
        _legend_below(figure, [axes])
    return figure


def learning_curves(
    histories: Mapping[int, pl.DataFrame], highest_loss: float | None = None
) -> Figure:
    """Each fold's losses and validation scores, a row per fold; columns as in `history.csv`.

    Epochs are counted from 1, as the terminal does. With `highest_loss` the figures of
    single folds have the same scale.
    """
    top = highest_loss_of(histories) if highest_loss is None else highest_loss
    height_in = 0.6 + 2.3 * max(len(histories), 1)
    with _canvas(WIDTH_IN, height_in, rows=max(len(histories), 1), columns=2) as (figure, panels):
        pairs = zip(panels[::2], panels[1::2], strict=True)
        rows = zip(pairs, sorted(histories.items()), strict=False)
        for (losses, scores), (fold, history) in rows:
            for axes, lines in ((losses, LOSSES), (scores, SCORES)):
                for name, look in lines.items():
                    values = history[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
                    axes.plot(history["epoch"].to_numpy() + 1, values, **MARKED, **look)
                axes.set_xlabel("epoch")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
            losses.set_title(f"Fold {fold}: loss")
            losses.set_ylim(0, 1.05 * top)
            scores.set_title("Validation scores")
            scores.set_ylim(-0.03, 1.03)
            scores.axhline(0.5, color=CHANCE, linestyle=":", zorder=1)
        _legend_below(figure, panels[:2])
    return figure


def highest_loss_of(histories: Mapping[int, pl.DataFrame]) -> float:
    """The highest loss of any fold, where a scale that suits all of them ends."""
    columns = [history[name].cast(pl.Float64) for history in histories.values() for name in LOSSES]
    known = [value for column in columns for value in column.to_list() if value is not None]
    finite = [value for value in known if np.isfinite(value)]
    return max(finite, default=0.0) or 1.0


def forest(rows: Sequence[tuple[str, Estimate]], *, title: str, label: str) -> Figure:
    """Estimates with their intervals, one below the other; the first stands out.

    What has no value keeps its row and says why.
    """
    with _canvas(7.2, 1.2 + 0.36 * len(rows)) as (figure, (axes,)):
        axes.axvline(0.5, color=CHANCE, linestyle=":")
        for row, (_, found) in enumerate(rows):
            colour = INK if row == 0 else CHANCE
            if found.value is None:
                axes.text(0.02, row, found.reason or "", va="center", color=CHANCE, size=9)
                continue
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [row, row], color=colour, linewidth=2.6)
            axes.plot(found.value, row, "o", color=colour, markersize=7)
            axes.text(1.04, row, f"{found.value:.2f}", va="center", color=INK, size=10)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(-0.02, 1.02)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(label)
        axes.set_title(title)
    return figure


def temporal_profile(
    spans: Sequence[tuple[float, float]],
    probabilities: Sequence[float],
    *,
    threshold: float,
    band: tuple[float, float],
    number: int,
    unit: str,
) -> Figure:
    """What each clip of one video got, over its part of the video.

    Args:
        spans: Start and end of each clip.
        probabilities: That it is fake.
        threshold: From it on a clip alone would be called fake.
        band: Between these ends the verdict is uncertain.
        number: The clip to mark, from 0.
        unit: What the spans count.
    """
    with _canvas(5.6, 3.4) as (figure, (axes,)):
        axes.axhspan(*band, color=CHANCE, alpha=0.14, linewidth=0, label="uncertain")
        axes.axhline(threshold, color=CHANCE, linestyle="--", linewidth=1.2, label="threshold")
        for span, probability in zip(spans, probabilities, strict=True):
            colour = FAKE if probability >= threshold else REAL
            axes.plot(span, [probability] * 2, color=colour, linewidth=4, solid_capstyle="butt")
        middles = [(start + end) / 2 for start, end in spans]
        axes.plot(middles, probabilities, color=INK, linewidth=0.8, label="a clip", marker=".")
        place = (middles[number], probabilities[number])
        axes.plot(*place, "o", color=INK, fillstyle="none", markersize=11, label="the clip shown")
        axes.set_xlim(spans[0][0], spans[-1][1])
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel(unit)
        axes.set_ylabel("probability of fake")
        axes.set_title("Score over time")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


@contextmanager
def _canvas(
    width_in: float, height_in: float, *, rows: int = 1, columns: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _legend_below(figure: Figure, axes: Sequence[Axes], title: str | None = None) -> None:
    """One legend of all panels, where it hides no curve, however the curves run."""
    entries: dict[str, Artist] = {}
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=2, title=title
    )


def _curves(
    pooled: Outcomes, folds: Mapping[int, Outcomes]
) -> Iterator[tuple[str, dict[str, Any], Outcomes]]:
    for position, (fold, outcomes) in enumerate(sorted(folds.items())):
        colour = FOLD_COLOURS[position % len(FOLD_COLOURS)]
        if _has_both(outcomes):
            yield f"fold {fold}", {"color": colour, "linewidth": 1.2}, outcomes
    if _has_both(pooled):
        name = "all folds" if folds else "test"
        yield name, {"color": INK, "linewidth": 2.6}, pooled


def _has_both(outcomes: Outcomes) -> bool:
    return bool(outcomes.is_fake.any() and not outcomes.is_fake.all())


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
