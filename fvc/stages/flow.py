"""Find the optical flow of every clip and stored version; what is there already is kept.

Most networks do not see it: for those, nothing is stored."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fvc.clip_files import Job, read_key, read_pixels, remove_others, require_key, save_clips
from fvc.config import TAKES, Params, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of, write_json
from fvc.flow import FLOW_VERSION, clip_flow
from fvc.pool import run_isolated
from fvc.records import FOLDS

# A pair of frames takes milliseconds, so only a process that hangs meets this.
TIMEOUT_S = 600.0
SUMMARY = "summary.json"


def run(params: Params, *, clips: Path, folds: Path, augmented: Path, flow: Path) -> None:
    """Find the flow of videos where it is missing or of other pixels, and remove what is stale.

    The locked test has none: whoever scores it finds its flow anew.

    Raises:
        FvcError: Clips or versions are missing or damaged, or a flow could not be found.
    """
    network = params.model.network
    videos: Sequence[str] = ()
    if TAKES[network].flow:
        videos = FOLDS.read(folds).filter(part="fold")["video_id"].to_list()
    else:
        sys.stderr.write(f"network {network} does not see the flow: nothing is stored\n")
    jobs = {}
    for video_id in videos:
        source, versions = clips / f"{video_id}.pt", augmented / f"{video_id}.pt"
        made_of = [require_key(source, "clips")]
        # What no fold trains on has no versions; which those are, stage augment knows.
        made_of += [require_key(versions, "augment")] if versions.exists() else []
        jobs[video_id] = Job(source, flow / source.name, sha256_of([*made_of, FLOW_VERSION]))
    remove_others(flow, jobs)
    missing = [job for job in jobs.values() if read_key(job.target) != job.key]
    store = partial(store_flow, augmented=augmented)
    for job, outcome in run_isolated(
        store, missing, timeout_s=TIMEOUT_S, description="find optical flow"
    ):
        if isinstance(outcome, FvcError):
            raise outcome
        if outcome is not None:
            raise FvcError(job.source, str(outcome), "Run 'dvc repro flow' again")
    # DVC warns of an empty folder at every turn.
    write_json(flow / SUMMARY, {"videos": len(jobs)})


def store_flow(job: Job, *, augmented: Path) -> None:
    """Find the flow of a video's clips, then that of its stored versions, and write them.

    Raises:
        FvcError: A file is missing or damaged.
    """
    versions = augmented / job.source.name
    pixels = [*read_pixels(job.source, "clips")]
    pixels += [*read_pixels(versions, "augment")] if versions.exists() else []
    save_clips(job.target, np.stack([clip_flow(clip) for clip in pixels]), job.key)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc flow", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=Path, required=True, help="read: a tensor per video")
    parser.add_argument("--folds", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--augmented", type=Path, required=True, help="read: versions per video")
    parser.add_argument("--flow", type=Path, required=True, help="written: a flow per video")
    args = parser.parse_args(argv)
    run(
        load_params(args.params),
        clips=args.clips,
        folds=args.folds,
        augmented=args.augmented,
        flow=args.flow,
    )
