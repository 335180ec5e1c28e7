"""What the report says of perturbed videos."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fvc.evidence.metrics import Estimate
from fvc.evidence.robustness import Effect, Robustness
from fvc.report import Grid, Picture, Section
from fvc.report.plots import CHANCE, INK, STYLE
from fvc.report.wording import estimate_text

TITLES = {
    "recompression": "Re-compression",
    "downscale": "Down-scaling",
    "frame_rate": "Frame rate",
    "letterbox": "Letterboxing",
    "mirror": "Mirror",
}
"""Of each perturbation."""

LEVEL_NAMES: Mapping[str, str] = {
    "recompression": "{}",
    "downscale": "1/{}",
    "frame_rate": "1/{}",
    "letterbox": "{}%",
    "mirror": "mirrored",
}
"""What a level is called in the curves."""

UNITS: Mapping[str, str] = {
    "recompression": "CRF of x264",
    "downscale": "of each side",
    "frame_rate": "of the frames",
    "letterbox": "bars on the longer side",
    "mirror": "",
}
"""What these are."""

VERSIONS: Mapping[str, str] = {
    "stored": "the files as they are",
    "reencoded": "encoded anew at high quality",
    "recompression": "re-compressed at CRF {}",
    "downscale": "both sides divided by {}",
    "frame_rate": "one frame in {}",
    "letterbox": "black bars on {}% of the longer side",
    "mirror": "mirrored",
}

STRONGEST: Mapping[str, str] = {
    "recompression": "strong re-compression (CRF {})",
    "downscale": "down-scaling to 1/{} of each side",
    "frame_rate": "dropping the frame rate to 1/{}",
    "letterbox": "black bars on {}% of the longer side",
    "mirror": "mirroring",
}

METHOD = (
    "What happens to a video on its way to the reader was done to videos of the test parts, and "
    "each was scored again by the network and the calibration of its fold. Of every video, the "
    "frames that a score is made of and their neighbours were encoded anew, so effects of more "
    "than that (sound, titles) are not in these numbers. Changes are counted from the same "
    "frames encoded at high quality, and that line is counted from the files as they are."
)


CAPTION = (
    "ROC-AUC of the same videos after each change, from weak to strong; none is the frames "
    "encoded anew at high quality. Shaded: the interval. Dotted: guessing."
)
"""Below the figure."""


def robustness_figure(found: Robustness) -> Figure:
    """ROC-AUC by perturbation and level, a panel for each; there has to be an effect.

    What is unknown is left out.
    """
    with matplotlib.rc_context(STYLE):
        # Below each other in pairs: on a phone, five in a row would have no legible letter.
        rows = -(-len(TITLES) // 2)
        figure = Figure(figsize=(4.6, 2.5 * rows), layout="constrained")
        cells = figure.subplots(rows, 2, sharey=True).ravel()
        panels = cells[: len(TITLES)]
        for spare in cells[len(TITLES) :]:
            spare.remove()
        for axes, (kind, title) in zip(panels, TITLES.items(), strict=True):
            levels = [(_named(LEVEL_NAMES, each), each.roc_auc) for each in found.of(kind)]
            _draw_curve(axes, [("none", found.reencoded.roc_auc), *levels])
            axes.set_title(title)
            axes.set_xlabel(UNITS[kind])
        for axes in panels[::2]:
            axes.set_ylabel("ROC-AUC")
        panels[0].set_ylim(-0.03, 1.03)
    return figure


def _draw_curve(axes: Axes, points: Sequence[tuple[str, Estimate]]) -> None:
    """The first point is the baseline, which is a line, too."""
    columns = zip(*((each.value, each.low, each.high) for _, each in points), strict=True)
    values, lows, highs = (np.array(column, np.float64) for column in columns)
    places = np.arange(len(points))
    axes.axhline(0.5, color=CHANCE, linestyle=":", zorder=1)
    axes.axhline(values[0], color=CHANCE, linestyle="--", linewidth=1.2, zorder=1)
    axes.fill_between(places, lows, highs, color=INK, alpha=0.12, linewidth=0)
    axes.plot(places, values, "o-", color=INK)
    axes.set_xticks(places, [name for name, _ in points])
    axes.set_xlim(-0.3, len(points) - 0.7)


def robustness_section(found: Robustness, pictures: Sequence[Picture]) -> Section:
    """Which verdicts hold when a video was changed, in words and numbers."""
    if not found.num_chosen:
        return Section(
            title="Robustness",
            text=["Not measured: evaluate.robustness_videos is 0 in params.yaml."],
        )
    text = [METHOD, *([] if not found.failures else [_failed(found)])]
    if not found.effects:
        return Section(title="Robustness", text=text)
    strongest = [found.of(kind)[-1] for kind in TITLES]
    said = "; ".join(_sentence(effect, found.num_videos) for effect in strongest)
    text.insert(0, f"{said[0].upper()}{said[1:]}.")
    caption = f"{found.num_videos} videos of {found.num_groups} cascades, {found.num_fake} fake"
    header = ("", "ROC-AUC", "change", "mean change of probability", "verdicts changed")
    rows = [_row(effect, found.num_videos) for effect in found.effects]
    grid = Grid(caption=caption, header=header, rows=rows)
    return Section(title="Robustness", text=text, pictures=pictures, grids=[grid])


def _sentence(effect: Effect, num_videos: int) -> str:
    verb = "changes" if effect.num_changed == 1 else "change"
    changed = f"{effect.num_changed} of {num_videos} verdicts {verb}"
    return f"after {_named(STRONGEST, effect)}, {changed}"


def _row(effect: Effect, num_videos: int) -> tuple[str, ...]:
    name, measured = _named(VERSIONS, effect), estimate_text(effect.roc_auc)
    if effect.kind == "stored":
        return (name, measured, "", "", "")
    changed = f"{effect.num_changed} of {num_videos} ({effect.share_changed:.0%})"
    return (
        *(name, measured, estimate_text(effect.gain)),
        *(f"{effect.probability_change:.3f}", changed),
    )


def _failed(found: Robustness) -> str:
    reasons = ", ".join(f"{video_id} ({why})" for video_id, why in found.failures.items())
    return (
        f"{len(found.failures)} of {found.num_chosen} chosen videos could not be scored in every "
        f"version and are left out: {reasons}."
    )


def _named(names: Mapping[str, str], effect: Effect) -> str:
    return names[effect.kind].format(effect.level)
