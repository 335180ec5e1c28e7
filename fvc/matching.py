"""Files and annotations brought together: what is worth a look, and what is not and why."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fvc.addresses import shown
from fvc.annotations import (
    AnnotatedVideo,
    Annotations,
    label_problem,
    locate,
    platforms_by_id,
    video_id_of,
)
from fvc.errors import FvcError
from fvc.video import REASONS as VIDEO_REASONS

REASONS = (
    *VIDEO_REASONS,
    "missing",
    "not_annotated",
    "duplicate_file",
    "conflicting_labels",
    "excluded_label",
    "unknown_label",
    "unparsable_url",
    "timeout",
    "crashed",
)
"""Every `reason` of rejected.csv. Beside the decoder's: annotated but not on disk, the
reverse, a second file of one video, the three problems of labels, an annotation that
names no video, and the two ways in which a worker is lost."""

SUFFIXES = (".mp4", ".mkv", ".webm")
"""Of two files of one video in one subset, one that ends so is preferred."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row of rejected.csv."""

    video_id: str | None
    """None where no video is named, and for the second file of one that has a row already."""
    path: str | None
    reason: str
    """One of `REASONS`."""
    detail: str


def match_files(
    paths: Iterable[str], annotations: Annotations
) -> tuple[dict[str, str], dict[str, str], list[Rejection]]:
    """Bring files and annotations together.

    Args:
        paths: Relative to the videos folder.
        annotations: All of them.

    Returns:
        The file of each video on disk; of these, the ones worth probing; and
        what is rejected without a look into any file.
    """
    rejections = [Rejection(None, None, "unparsable_url", row) for row in annotations.unparsable]
    on_disk, rejected_files = choose_files(paths, annotations.videos)
    rejections += rejected_files
    usable = {}
    for video_id in sorted(on_disk.keys() | annotations.videos.keys()):
        path, video = on_disk.get(video_id), annotations.videos.get(video_id)
        if video is None:
            rejections.append(Rejection(video_id, path, "not_annotated", "is in no row"))
        elif problem := label_problem(video.labels):
            rejections.append(Rejection(video_id, path, problem, _written(video)))
        elif path is None:
            rejections.append(Rejection(video_id, None, "missing", "is in no archive"))
        else:
            usable[video_id] = path
    return on_disk, usable, rejections


def _written(video: AnnotatedVideo) -> str:
    return shown("/".join(sorted(video.raw_labels)))


def choose_files(
    paths: Iterable[str], videos: Mapping[str, AnnotatedVideo]
) -> tuple[dict[str, str], list[Rejection]]:
    """Find the one file of each video; others, and files outside the layout, are rejected."""
    platforms = platforms_by_id(videos)
    found = defaultdict(list)
    rejections = []
    for path in paths:
        if located := locate(path, platforms):
            found[video_id_of(*located)].append(path)
        else:
            detail = "is not SUBSET/<platform>/<id>/video.* or SUBSET/<id>/video.*"
            rejections.append(Rejection(None, path, "not_annotated", detail))
    for video_id, candidates in found.items():
        candidates.sort(key=_preference)
        for other in candidates[1:]:
            detail = f"is {video_id}, as is {candidates[0]}"
            rejections.append(Rejection(None, other, "duplicate_file", detail))
    return {video_id: candidates[0] for video_id, candidates in found.items()}, rejections


def _preference(path: str) -> tuple[str, bool, str]:
    return path.split("/")[0], PurePosixPath(path).suffix not in SUFFIXES, path


def list_files(videos: Path) -> list[str]:
    """The files under a folder, as sorted relative paths.

    Raises:
        FvcError: There is no such folder.
    """
    if not videos.is_dir():
        raise FvcError(videos, "is missing", "Run 'dvc repro extract'")
    files = (path for path in videos.rglob("*") if path.is_file())
    return sorted(path.relative_to(videos).as_posix() for path in files)
