"""Publish the fold assignment: a CSV that others can use, and its SHA-256 beside it."""

import hashlib
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fvc.files import replacing
from fvc.protocol import folds_csv_blocks
from fvc.records import FOLDS


def run(*, folds: Path, csv: Path, digest: Path) -> None:
    """Write the CSV, and a file for `sha256sum --check` that stands in the same folder."""
    table = FOLDS.read(folds)
    found = hashlib.sha256()
    with replacing(csv) as partial, partial.open("wb") as stream:
        for block in folds_csv_blocks(table):
            found.update(block)
            stream.write(block)
    with replacing(digest) as partial:
        partial.write_text(f"{found.hexdigest()}  {csv.name}\n", encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc export-folds", description=__doc__)
    parser.add_argument("--folds", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--csv", type=Path, required=True, help="written: the same for others")
    parser.add_argument("--digest", type=Path, required=True, help="written: the CSV's SHA-256")
    args = parser.parse_args(argv)
    run(folds=args.folds, csv=args.csv, digest=args.digest)
