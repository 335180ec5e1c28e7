"""Fit one network on one fold, and score the fold's videos with it."""

import json
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch

from fvc import tracking
from fvc.clip_files import require_key
from fvc.config import TAKES, Params, TrainConfig, load_params
from fvc.dataset import Augmentation, ClipDataset
from fvc.distributed import World, part_of, world
from fvc.errors import FvcError, Stopped
from fvc.evidence.fold_outputs import final_results
from fvc.evidence.metrics import Outcomes, confusion_matrix
from fvc.files import read_json, replacing, sha256_of, sha256_of_code, sha256_of_file
from fvc.fold_videos import video_clips, videos_of_fold
from fvc.loading import ClipLoader
from fvc.memory import exhaustion_in_one_line, release
from fvc.networks import WEIGHTS, ClipClassifier, build_network, is_fitted, save_network
from fvc.precision import choose_precision
from fvc.predict import probability_fake, video_logits
from fvc.process import stop_on_sigterm
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, PREDICTIONS
from fvc.report import plots
from fvc.seeding import seed_for
from fvc.tracking.open_run import OpenRun
from fvc.training.boosting import boost, measure, rounds_as_epochs
from fvc.training.diagnostics import EpochRow, repeatable_series
from fvc.training.epoch import accumulation_steps
from fvc.training.log import LOG, training_log
from fvc.training.loop import FitResult, Hooks, fit
from fvc.training.losses import make_loss
from fvc.training.reporting import reporting
from fvc.training.resuming import best_epoch
from fvc.training.state import Validate, start_training
from fvc.validation import validation_series

Item = TypeVar("Item")

Parts = Mapping[str, Mapping[str, int]]
"""Labels (1 is fake) by video id, for `train`, `validation` and `test`."""

PACKAGE = Path(tracking.__file__).parents[1]
CODE = (
    "batches.py",
    "caching.py",
    "clip_files.py",
    "config/augmentation.py",
    "dataset.py",
    "distributed.py",
    "flow.py",
    "fold_videos.py",
    "loading.py",
    "memory.py",
    "networks",
    "precision.py",
    "predict.py",
    "recompression.py",
    "residuals.py",
    "seeding.py",
    "stages/train.py",
    "training/boosting.py",
    "training/checkpoint.py",
    "training/diagnostics.py",
    "training/epoch.py",
    "training/fine_tuning.py",
    "training/loop.py",
    "training/losses.py",
    "training/mixing.py",
    "training/resuming.py",
    "training/schedules.py",
    "training/state.py",
    "training/step.py",
    "training/tally.py",
    "transfer.py",
    "transforms/__init__.py",
    "transforms/drawing.py",
    "transforms/geometry.py",
    "transforms/pixels.py",
    "transforms/platforms.py",
    "transforms/timing.py",
    "validation.py",
)
"""The modules behind trained weights: a checkpoint of other code is not resumed."""


def binding_of(
    identity: tracking.Identity, parts: Parts, *, fold: int, clips: Path, augmented: Path
) -> str:
    """A hash of all that the weights depend on: a training with another one starts anew.

    Raises:
        FvcError: Clips are missing or damaged.
    """
    videos = sorted(video_id for part in parts.values() for video_id in part)
    versions = training_versions(identity.params, augmented)
    keys = [require_key(clips / f"{name}.pt", "clips") for name in videos]
    if isinstance(versions, Path):
        keys += [require_key(versions / f"{name}.pt", "augment") for name in sorted(parts["train"])]
    return sha256_of(
        [
            identity.cv_key,
            fold,
            keys,
            _pretrained_sha256(Path(identity.params.model.pretrained)),
            sha256_of_code(CODE),
            str(torch.__version__),
        ]
    )


def _pretrained_sha256(pretrained: Path) -> str | list[tuple[str, str]] | None:
    """Of the weights' file, or of each file in a folder of them; None where they have a name."""
    if pretrained.is_dir():
        files = (each for each in sorted(pretrained.iterdir()) if each.is_file())
        return [(each.name, sha256_of_file(each)) for each in files]
    return sha256_of_file(pretrained) if pretrained.is_file() else None


def training_versions(params: Params, augmented: Path) -> Path | Augmentation | None:
    """Where the augmented versions come from: a folder, the loader, or nowhere."""
    if not params.augment.versions:
        return None
    if params.augment.mode == "stored":
        return augmented
    return Augmentation(config=params.augment, seed=params.seed)


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
    dataset = ClipDataset(parts["train"], clips, training_versions(params, augmented), flow)
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
    counts = np.bincount(dataset.labels, minlength=2)
    training = start_training(
        network,
        make_loss(params.train, (int(counts[0]), int(counts[1]))),
        params.train,
        seed=order_seed,
        world=ranks,
    )
    loader = ClipLoader(
        dataset,
        params.train.batch_size,
        params.loader,
        imbalance=params.train.imbalance,
        seed=order_seed,
        device=training.precision.device,
        rank=ranks.rank,
        size=ranks.size,
    )
    with loader, stop_on_sigterm() as is_stopped:
        result = fit(
            training,
            loader,
            validation_by(parts["validation"], clips, flow, ranks, is_stopped),
            params.engine,
            checkpoints=checkpoints,
            binding=binding,
            hooks=Hooks(is_stopped=is_stopped, **reports),
        )
    return network, result


