"""The locked test: its videos, and what a network is worth on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from fvc.clip_files import load_clips, read_key
from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration, judge
from fvc.evidence.metrics import Outcomes
from fvc.files import sha256_of
from fvc.networks.ensemble import Network, load_any
from fvc.predict import video_logits
from fvc.video import VideoError, read_clips

LOCKED = "locked.parquet"
"""The file of a version with what it said of the locked test."""

SAME = ("video_id", "sha256")
"""What two tables of scores have to share for their videos to be the same."""


class IncomparableError(Exception):
    """A registered network cannot be scored on the locked test; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where the videos of the locked test are."""

    clips: Path
    """Folder of the stored clips."""
    sees: ClipsConfig
    """What those clips are."""
    videos: Path
    """Folder of the video files."""
    paths: Mapping[str, str]
    """Of each video below it, by its id."""


def locked_videos(folds: pl.DataFrame, index: pl.DataFrame, clips: Path) -> pl.DataFrame:
    """The videos of the locked test by id: `label`, `group`, `sha256`, and the key of the clips.

    Raises:
        FvcError: The index lacks one of them.
    """
    rows = folds.filter(part="locked").sort("video_id").select("video_id", "label", "group")
    rows = rows.join(
        index.select("video_id", "sha256"), on="video_id", how="left", maintain_order="left"
    )
    if rows["sha256"].null_count():
        lost = rows.filter(pl.col("sha256").is_null())["video_id"][0]
        raise FvcError(lost, "is in the locked test, not in the index", "Run 'dvc repro split'")
    keys = [read_key(clips / f"{video_id}.pt") for video_id in rows["video_id"]]
    return rows.with_columns(clips_key=pl.Series(keys, dtype=pl.String))


def digest_of(videos: pl.DataFrame) -> str:
    """Names a locked test, by the ids of its videos: readings of it are counted under that."""
    return sha256_of(sorted(videos["video_id"]))


def load_registered(folder: Path) -> Network:
    """Load the network of a version that any version of this code may have registered.

    Raises:
        IncomparableError: This code cannot.
    """
    try:
        return load_any(folder)
    except FvcError as error:
        cause = f"its network is of another version of this code, and {error.args[1]}"
        raise IncomparableError(cause) from error


def logits_of(network: Network, videos: pl.DataFrame, places: Places) -> Float64[np.ndarray, "V"]:
    """What a network says to each video of the locked test, shown as it was trained to see them.

    Raises:
        IncomparableError: A video cannot be decoded so.
        FvcError: Its clips are missing or damaged.
    """
    ids = videos["video_id"].to_list()
    if network.clips.pixel_settings() == places.sees.pixel_settings():
        stored = (load_clips(places.clips / f"{video_id}.pt", "clips") for video_id in ids)
        return video_logits(network, stored)
    return video_logits(network, (_decode(video_id, places, network.clips) for video_id in ids))


def _decode(video_id: str, places: Places, sees: ClipsConfig) -> UInt8[Tensor, "N T C H W"]:
    try:
        clips = read_clips(places.videos / places.paths[video_id], sees)
    except (VideoError, OSError) as error:
        cause = f"it sees other clips, and video {video_id} cannot be decoded so ({error})"
        raise IncomparableError(cause) from error
    return torch.from_numpy(clips.pixels)


def outcomes_of(
    videos: pl.DataFrame, logits: Float[np.ndarray, "V"], calibration: Calibration
) -> Outcomes:
    """The calibrated verdicts on the videos of the locked test."""
    is_fake, groups = (videos["label"] == "fake").to_numpy(), videos["group"].to_numpy()
    return judge(calibration, logits, is_fake=is_fake, groups=groups)


def no_scores() -> pl.DataFrame:
    """What a version keeps that was never shown a locked test."""
    return pl.DataFrame(schema=dict.fromkeys(SAME, pl.String()) | {"logit": pl.Float64()})


def kept_logits(kept: pl.DataFrame, videos: pl.DataFrame) -> Float[np.ndarray, "V"] | None:
    """The stored logits of the same videos, in their order; None where one is another or new.

    Clips play no part: each network was shown the same videos as it sees them.

    Args:
        kept: The scores that a version was registered with, by any version of this code.
        videos: What `locked_videos` gave now.
    """
    if not {*SAME, "logit"} <= set(kept.columns) or kept.height != videos.height:
        return None
    found = videos.join(kept.select(*SAME, "logit"), on=SAME, how="left", maintain_order="left")
    return None if found["logit"].null_count() else found["logit"].to_numpy()


def kept_logit(folder: Path, video_id: str, sha256: str) -> float | None:
    """What a version said of one video; None where its locked test has no such video.

    Args:
        folder: What the version was registered with.
        video_id: Of the video.
        sha256: Of its file.
    """
    kept = pl.read_parquet(folder / LOCKED).filter(video_id=video_id, sha256=sha256)
    return float(kept["logit"][0]) if kept.height else None


def count_unlocked(kept: pl.DataFrame, videos: pl.DataFrame) -> int:
    """How many of these videos were not in the locked test of the version that kept scores.

    Near-duplicates are locked together, so the version has seen nothing like the others.
    """
    return videos.join(kept, on="video_id", how="anti").height
