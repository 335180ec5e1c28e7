"""Weigh the evidence: calibrate each fold, score each tested video, compare with the probes."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure

from fvc import report, tracking
from fvc.config import EvaluateConfig, Params, load_params
from fvc.errors import FvcError
from fvc.evidence.fold_outputs import Fold, final_results, read_fold, read_history
from fvc.evidence.metrics import (
    confusion_matrix,
)
from fvc.evidence.weighing import Evidence, metrics_of, out_of_fold, weigh
from fvc.files import read_json, replacing, sha256_of_file, write_json
from fvc.networks import WEIGHTS
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX, OUT_OF_FOLD, PREDICTIONS, REJECTED
from fvc.report import plots, sections, verdict

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
    "risk_coverage": "How the share of wrong answers falls when the model answers only where it is "
    "surest (to the left). The diamond is where its verdicts stand, uncertain ones left out.",
}
"""The pictures of the report, with what it says below them."""


def figures_of(
    evidence: Evidence, folds: Mapping[int, Fold], config: EvaluateConfig
) -> dict[str, Figure]:
    """Every picture by its file name without ending."""
    histories = {number: fold.history for number, fold in folds.items()}
    probes = [(label, evidence.probes[name].roc_auc) for name, label in sections.PROBES.items()]
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


def page_of(
    evidence: Evidence,
    pictures: Mapping[str, report.Picture],
    data: report.Section,
    *,
    learning: Sequence[report.Picture],
    headline: report.Headline,
    confidence: float,
    weights: Mapping[int, str],
) -> str:
    """The report."""
    video, cascade, probes = evidence.video, evidence.cascade, evidence.probes
    learned = {fold: found.as_dict() for fold, found in evidence.calibrations.items()}
    curves = [pictures[name] for name in CAPTIONS]
    return report.render(
        headline,
        [
            sections.measures_section(video, cascade, confidence),
            report.Section(title="Curves", pictures=curves),
            sections.slices_section(evidence.slices),
            sections.probes_section(probes, video),
            sections.folds_section(evidence.measured, learned, learning),
            data,
            sections.limits_section(),
            sections.runs_section(weights),
        ],
    )


def headline_on_page(
    evidence: Evidence, num_leaks: int, availability: sections.Availability, confidence: float
) -> report.Headline:
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


def write_figures(figures: Mapping[str, Figure], folder: Path) -> dict[str, report.Picture]:
    """Save every picture, and draw those of the report."""
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    return {name: drawn(figures[name], caption) for name, caption in CAPTIONS.items()}


def learning_of(folds: Mapping[int, Fold]) -> list[report.Picture]:
    """Each fold's learning curves, on one scale."""
    histories = {number: fold.history for number, fold in folds.items()}
    top = plots.highest_loss_of(histories)
    return [
        drawn(plots.learning_curves({number: history}, top), f"Fold {number} over its epochs.")
        for number, history in histories.items()
    ]


def drawn(figure: Figure, caption: str) -> report.Picture:
    """A figure as the page has it."""
    drawing, words = plots.drawing(figure), plots.words_of(figure)
    return report.Picture(png=drawing, caption=caption, media_type=report.SVG, alt=words)


