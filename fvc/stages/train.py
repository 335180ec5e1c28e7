"""Fit one network on one fold, and score the fold's videos with it."""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch

from fvc import tracking
from fvc.config import TAKES, Params, load_params
from fvc.dataset import ClipDataset, versions_of
from fvc.distributed import World, world
from fvc.errors import FvcError
from fvc.evidence.fold_outputs import final_results, outcomes_at_half
from fvc.evidence.metrics import confusion_matrix
from fvc.files import read_json, replacing, sha256_of_file
from fvc.fold_videos import Parts, video_clips, videos_of_fold
from fvc.loading import ClipLoader
from fvc.memory import exhaustion_in_one_line, release
from fvc.networks import WEIGHTS, ClipClassifier, build_network, is_fitted
from fvc.precision import choose_precision
from fvc.process import stop_on_sigterm
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, PREDICTIONS
from fvc.report import plots
from fvc.seeding import seed_for
from fvc.tracking.open_run import OpenRun
from fvc.training.binding import binding_of
from fvc.training.boosting import rounds_as_epochs
from fvc.training.epoch import accumulation_steps
from fvc.training.log import LOG, training_log
from fvc.training.loop import FitResult, Hooks, fit
from fvc.training.losses import make_loss
from fvc.training.outputs import history_frame, score_fold, write_outputs
from fvc.training.reporting import reporting
from fvc.training.resuming import best_epoch
from fvc.training.state import start_training
from fvc.training.trees import fit_trees
from fvc.training.validating import validation_by


def train_fold(
    params: Params,
    parts: Parts,
    *,
    fold: int,
    clips: Path,
    augmented: Path,
    flow: Path | None,
    checkpoints: Path,
    binding: str,
    ranks: World,
    **reports: Callable[..., None],
) -> tuple[ClipClassifier, FitResult]:
    """Fit the network that the parameters describe; it has the best epoch's weights."""
    torch.manual_seed(seed_for(params.seed, "network", fold))
    network = build_network(params.model, params.clips)
    versions = versions_of(params.augment, params.seed, augmented)
    dataset = ClipDataset(parts["train"], clips, versions, flow)
    order_seed = seed_for(params.seed, "order", fold)
    if is_fitted(params.model):
        if ranks.size > 1:
            cause = f"is fitted by one process, not by {ranks.size}"
            raise FvcError(f"network {params.model.network}", cause, "Start without torchrun")
        return network, fit_trees(
            network,
            dataset,
            parts["validation"],
            params.train,
            clips=clips,
            seed=order_seed,
            scratch=checkpoints,
            on_epoch=reports["on_epoch"],
        )
    return network, fit_by_gradients(
        params,
        network,
        dataset,
        parts["validation"],
        clips=clips,
        flow=flow,
        seed=order_seed,
        checkpoints=checkpoints,
        binding=binding,
        ranks=ranks,
        **reports,
    )


def fit_by_gradients(
    params: Params,
    network: ClipClassifier,
    dataset: ClipDataset,
    validation: Mapping[str, int],
    *,
    clips: Path,
    flow: Path | None,
    seed: int,
    checkpoints: Path,
    binding: str,
    ranks: World,
    **reports: Callable[..., None],
) -> FitResult:
    """Fit a network in epochs; stopped and started again, it goes on where it was."""
    counts = np.bincount(dataset.labels, minlength=2)
    training = start_training(
        network,
        make_loss(params.train, (int(counts[0]), int(counts[1]))),
        params.train,
        seed=seed,
        world=ranks,
    )
    loader = ClipLoader(
        dataset,
        params.train.batch_size,
        params.loader,
        imbalance=params.train.imbalance,
        seed=seed,
        device=training.precision.device,
        rank=ranks.rank,
        size=ranks.size,
    )
    with loader, stop_on_sigterm() as is_stopped:
        return fit(
            training,
            loader,
            validation_by(
                list(video_clips(validation, clips, flow)),
                list(validation.values()),
                ranks,
                is_stopped,
            ),
            params.engine,
            checkpoints=checkpoints,
            binding=binding,
            hooks=Hooks(is_stopped=is_stopped, **reports),
        )


def track(run: OpenRun, fold: int, model: Path, result: FitResult, scratch: Path) -> None:
    """Log what came out of the fold, and what only the run keeps."""
    predictions = PREDICTIONS.read(model / "predictions.parquet")
    run.log_results(final_results(predictions))
    outcomes = outcomes_at_half(predictions.filter(part="test"))
    figures = {
        "confusion_matrix": plots.confusion_matrix(confusion_matrix(outcomes)),
        "roc_curve": plots.roc_curve(outcomes, {}),
        "learning_curves": plots.learning_curves({fold: history_frame(result.history)}),
    }
    for name, figure in figures.items():
        plots.save(figure, scratch / f"{name}.png")
        run.log_file(scratch / f"{name}.png")
    lines = "".join(json.dumps(row) + "\n" for row in result.history)
    with replacing(scratch / "metrics.jsonl") as partial:
        partial.write_text(lines, encoding="utf-8")
    run.log_file(scratch / "metrics.jsonl")
    for source in sorted(model.iterdir()):
        run.log_file(source)
    for name, source in result.kept.items():
        run.log_file(source, name=name)
    tags = {
        "fvc.weights_sha256": sha256_of_file(model / WEIGHTS),
        "fvc.best_epoch": str(result.best_epoch + 1),
        "fvc.precision": result.precision,
    }
    run.set_tags(tags)


