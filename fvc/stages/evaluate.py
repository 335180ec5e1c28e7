"""Weigh the evidence: calibrate each fold, score each tested video, compare with the probes."""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from fvc import report, tracking
from fvc.config import IndexConfig, Params, load_params
from fvc.errors import FvcError
from fvc.evidence.examples import explain_examples, numbers_of
from fvc.evidence.fold_outputs import Fold, final_results, read_fold, read_history
from fvc.evidence.metrics import risk_points
from fvc.evidence.pixel_probes import read_pixel_facts
from fvc.evidence.rescoring import Subject, rescore
from fvc.evidence.robustness import choose_videos, tracked, weigh_robustness
from fvc.evidence.summary import headline_of, tracked_metrics
from fvc.evidence.weighing import Evidence, metrics_of, out_of_fold, weigh
from fvc.files import read_json, replacing, sha256_of_file, write_json
from fvc.leakage import find_leaks
from fvc.near_duplicates import KEPT_MATCHES
from fvc.networks import WEIGHTS
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX, OUT_OF_FOLD, PREDICTIONS, REJECTED
from fvc.report import plots, sections
from fvc.report.assembly import figures_of, headline_on_page, learning_of, page_of, write_figures
from fvc.report.examples import examples_section, write_files
from fvc.report.robustness import CAPTION, robustness_figure, robustness_section
from fvc.report.verdict import note_of

MAX_LEAKS_LISTED = 20


def run(
    params: Params,
    *,
    models: Path,
    videos: Path,
    index: Path,
    index_summary: Path,
    rejected: Path,
    clips: Path,
    probes: Path,
    folds: Path,
    split: Path,
    robustness: Path,
    evaluation: Path,
) -> None:
    """Read the folds' predictions, weigh them, write numbers, curves and the report.

    The folds are audited again: what stage split promised was of the file that it wrote.

    Raises:
        FvcError: An input is missing or does not belong to the others.
    """
    indexed, divided = INDEX.read(index), read_json(split, "split")
    availability = read_json(index_summary, "index")["availability"]
    # The audit first: it refuses folds of other videos than the index has.
    num_leaks = count_leaks(FOLDS.read(folds), indexed, params.index, probes, folds)
    places = FOLDS.read(folds).filter(part="fold").sort("video_id")
    trained = {number: read_fold(models, number, places) for number in params.split.folds}
    seen = indexed.join(read_pixel_facts(places["video_id"], clips), on="video_id")
    evidence = weigh(trained, seen, params.evaluate, params.seed)
    weights = {n: sha256_of_file(weights_of(models, n)) for n in params.split.folds}
    confidence = params.evaluate.confidence
    write_numbers(evidence, trained, num_leaks, evaluation)
    page = page_of(
        evidence,
        write_figures(figures_of(evidence, trained, params.evaluate), evaluation),
        sections.data_section(places, REJECTED.read(rejected), divided["locked"], availability),
        perturb(
            *(params, trained, evidence, indexed),
            models=models,
            videos=videos,
            kept=robustness,
            folder=evaluation,
        ),
        explain(params, trained, evidence, indexed, models=models, clips=clips, folder=evaluation),
        learning=learning_of(trained),
        headline=headline_on_page(evidence, num_leaks, availability, confidence),
        confidence=confidence,
        weights=weights,
    )
    with replacing(evaluation / "report.html") as partial:
        partial.write_text(page, encoding="utf-8")


def explain(
    params: Params,
    trained: Mapping[int, Fold],
    evidence: Evidence,
    videos: pl.DataFrame,
    *,
    models: Path,
    clips: Path,
    folder: Path,
) -> report.Section:
    """Explain examples of the tested videos, write their pictures, and hand them to the report.

    Raises:
        FvcError: A network or a video's clips are missing or not those of the predictions.
    """
    found = explain_examples(
        out_of_fold(trained, evidence),
        videos,
        evidence.calibrations,
        models=models,
        clips=clips,
        config=params.clips,
        seed=params.seed,
    )
    section, files = examples_section(found)
    write_files(files, folder / "examples")
    write_json(folder / "examples.json", numbers_of(found))
    return section


