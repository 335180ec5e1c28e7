"""Unpacking an encrypted archive: ours against the standard library's zipfile, files written.

    python benchmarks/extract.py                                     # an archive of its own
    FVC_ARCHIVE_PASSWORD=... python benchmarks/extract.py FVC1.zip   # one that is there

Both take turns in one process. Rates by the clock include bringing every file to the disk
(fsync); the ratio is one of CPU time, which other users of the machine disturb least.
zipfile is given only as many members as it takes to time it.
"""

import os
import random
import statistics
import sys
import tempfile
import time
import zipfile
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from fvc.archives import Member, check_password, read_members, unpack
from fvc.stages.extract import PASSWORD

ROUNDS = 3
MADE_MEMBER_BYTES, MADE_MEMBERS = 4 << 20, 24
ZIPFILE_BYTES = 8 << 20
LEAST_MB_PER_S, LEAST_RATIO = 40, 40


def made_archive(path: Path) -> str:
    """Write an encrypted archive and return its password.

    The cipher is written in Python here, so one member is encrypted and
    stored under many names.
    """
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from zip_bytes import archive_bytes, encrypted_member

    password = "benchmark"
    content = random.Random(0).randbytes(MADE_MEMBER_BYTES)
    member = encrypted_member(b"?", content, password.encode())
    names = [b"FVC1/youtube/%03d/video.mp4" % number for number in range(MADE_MEMBERS)]
    path.write_bytes(archive_bytes([replace(member, name=name) for name in names]))
    return password


def first_of(members: Sequence[Member], least_bytes: int) -> list[Member]:
    """The first members that together have as many bytes, or all."""
    chosen: list[Member] = []
    while len(chosen) < len(members) and sum(each.size_bytes for each in chosen) < least_bytes:
        chosen.append(members[len(chosen)])
    return chosen


def by_us(members: Sequence[Member], folder: Path, password: str | None) -> None:
    """Unpack with the code of the stage."""
    unpack(members, folder, password=password, progress=lambda _: None)


def by_zipfile(members: Sequence[Member], folder: Path, password: str | None) -> None:
    """Unpack with the standard library."""
    with zipfile.ZipFile(members[0].archive) as opened:
        for member in members:
            opened.extract(member.name, folder, pwd=password.encode() if password else None)


def rates(
    way: Callable[[Sequence[Member], Path, str | None], None],
    members: Sequence[Member],
    password: str | None,
) -> tuple[float, float]:
    """MB a second: by the clock, with every file brought to the disk, and by CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        clock, cpu = time.perf_counter(), time.process_time()
        way(members, Path(folder), password)
        cpu_s = time.process_time() - cpu
        for member in members:
            with (Path(folder) / member.name).open("rb") as stream:
                os.fsync(stream.fileno())
        clock_s = time.perf_counter() - clock
    megabytes = sum(member.size_bytes for member in members) / 1e6
    return megabytes / clock_s, megabytes / cpu_s


def compare(archive: Path, password: str | None) -> bool:
    """Print rates and ratio; return whether they reach, by CPU time, what is promised."""
    members = read_members(archive)
    check_password(members, password)
    encrypted = [member for member in members if member.encrypted]
    few = first_of(encrypted, ZIPFILE_BYTES)
    if not few:
        sys.exit(f"error: {archive}: holds no encrypted member")
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(rates(by_zipfile, few, password))
        ours.append(rates(by_us, encrypted, password))
    clock, cpu = (statistics.median(column) for column in zip(*ours, strict=True))
    zip_clock, zip_cpu = (statistics.median(column) for column in zip(*theirs, strict=True))
    print(f"{archive.name}: {len(encrypted)} encrypted members, median of {ROUNDS} turns, MB/s")
    print(f"  zipfile  {zip_clock:7.1f} by the clock  {zip_cpu:7.1f} by CPU time")
    print(f"  ours     {clock:7.1f} by the clock  {cpu:7.1f} by CPU time")
    print(f"ratio {cpu / zip_cpu:.0f} by CPU time (at least {LEAST_RATIO})")
    return cpu >= LEAST_MB_PER_S and cpu / zip_cpu >= LEAST_RATIO


def main() -> int:
    """Compare on the archive that is named, or on a made one; 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, nargs="?", help="encrypted by the traditional cipher")
    args = parser.parse_args()
    if args.archive:
        return 0 if compare(args.archive, os.environ.get(PASSWORD)) else 1
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.zip"
        return 0 if compare(made, made_archive(made)) else 1


if __name__ == "__main__":
    sys.exit(main())
