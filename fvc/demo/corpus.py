"""Puts a demo corpus on disk: made beside its place, and moved there when it is whole."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fvc.demo.rendering import render
from fvc.demo.specifications import Plan, Row, Video
from fvc.errors import FvcError
from fvc.pool import Failure, run_isolated

ARCHIVES = ("FVC1", "FVC2", "FVC3")
TIMEOUT_S = 300.0
# Zip entries have a time; a fixed one keeps equal corpora equal.
ZIP_TIME = (2018, 1, 1, 0, 0, 0)
ZIP_MODE = 0o100644 << 16


def write_corpus(target: Path, plan: Plan) -> None:
    """Make every file of a plan and pack them as the corpus's owners do.

    Equal plans give equal bytes, whatever the number of cores.

    Args:
        target: A folder that is empty or does not exist.
        plan: What to make.

    Raises:
        FvcError: The folder holds something, or a video cannot be made.
    """
    with _making(target) as partial:
        videos = [*plan.usable, *plan.defects]
        for video, content in _rendered(videos):
            loose = partial / "loose" / video.path
            loose.parent.mkdir(parents=True)
            loose.write_bytes(content)
        for name in ARCHIVES:
            paths = sorted(video.path for video in videos if video.subset == name)
            _pack(partial / "archives" / f"{name}.zip", paths, partial / "loose")
        shutil.rmtree(partial / "loose")
        _write_rows(partial / "annotations" / "FVC.csv", plan.originals)
        _write_rows(partial / "annotations" / "FVC_dup.csv", plan.duplicates)


@contextmanager
def _making(target: Path) -> Iterator[Path]:
    """Give a folder beside the target that takes its place when the block ends."""
    home = target.resolve()
    if home.exists() and not home.is_dir():
        raise FvcError(target, "is no folder", "Name a new or an empty folder")
    if home.is_dir() and any(home.iterdir()):
        raise FvcError(target, "holds something already", "Name a new or an empty folder")
    partial = home.with_name(f".{home.name}.partial")
    # Only a killed attempt at the same target leaves one.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rendered(videos: Sequence[Video]) -> Iterator[tuple[Video, bytes]]:
    # The longest first, so that no core waits for one at the end.
    by_length = sorted(videos, key=lambda video: -video.footage.num_frames)
    for video, content in run_isolated(
        render, by_length, timeout_s=TIMEOUT_S, description="demo videos"
    ):
        if isinstance(content, Failure):
            remedy = "Try again; if it stays, reinstall the requirements"
            raise FvcError(video.path, f"{content.reason}, {content.detail}", remedy)
        if isinstance(content, Exception):
            raise content
        yield video, content


def _pack(target: Path, paths: Sequence[str], folder: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with ZipFile(target, "w", ZIP_STORED) as archive:
        for path in paths:
            entry = ZipInfo(path, ZIP_TIME)
            entry.external_attr = ZIP_MODE
            archive.writestr(entry, (folder / path).read_bytes())


def _write_rows(target: Path, rows: Sequence[Row]) -> None:
    target.parent.mkdir(exist_ok=True)
    with target.open("w", encoding="utf-8", newline="") as stream:
        columns = [field.name for field in fields(Row)]
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
