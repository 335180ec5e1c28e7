"""Score video files with a registered model; one line of JSON for each."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from fvc import serving
from fvc.errors import FvcError
from fvc.tracking.store import connect


def run(videos: Sequence[Path], *, model: str) -> None:
    """Print the answer for each file, in order.

    Raises:
        FvcError: A file is missing, or the model is not registered.
    """
    for video in videos:
        if not video.is_file():
            raise FvcError(video, "is no file", "Name existing video files")
    connect()
    loaded = serving.load_model(model)
    for video in videos:
        answer = serving.ask(loaded, video.read_bytes())
        sys.stdout.write(json.dumps({"file": str(video), **answer}) + "\n")


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc predict", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="read: a video file")
    parser.add_argument("--model", default="models:/fvc@champion", help="any MLflow model URI")
    args = parser.parse_args(argv)
    run(args.videos, model=args.model)
