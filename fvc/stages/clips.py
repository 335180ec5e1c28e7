"""Decode every usable video into clip tensors; what is there already is not decoded again."""

import logging
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from fvc.clip_files import read_key, remove_others, save_clips
from fvc.config import ClipsConfig, Params, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of, write_json
from fvc.pool import run_isolated
from fvc.records import INDEX
from fvc.video import PIXELS_VERSION, Clips, read_clips

MAX_SHOWN = 5

logger = logging.getLogger(__name__)


def clips_key(sha256: str, config: ClipsConfig) -> str:
    """What the pixels of one video's clips depend on, as one text."""
    shape = [config.num_clips, config.num_frames, config.side_px]
    return sha256_of({"video": sha256, "shape": shape, "version": PIXELS_VERSION})


def summarise(index: pl.DataFrame, config: ClipsConfig) -> dict[str, Any]:
    """Count the clips and name the data: equal videos and labels give an equal `data_sha256`."""
    rows = index.select("video_id", "sha256", "label").sort("video_id").rows()
    return {
        "videos": len(rows),
        "clips": len(rows) * config.num_clips,
        "shape": [config.num_clips, config.num_frames, 3, config.side_px, config.side_px],
        "data_sha256": sha256_of(rows),
    }


def run(params: Params, *, videos: Path, index: Path, clips: Path, summary: Path) -> None:
    """Decode the videos whose clips are missing or of something else, and remove stale clips.

    Raises:
        FvcError: Some videos could not be decoded; the clips of all others are kept.
    """
    table = INDEX.read(index)
    keys = {
        row["video_id"]: clips_key(row["sha256"], params.clips) for row in table.rows(named=True)
    }
    remove_others(clips, keys)
    sources = {
        videos / row["path"]: row["video_id"]
        for row in table.rows(named=True)
        if read_key(_target(clips, row["video_id"])) != keys[row["video_id"]]
    }
    failures = decode(sources, params.clips, clips, keys)
    if failures:
        shown = ", ".join(f"{name} ({why})" for name, why in sorted(failures.items())[:MAX_SHOWN])
        more = f" and {len(failures) - MAX_SHOWN} more" if len(failures) > MAX_SHOWN else ""
        cause = f"{len(failures)} of {len(keys)} videos cannot be decoded: {shown}{more}"
        remedy = "Raise clips.timeout_s in params.yaml, or replace these files in data/"
        raise FvcError(videos, cause, remedy)
    write_json(summary, summarise(table, params.clips))


def decode(
    sources: Mapping[Path, str], config: ClipsConfig, clips: Path, keys: Mapping[str, str]
) -> dict[str, str]:
    """Decode videos in parallel and store each as soon as it is there.

    Args:
        sources: The id of each video by its path.
        config: What a clip is.
        clips: The folder that gets `<video_id>.pt`.
        keys: What is stored with the clips, by video id.

    Returns:
        Why it could not be decoded, for each video of which that is so.

    Raises:
        FvcError: A video is not where the index says.
    """
    for source in sources:
        if not source.is_file():
            raise FvcError(source, "is missing", "Run 'dvc repro extract'")
    failures = {}
    read = partial(read_clips, config=config)
    outcomes = run_isolated(
        read, list(sources), timeout_s=config.timeout_s, description="decode videos"
    )
    for source, outcome in outcomes:
        video_id = sources[source]
        if not isinstance(outcome, Clips):
            failures[video_id] = str(outcome)
            continue
        if outcome.decoded_in_sequence is not None:
            logger.warning("%s: decoded in sequence, %s", video_id, outcome.decoded_in_sequence)
        save_clips(_target(clips, video_id), outcome.pixels, keys[video_id])
    return failures


def _target(clips: Path, video_id: str) -> Path:
    return clips / f"{video_id}.pt"


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
