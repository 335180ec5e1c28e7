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
        FvcError: The model is not registered, or a file cannot be read.
    """
    connect()
    loaded = serving.load_model(model)
    for video in videos:
        try:
            content = video.read_bytes()
        except OSError as error:
            cause = f"cannot be read ({error.strerror})"
            raise FvcError(video, cause, "Name an existing video file") from error
        answer = serving.ask(loaded, content)
        sys.stdout.write(json.dumps({"file": str(video), **answer}) + "\n")


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc predict", description=__doc__)
    parser.add_argument("videos", type=Path, nargs="+", metavar="VIDEO", help="read: a video file")
    parser.add_argument("--model", default="models:/fvc@champion", help="any MLflow model URI")
    args = parser.parse_args(argv)
    run(args.videos, model=args.model)