def perturb(
    params: Params,
    trained: Mapping[int, Fold],
    evidence: Evidence,
    index: pl.DataFrame,
    *,
    models: Path,
    videos: Path,
    kept: Path,
    folder: Path,
) -> report.Section:
    """Score perturbed test videos, write what came of it, and hand it to the report.

    Raises:
        FvcError: A video or a network is missing.
    """
    number = params.evaluate.robustness_videos
    chosen = pl.concat(
        [choose_videos(fold.part("test"), number, params.seed) for fold in trained.values()]
    )
    described = chosen.join(index.select("video_id", "path", "sha256"), on="video_id", how="left")
    subjects = [
        Subject(video_id, videos / path, sha256, fold)
        for video_id, path, sha256, fold in described.select(
            "video_id", "path", "sha256", "fold"
        ).rows()
    ]
    found = weigh_robustness(
        chosen,
        rescore(subjects, models, params.clips, kept),
        evidence.calibrations,
        config=params.evaluate,
        seed=params.seed,
    )
    write_json(folder / "robustness.json", found.as_dict())
    write_csv(folder / "robustness.csv", found.points())
    pictures = []
    if found.effects:
        target = folder / "robustness.png"
        plots.save(robustness_figure(found), target)
        pictures.append(report.Picture(image=target.read_bytes(), caption=CAPTION))
    return robustness_section(found, pictures)


def count_leaks(
    folds: pl.DataFrame, index: pl.DataFrame, config: IndexConfig, probes: Path, source: Path
) -> int:
    """How many pairs the folds have in two parts that may not be apart; the first are named.

    Raises:
        FvcError: The folds do not divide the videos of the index.
    """
    try:
        leaks = find_leaks(folds, index, config, matches=probes / KEPT_MATCHES)
    except ValueError as error:
        raise FvcError(source, str(error), "Run 'dvc repro split'") from error
    sys.stderr.write("".join(f"evaluate: {leak}\n" for leak in leaks[:MAX_LEAKS_LISTED]))
    return len(leaks)


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
    shown = tracked_metrics(metrics) | tracked(
        read_json(evaluation / "robustness.json", "evaluate")
    )
    tracking.complete_cross_validation(identity, outputs, shown, evaluation, note_of(metrics))


def weights_of(models: Path, number: int) -> Path:
    """The weights of a fold.

    Raises:
        FvcError: They are missing.
    """
    weights = models / str(number) / WEIGHTS
    if not weights.is_file():
        raise FvcError(weights, "is missing", f"Run 'dvc repro -f -s train@{number}'")
    return weights


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
    write_csv(folder / "risk_coverage.csv", risk_points(evidence.pooled))
    # A network withholds verdicts by its own probabilities: these are what is kept with it.
    by_fold = [
        risk_points(found).select(pl.lit(fold).alias("fold"), pl.all())
        for fold, found in evidence.tested.items()
    ]
    write_csv(folder / "risk_coverage_by_fold.csv", pl.concat(by_fold))


def write_csv(target: Path, points: pl.DataFrame) -> None:
    """Write the points of a curve, atomically."""
    with replacing(target) as partial:
        points.write_csv(partial)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc evaluate", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--models", type=Path, required=True, help="read: one folder per fold")
    parser.add_argument("--videos", type=Path, required=True, help="read: some are perturbed")
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--index-summary", type=Path, required=True, help="read: its counts")
    parser.add_argument("--rejected", type=Path, required=True, help="read: unusable videos")
    parser.add_argument("--clips", type=Path, required=True, help="read: clips of every video")
    parser.add_argument("--probes", type=Path, required=True, help="kept: which videos match")
    parser.add_argument("--clips-summary", type=Path, required=True, help="read: what was decoded")
    parser.add_argument("--folds", type=Path, required=True, help="read: who is tested where")
    parser.add_argument("--split", type=Path, required=True, help="read: its counts")
    parser.add_argument(
        "--robustness", type=Path, required=True, help="kept: scores of perturbed videos"
    )
    parser.add_argument("--evaluation", type=Path, required=True, help="written: the evidence")
    parser.add_argument(
        "--only-track", action="store_true", help="log what was written before, compute nothing"
    )
    args = parser.parse_args(argv)
    params = load_params(args.params)
    if not args.only_track:
        tracking.require_store()
        run(
            params,
            models=args.models,
            videos=args.videos,
            index=args.index,
            index_summary=args.index_summary,
            rejected=args.rejected,
            clips=args.clips,
            probes=args.probes,
            folds=args.folds,
            split=args.split,
            robustness=args.robustness,
            evaluation=args.evaluation,
        )
    track(
        params,
        models=args.models,
        clips_summary=args.clips_summary,
        folds=args.folds,
        evaluation=args.evaluation,
    )
