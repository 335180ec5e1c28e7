"""Unpack every archive of the corpus; what lies there whole already stays."""

import os
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from fvc.archives import Member, check_names, check_password, find_missing, read_members, unpack
from fvc.config import ExtractConfig, Params, load_params
from fvc.errors import FvcError
from fvc.files import write_json

GIB = 1 << 30
PASSWORD = "FVC_ARCHIVE_PASSWORD"


def plan(archives: Path, config: ExtractConfig) -> dict[Path, list[Member]]:
    """List what each archive in a folder holds, and check all that its headers tell.

    Raises:
        FvcError: There is no archive, or one is damaged, unsafe or too large.
    """
    paths = sorted(path for path in archives.glob("*") if path.suffix.lower() == ".zip")
    if not paths:
        remedy = (
            "Run 'make demo' for a made corpus, or put FVC1.zip, FVC2.zip, FVC3.zip there "
            "and run 'dvc add data'"
        )
        raise FvcError(archives, "holds no zip archive", remedy)
    planned = {path: read_members(path, max_members=config.max_members) for path in paths}
    check_names(member for members in planned.values() for member in members)
    total_bytes = 0
    for path, members in planned.items():
        unpacked_bytes = _size_of(members)
        total_bytes += unpacked_bytes
        check_size(path, unpacked_bytes, total_bytes, config)
    return planned


def check_size(archive: Path, unpacked_bytes: int, total_bytes: int, config: ExtractConfig) -> None:
    """Refuse an archive that unpacks to too much; `unpack` holds the members to these sizes.

    Args:
        archive: Its size on disk is what the ratio is measured against.
        unpacked_bytes: Of this archive.
        total_bytes: Of this and all earlier ones.
        config: The limits.

    Raises:
        FvcError: A limit is passed.
    """
    ratio = unpacked_bytes / archive.stat().st_size
    if ratio > config.max_ratio:
        cause = f"unpacks to {ratio:.0f} times its size, as bombs do"
        raise FvcError(archive, cause, "Remove it, or raise extract.max_ratio in params.yaml")
    if total_bytes > config.max_total_gib * GIB:
        cause = f"brings the unpacked size to {total_bytes / GIB:.1f} GiB"
        raise FvcError(archive, cause, "Raise extract.max_total_gib in params.yaml if it is right")


def remove_stale(folder: Path, expected: set[str]) -> None:
    """Remove all that is under `folder` and is not expected: old files, partial ones, links.

    Args:
        folder: May be missing.
        expected: Paths relative to it, parts divided by '/'.
    """
    for parent, folders, files in os.walk(folder, topdown=False):
        for path in [Path(parent, name) for name in files + folders]:
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.is_symlink() or path.relative_to(folder).as_posix() not in expected:
                path.unlink()


def summarise(planned: dict[Path, list[Member]]) -> dict[str, dict[str, dict[str, int]]]:
    """Count the files and bytes that come from each archive."""
    counts = {
        path.name: {
            "files": len(members),
            "unpacked_bytes": _size_of(members),
        }
        for path, members in planned.items()
    }
    return {"archives": counts}


def run(params: Params, *, archives: Path, videos: Path, summary: Path) -> None:
    """Unpack what is missing, remove what is stale, write the counts."""
    planned = plan(archives, params.extract)
    password = os.environ.get(PASSWORD)
    total_bytes = sum(_size_of(members) for members in planned.values())
    missing = {}
    with _bar("check", total_bytes) as bar:
        for path, members in planned.items():
            missing[path] = find_missing(members, videos, password=password, progress=bar.update)
            check_password(missing[path], password)
    videos.mkdir(parents=True, exist_ok=True)
    remove_stale(videos, {member.name for members in planned.values() for member in members})
    present_bytes = total_bytes - sum(_size_of(members) for members in missing.values())
    with _bar("extract", total_bytes, present_bytes) as bar:
        for members in missing.values():
            unpack(members, videos, password=password, progress=bar.update)
    write_json(summary, summarise(planned))


def _size_of(members: Sequence[Member]) -> int:
    return sum(member.size_bytes for member in members)


def _bar(label: str, total_bytes: int, done_bytes: int = 0) -> "tqdm[NoReturn]":
    """Bytes done, bytes a second, and the time that the rest takes at that rate."""
    return tqdm(total=total_bytes, initial=done_bytes, desc=label, unit="B", unit_scale=True)


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc extract", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--archives", type=Path, required=True, help="read: folder of zip files")
    parser.add_argument("--videos", type=Path, required=True, help="written: the unpacked files")
    parser.add_argument("--summary", type=Path, required=True, help="written: counts per archive")
    args = parser.parse_args(argv)
    run(load_params(args.params), archives=args.archives, videos=args.videos, summary=args.summary)