@contextmanager
def told_to(
    tracked: OpenRun, fold: int, params: Params, checkpoints: Path
) -> Iterator[dict[str, Callable[..., None]]]:
    """Log and report a training for the length of the block: gives what it is to call."""
    config = rounds_as_epochs(params.train) if is_fitted(params.model) else params.train
    clips = config.batch_size * accumulation_steps(config.batch_size)
    with (
        training_log(checkpoints / LOG, tracked.run_id, tracked.log_file),
        reporting(tracked, fold, config, best_of=best_epoch, clips_per_step=clips) as reporter,
    ):
        yield {
            "on_epoch": reporter.on_epoch,
            "on_step": lambda step: reporter.on_step(*step),
        }


def read_parts(params: Params, fold: int, folds: Path) -> tuple[pl.DataFrame, Parts]:
    """The FOLDS table, and what trains, chooses and tests one of its folds.

    Raises:
        FvcError: There is no such fold, or it lacks videos.
    """
    if fold not in params.split.folds:
        cause = f"there is none; split.folds is {list(params.split.folds)}"
        raise FvcError(f"fold {fold}", cause, "Name one of them with --fold")
    table = FOLDS.read(folds)
    try:
        return table, videos_of_fold(table.iter_rows(named=True), fold)
    except ValueError as error:
        remedy = "Add videos, or change split's shares and folds; then run 'dvc repro split'"
        raise FvcError(folds, str(error), remedy) from error


def run(
    params: Params,
    *,
    fold: int,
    clips: Path,
    clips_summary: Path,
    augmented: Path,
    flow: Path,
    folds: Path,
    model: Path,
    checkpoints: Path,
    runs: Path,
    alone: bool = False,
) -> None:
    """Train, score and track one fold; killed and started again, it goes on where it was.

    `alone`, its run is no part of a cross-validation.

    Raises:
        FvcError: There is no such fold, an input is missing, training diverged, or memory does
            not suffice for the network and a single clip.
    """
    table, parts = read_parts(params, fold, folds)
    seen_flow = _flow_of(params.model.network, flow)
    identity = tracking.Identity(
        params=params,
        data_sha256=read_json(clips_summary, "clips")["data_sha256"],
        folds_sha256=folds_sha256(table),
    )
    binding = binding_of(identity, parts, fold=fold, clips=clips, augmented=augmented)
    with exhaustion_in_one_line(), ExitStack() as reports:
        with world(choose_precision(params.train.mixed_precision).device) as ranks:
            told: dict[str, Callable[..., None]] = {}
            # Rank 0 alone writes and tracks.
            if not ranks.rank:
                opened = tracking.fold_run(
                    identity, fold, table, binding=binding, runs=runs, alone=alone
                )
                tracked = reports.enter_context(opened)
                told = reports.enter_context(told_to(tracked, fold, params, checkpoints))
            network, result = train_fold(
                params,
                parts,
                fold=fold,
                clips=clips,
                augmented=augmented,
                flow=seen_flow,
                checkpoints=checkpoints,
                binding=binding,
                ranks=ranks,
                **told,
            )
        if ranks.rank:
            return
        release()
        predictions = score_fold(network, parts, fold=fold, clips=clips, flow=seen_flow)
        write_outputs(model, network, params, predictions, result.history)
        track(tracked, fold, model, result, checkpoints)


def _flow_of(network: str, flow: Path) -> Path | None:
    """The folder of the flow, where the network sees it."""
    if not TAKES[network].flow:
        return None
    if not read_json(flow / "summary.json", "flow")["videos"]:
        cause = f"is empty, as params.yaml has a network that sees no flow, and {network} does"
        raise FvcError(str(flow), cause, f"Run 'dvc exp run -S model={network}'")
    return flow


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    # No abbreviations: what a --set changes decides, before this, where the others point.
    parser = ArgumentParser(prog="fvc train", description=__doc__, allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a value that params.yaml has not; DVC's folds stay as they are",
    )
    parser.add_argument("--fold", type=int, required=True, help="the fold that tests the network")
    parser.add_argument("--clips", type=Path, required=True, help="read: clips of every video")
    parser.add_argument("--clips-summary", type=Path, required=True, help="read: what they are of")
    parser.add_argument("--augmented", type=Path, required=True, help="read: augmented versions")
    parser.add_argument("--flow", type=Path, required=True, help="read: flow, where it is seen")
    parser.add_argument("--folds", type=Path, required=True, help="read: which fold tests what")
    parser.add_argument("--model", type=Path, required=True, help="written: weights and scores")
    parser.add_argument("--checkpoints", type=Path, required=True, help="kept: to resume from")
    parser.add_argument("--runs", type=Path, required=True, help="kept: the unfinished run's id")
    args = vars(parser.parse_args(argv))
    source, overrides = args.pop("params"), args.pop("set")
    params = load_params(source, overrides)
    run(params, **args, alone=params != load_params(source))
