"""Decode every usable video into clip tensors; what is there already is not decoded again."""

import logging
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from fvc.clip_files import Job, Stamp, read_key, read_stamp, remove_others, save_clips
from fvc.config import ClipsConfig, Params, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of, write_json
from fvc.pool import run_isolated
from fvc.records import INDEX
from fvc.video import PIXELS_VERSION, read_clips

MAX_SHOWN = 5

logger = logging.getLogger(__name__)


def clips_key(sha256: str, config: ClipsConfig) -> str:
    """What the pixels of one video's clips depend on, as one text."""
    return sha256_of({"video": sha256, "clips": config.pixel_settings(), "version": PIXELS_VERSION})


def summarise(
    index: pl.DataFrame, config: ClipsConfig, stamps: Mapping[str, Stamp]
) -> dict[str, Any]:
    """Count the clips and name the data: equal videos and labels give an equal `data_sha256`.

    Args:
        index: The videos.
        config: What a clip is.
        stamps: Of the clips of each video, by its id.
    """
    rows = index.select("video_id", "sha256", "label").sort("video_id").rows()
    excuses = Counter(stamp.remark for stamp in stamps.values() if stamp.remark is not None)
    return {
        "videos": len(rows),
        "clips": sum(stamp.num_clips for stamp in stamps.values()),
        "frames_per_clip": config.num_frames,
        "fit": config.fit,
        "side_px": config.side_px,
        "decoded_in_sequence": dict(excuses),
        "data_sha256": sha256_of(rows),
    }


def run(params: Params, *, videos: Path, index: Path, clips: Path, summary: Path) -> None:
    """Decode the videos whose clips are missing or of something else, and remove stale clips.

    Raises:
        FvcError: A video is not where the index says, or some could not be
            decoded; the clips of all others are kept.
    """
    table = INDEX.read(index)
    jobs = {
        row["video_id"]: Job(
            source=videos / row["path"],
            target=clips / f"{row['video_id']}.pt",
            key=clips_key(row["sha256"], params.clips),
        )
        for row in table.rows(named=True)
    }
    remove_others(clips, jobs)
    missing = [job for job in jobs.values() if read_key(job.target) != job.key]
    failures = decode(missing, params.clips)
    if failures:
        shown = ", ".join(f"{name} ({why})" for name, why in sorted(failures.items())[:MAX_SHOWN])
        more = f" and {len(failures) - MAX_SHOWN} more" if len(failures) > MAX_SHOWN else ""
        cause = f"{len(failures)} of {len(jobs)} videos cannot be decoded: {shown}{more}"
        remedy = "Raise clips.timeout_s in params.yaml, or replace these files in data/"
        raise FvcError(videos, cause, remedy)
    stamps = {video_id: read_stamp(job.target) for video_id, job in jobs.items()}
    whole = {video_id: stamp for video_id, stamp in stamps.items() if stamp is not None}
    if lost := jobs.keys() - whole.keys():
        raise FvcError(jobs[min(lost)].target, "has gone again", "Run 'dvc repro clips' again")
    content = summarise(table, params.clips, whole)
    write_json(summary, content)
    for excuse, count in sorted(content["decoded_in_sequence"].items()):
        logger.warning("%d of %d videos decoded in sequence: %s", count, len(jobs), excuse)


def decode(jobs: Sequence[Job], config: ClipsConfig) -> dict[str, str]:
    """Decode videos in parallel; each is stored by the worker that decodes it.

    Returns:
        Why it could not be decoded, by video id, for each video of which that is so.

    Raises:
        FvcError: A video is not where the index says.
    """
    for job in jobs:
        if not job.source.is_file():
            raise FvcError(job.source, "is missing", "Run 'dvc repro extract'")
    store = partial(store_clips, config=config)
    outcomes = run_isolated(store, jobs, timeout_s=config.timeout_s, description="decode videos")
    return {job.target.stem: str(outcome) for job, outcome in outcomes if outcome is not None}


def store_clips(job: Job, *, config: ClipsConfig) -> None:
    """Decode one video and write its clips.

    Raises:
        VideoError: It cannot be used.
    """
    clips = read_clips(job.source, config)
    save_clips(
        job.target,
        clips.pixels,
        job.key,
        remark=clips.decoded_in_sequence,
        content=clips.content,
    )


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc clips", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--videos", type=Path, required=True, help="read: the video files")
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--clips", type=Path, required=True, help="written: a tensor per video")
    parser.add_argument("--summary", type=Path, required=True, help="written: counts, data_sha256")
    args = parser.parse_args(argv)
    run(
        load_params(args.params),
        videos=args.videos,
        index=args.index,
        clips=args.clips,
        summary=args.summary,
    )
