"""Makes a corpus in the layout of the Fake Video Corpus, with nothing to download."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fvc.demo.corpus import write_corpus
from fvc.demo.plan import plan
from fvc.errors import FvcError


def run(target: Path, *, num_videos: int, seed: int) -> None:
    """Plan a corpus and write it; what was made is said on standard error."""
    try:
        planned = plan(num_videos, seed)
    except ValueError as error:
        raise FvcError("--videos", str(error), "Ask for more") from error
    write_corpus(target, planned)
    labels = Counter(video.footage.label for video in planned.usable)
    sys.stderr.write(
        f"{target}: {labels['real']} real and {labels['fake']} fake videos in "
        f"{len(planned.originals)} cascades, {len(planned.defects)} files with defects\n"
    )


def main(argv: Sequence[str]) -> None:
    """Run the command from the command line."""
    parser = ArgumentParser(prog="fvc demo", description=__doc__)
    parser.add_argument("target", metavar="DIR", type=Path, help="written: a new or empty folder")
    parser.add_argument("--videos", type=int, default=64, help="usable videos (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds, equal bytes (default 0)")
    args = parser.parse_args(argv)
    run(args.target, num_videos=args.videos, seed=args.seed)
