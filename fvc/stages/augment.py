"""Make the augmented versions of every training video; what is there already is kept.

With `augment.mode: on_the_fly` the loader makes them, and nothing is stored."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from fvc.clip_files import Job, read_key, read_pixels, remove_others, save_clips
from fvc.config import AugmentConfig, Params, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of
from fvc.pool import run_isolated
from fvc.records import FOLDS, part_in
from fvc.transforms import TRANSFORMS_VERSION, augmented_version

# Versions take milliseconds, so only a process that hangs meets this.
TIMEOUT_S = 600.0


def training_videos(folds: pl.DataFrame) -> list[str]:
    """The videos that some fold trains on: none of the locked test, nor what a single one tests."""
    numbers = folds["fold"].drop_nulls().unique()
    trains = [folds.filter(part_in(number) == "train")["video_id"] for number in numbers]
    return sorted({video_id for videos in trains for video_id in videos})


def versions_key(clips_key: str, video_id: str, config: AugmentConfig, seed: int) -> str:
    """What the pixels of one video's versions depend on, as one text."""
    parts = [clips_key, video_id, asdict(config), seed, TRANSFORMS_VERSION]
    return sha256_of(parts)


def run(params: Params, *, clips: Path, folds: Path, augmented: Path) -> None:
    """Augment the videos whose versions are missing or of something else, and remove stale ones.

    Raises:
        FvcError: Clips are missing, or a video could not be augmented.
    """
    config = params.augment
    stores = config.mode == "stored" and config.versions > 0
    videos = training_videos(FOLDS.read(folds)) if stores else []
    if config.mode == "on_the_fly":
        sys.stderr.write("augment.mode is on_the_fly: nothing is stored, the loader augments\n")
    jobs = {}
    for video_id in videos:
        source = clips / f"{video_id}.pt"
        stored = read_key(source)
        if stored is None:
            raise FvcError(source, "is missing or damaged", "Run 'dvc repro clips'")
        key = versions_key(stored, video_id, config, params.seed)
        jobs[video_id] = Job(source, augmented / source.name, key)
    remove_others(augmented, jobs)
    missing = [job for job in jobs.values() if read_key(job.target) != job.key]
    store = partial(store_versions, config=config, seed=params.seed)
    for job, outcome in run_isolated(
        store, missing, timeout_s=TIMEOUT_S, description="augment videos"
    ):
        if isinstance(outcome, FvcError):
            raise outcome
        if outcome is not None:
            raise FvcError(job.source, str(outcome), "Run 'dvc repro augment' again")


def store_versions(job: Job, *, config: AugmentConfig, seed: int) -> None:
    """Make all augmented versions of one video and write them.

    Raises:
        FvcError: The clip file is missing or damaged.
    """
    clips = read_pixels(job.source, "clips")
    versions = [
        augmented_version(clips, job.source.stem, version, config, seed)
        for version in range(config.versions)
    ]
    save_clips(job.target, np.stack(versions), job.key)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc augment", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=Path, required=True, help="read: a tensor per video")
    parser.add_argument("--folds", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--augmented", type=Path, required=True, help="written: versions per video")
    args = parser.parse_args(argv)
    run(load_params(args.params), clips=args.clips, folds=args.folds, augmented=args.augmented)
