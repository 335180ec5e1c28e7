"""Publish the fold assignment: a CSV that others can use, and its SHA-256 beside it."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fvc.files import replacing
from fvc.protocol import folds_csv, folds_sha256
from fvc.records import FOLDS


def run(*, folds: Path, csv: Path, digest: Path) -> None:
    """Write the CSV, and a file for `sha256sum --check` that stands in the same folder."""
    table = FOLDS.read(folds)
    with replacing(csv) as partial:
        partial.write_bytes(folds_csv(table))
    with replacing(digest) as partial:
        partial.write_text(f"{folds_sha256(table)}  {csv.name}\n", encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc export-folds", description=__doc__)
    parser.add_argument("--folds", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--csv", type=Path, required=True, help="written: the same for others")
    parser.add_argument("--digest", type=Path, required=True, help="written: the CSV's SHA-256")
    args = parser.parse_args(argv)
    run(folds=args.folds, csv=args.csv, digest=args.digest)