def fit_trees(
    network: ClipClassifier,
    dataset: ClipDataset,
    validation: Mapping[str, int],
    config: TrainConfig,
    *,
    clips: Path,
    seed: int,
    scratch: Path,
    on_epoch: Callable[..., None],
) -> FitResult:
    """Fit what no gradient trains; of versions that are made on the way, it sees the first ones."""
    examples = (dataset[0, number] for number in range(len(dataset)))
    with stop_on_sigterm() as is_stopped:
        measured = measure(
            network,
            examples,
            video_clips(validation, clips),
            list(validation.values()),
            is_stopped,
        )
    return boost(network, measured, config, seed=seed, scratch=scratch, on_epoch=on_epoch)


def validation_by(
    videos: Mapping[str, int],
    clips: Path,
    flow: Path | None,
    ranks: World,
    is_stopped: Callable[[], bool],
) -> Validate:
    """What gives a network's `validation/` series, each rank scoring its part of the videos."""
    own = part_of(list(video_clips(videos, clips, flow)), ranks.rank, ranks.size)
    labels = np.array(list(videos.values()))

    def validate(network: ClipClassifier) -> dict[str, float]:
        logits = video_logits(network, until(is_stopped, own, ranks))
        return validation_series(np.concatenate(ranks.gather(logits)), labels)

    return validate


def until(is_stopped: Callable[[], bool], videos: Sequence[Item], ranks: World) -> Iterator[Item]:
    """Pass this rank's videos on; raises `Stopped` on all ranks once one of them is to stop."""
    # Where this rank has fewer than another, the others still ask it.
    for number in range(ranks.agree_max(len(videos))):
        if ranks.agree_max(int(is_stopped())):
            raise Stopped("validation", "was stopped", "Start again: no step is made twice")
        yield from videos[number : number + 1]


def score_fold(
    network: ClipClassifier, parts: Parts, *, fold: int, clips: Path, flow: Path | None
) -> pl.DataFrame:
    """The PREDICTIONS of every video of the fold's three parts."""
    rows: list[dict[str, object]] = []
    for part, videos in parts.items():
        pixels = list(video_clips(videos, clips, flow))
        logits = video_logits(network, pixels)
        for (video_id, label), logit, own in zip(videos.items(), logits, pixels, strict=True):
            rows.append(
                {
                    "video_id": video_id,
                    "fold": fold,
                    "part": part,
                    "label": "fake" if label else "real",
                    "probability_fake": probability_fake(float(logit)),
                    "logit": float(logit),
                    "num_clips": len(own),
                }
            )
    return PREDICTIONS.frame(rows)


def history_frame(history: Sequence[EpochRow]) -> pl.DataFrame:
    """One row per epoch with every series that is equal in two equal runs."""
    schema = {"epoch": pl.Int64(), **dict.fromkeys(repeatable_series(history), pl.Float64())}
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in history], schema)


def write_outputs(
    model: Path,
    network: ClipClassifier,
    params: Params,
    predictions: pl.DataFrame,
    history: Sequence[EpochRow],
) -> None:
    """Fill the fold's folder."""
    save_network(network, model, params.model, params.clips)
    PREDICTIONS.write(model / "predictions.parquet", predictions)
    with replacing(model / "history.csv") as partial:
        history_frame(history).write_csv(partial)


def track(run: OpenRun, fold: int, model: Path, result: FitResult, scratch: Path) -> None:
    """Log what came out of the fold, and what only the run keeps."""
    predictions = PREDICTIONS.read(model / "predictions.parquet")
    run.log_results(final_results(predictions))
    tested = predictions.filter(part="test")
    outcomes = Outcomes(
        is_fake=(tested["label"] == "fake").to_numpy(),
        probability=tested["probability_fake"].to_numpy(),
        called_fake=(tested["logit"] >= 0).to_numpy(),
        decided=np.ones(tested.height, bool),
        groups=tested["video_id"].to_numpy(),
    )
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
    tracked: OpenRun, fold: int, config: TrainConfig, checkpoints: Path
) -> Iterator[dict[str, Callable[..., None]]]:
    """Log and report a training for the length of the block: gives what it is to call."""
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
    seen_flow = flow if TAKES[params.model.network].flow else None
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
                config = rounds_as_epochs(params.train) if is_fitted(params.model) else params.train
                told = reports.enter_context(told_to(tracked, fold, config, checkpoints))
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