def run(
    params: Params,
    *,
    models: Path,
    index: Path,
    index_summary: Path,
    rejected: Path,
    folds: Path,
    split: Path,
    evaluation: Path,
) -> None:
    """Read the folds' predictions, weigh them, write numbers, curves and the report.

    Raises:
        FvcError: An input is missing or does not belong to the others.
    """
    places = FOLDS.read(folds).filter(part="fold").sort("video_id")
    videos, divided = INDEX.read(index), read_json(split, "split")
    availability = read_json(index_summary, "index")["availability"]
    if not set(places["video_id"]) <= set(videos["video_id"]):
        raise FvcError(folds, "names videos that are not in the index", "Run 'dvc repro split'")
    trained = {number: read_fold(models, number, places) for number in params.split.folds}
    evidence = weigh(trained, videos, params.evaluate, params.seed)
    weights = {n: sha256_of_file(weights_of(models, n)) for n in params.split.folds}
    num_leaks, confidence = divided["audit"]["leaks"], params.evaluate.confidence
    write_numbers(evidence, trained, num_leaks, evaluation)
    page = page_of(
        evidence,
        write_figures(figures_of(evidence, trained, params.evaluate), evaluation),
        sections.data_section(places, REJECTED.read(rejected), divided["locked"], availability),
        learning=learning_of(trained),
        headline=headline_on_page(evidence, num_leaks, availability, confidence),
        confidence=confidence,
        weights=weights,
    )
    with replacing(evaluation / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")


def track(
    params: Params, *, models: Path, clips_summary: Path, folds: Path, evaluation: Path
) -> None:
    """Give the cross-validation's run the evidence, rebuild the fold runs it lacks, and end it."""
    identity = tracking.Identity(
        params=params,
        data_sha256=read_json(clips_summary, "clips")["data_sha256"],
        folds_sha256=folds_sha256(FOLDS.read(folds)),
    )
    outputs = []
    for number in params.split.folds:
        folder = models / str(number)
        weights = weights_of(models, number)
        predictions = PREDICTIONS.read(folder / "predictions.parquet")
        history = read_history(folder / "history.csv", "Run 'dvc repro'").to_dicts()
        outputs.append(
            tracking.FoldOutputs(
                fold=number,
                weights_sha256=sha256_of_file(weights),
                history=[{k: v for k, v in row.items() if v is not None} for row in history],
                results=final_results(predictions),
                files=sorted(folder.iterdir()),
            )
        )
    metrics = read_json(evaluation / "metrics.json", "evaluate")
    tracking.complete_cross_validation(
        identity, outputs, tracked_metrics(metrics), evaluation, note_of(metrics)
    )


def weights_of(models: Path, number: int) -> Path:
    """The weights of a fold.

    Raises:
        FvcError: They are missing.
    """
    weights = models / str(number) / WEIGHTS
    if not weights.is_file():
        raise FvcError(weights, "is missing", f"Run 'dvc repro -f -s train@{number}'")
    return weights


def headline_of(metrics: Mapping[str, Any]) -> dict[str, float | bool | None]:
    """The few numbers that `dvc metrics show` and `dvc exp show` have room for."""
    roc_auc = metrics["video"]["roc_auc"]
    return {
        "roc_auc": roc_auc["value"],
        "roc_auc_low": roc_auc["low"],
        "roc_auc_high": roc_auc["high"],
        "macro_f1": metrics["video"]["macro_f1"]["value"],
        "best_probe_roc_auc": metrics["best_probe_roc_auc"],
        "beats_probes": metrics["beats_probes"],
    }


def note_of(metrics: Mapping[str, Any]) -> str:
    """What the run's page says first, in Markdown."""
    found = metrics["video"]["roc_auc"]
    known = "unknown" if found["value"] is None else f"{found['value']:.3f}"
    interval = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    beats = "beats" if metrics["beats_probes"] else "does **not** beat"
    probe = f", {metrics['best_probe']}" if metrics["best_probe"] else ""
    return (
        f"Out-of-fold ROC-AUC **{known}**{interval}; it {beats} the best probe{probe}. "
        "The evidence is in the artifact `report.html`. `test/accuracy` and the like are of calls "
        "at each fold's own threshold, those of the folds' runs at a probability of 0.5."
    )


def tracked_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What the cross-validation's run shows: the folds' names for the pooled values."""
    values: dict[str, float | None] = {}
    for name, found in metrics["video"].items():
        values[f"test/{name}"] = found["value"]
        values[f"test/{name}_low"], values[f"test/{name}_high"] = found["low"], found["high"]
        values[f"test_by_cascade/{name}"] = metrics["cascade"][name]["value"]
        values[f"test_over_folds/{name}_mean"] = metrics["folds"][name]["mean"]
        values[f"test_over_folds/{name}_std"] = metrics["folds"][name]["std"]
    for name, probe in metrics["probes"].items():
        values[f"probes/{name}_roc_auc"] = probe["roc_auc"]["value"]
    return {name: value for name, value in values.items() if value is not None}


def write_numbers(
    evidence: Evidence, trained: Mapping[int, Fold], num_leaks: int, folder: Path
) -> None:
    """Write everything but pictures and the report."""
    calibrations = {str(fold): found.as_dict() for fold, found in evidence.calibrations.items()}
    metrics = metrics_of(evidence, num_leaks)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "headline.json", headline_of(metrics))
    write_json(folder / "slices.json", [part.as_dict() for part in evidence.slices])
    write_json(folder / "calibration.json", calibrations)
    OUT_OF_FOLD.write(folder / "out_of_fold.csv", out_of_fold(trained, evidence))
    write_csv(folder / "roc.csv", plots.roc_points(evidence.pooled))
    write_csv(folder / "pr.csv", plots.pr_points(evidence.pooled))


def write_csv(target: Path, points: pl.DataFrame) -> None:
    """Write the points of a curve, atomically."""
    with replacing(target) as partial:
        points.write_csv(partial)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc evaluate", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--models", type=Path, required=True, help="read: one folder per fold")
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--index-summary", type=Path, required=True, help="read: its counts")
    parser.add_argument("--rejected", type=Path, required=True, help="read: unusable videos")
    parser.add_argument("--clips-summary", type=Path, required=True, help="read: what was decoded")
    parser.add_argument("--folds", type=Path, required=True, help="read: who is tested where")
    parser.add_argument("--split", type=Path, required=True, help="read: counts and audit")
    parser.add_argument("--evaluation", type=Path, required=True, help="written: the evidence")
    parser.add_argument(
        "--only-track", action="store_true", help="log what was written before, compute nothing"
    )
    args = parser.parse_args(argv)
    params = load_params(args.params)
    if not args.only_track:
        run(
            params,
            models=args.models,
            index=args.index,
            index_summary=args.index_summary,
            rejected=args.rejected,
            folds=args.folds,
            split=args.split,
            evaluation=args.evaluation,
        )
    track(
        params,
        models=args.models,
        clips_summary=args.clips_summary,
        folds=args.folds,
        evaluation=args.evaluation,
    )
