"""Score video files and folders of them with a registered model."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

# Before torch is loaded: idle threads that spin would take the cores from those that decode.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tqdm import tqdm

from fvc.errors import FvcError
from fvc.serving.answering import Wishes
from fvc.serving.files import answers_of, video_files
from fvc.serving.outputs import FORMATS, Answer, Journal, make_folder, show_lines, show_table
from fvc.serving.packaging import load_answerer
from fvc.tracking.store import connect

MAX_SHOWN = 5


@dataclass(slots=True)
class Tally:
    """How the files fared."""

    scored: int = 0
    failed: int = 0
    shown: list[str] = field(default_factory=list)
    """The first failures, each with its reason."""

    def note(self, answer: Answer) -> None:
        """Count one more."""
        if answer["error"] is None:
            self.scored += 1
            return
        self.failed += 1
        if len(self.shown) < MAX_SHOWN:
            self.shown.append(f"{answer['file']} ({answer['error']})")

    def __str__(self) -> str:
        said = f"{self.scored} scored, {self.failed} failed"
        if not self.failed:
            return said
        more = self.failed - len(self.shown)
        return f"{said}: {', '.join(self.shown)}{f' and {more} more' if more else ''}"


def run(
    paths: Sequence[Path], *, model: str, wishes: Wishes, out: Path | None, table: bool
) -> None:
    """Score files; those that cannot be scored are counted, and end nothing.

    Args:
        paths: Files and folders; none for a list on standard input, a path a line.
        model: Any URI that MLflow knows.
        wishes: What is asked for.
        out: A file for the answers; None for standard output.
        table: For standard output: rows for people in place of lines of JSON.

    Raises:
        FvcError: A path is missing, the model is not registered, or what a stopped
            run left was asked for otherwise.
    """
    if out is not None and out.suffix not in FORMATS:
        raise FvcError(out, "has no known format", f"End its name in {' or '.join(FORMATS)}")
    if out is not None and out.is_dir():
        raise FvcError(out, "is a folder", "Name a file for --out")
    if out is not None:
        make_folder(out)
    # Before the model, which takes seconds: a name that is mistyped.
    total = sum(1 for _ in video_files(paths)) if paths else None
    if total == 0:
        raise FvcError(paths[0], "holds no video", "Name files, or folders that hold some")
    connect()
    answerer = load_answerer(model)
    try:
        files = video_files(paths) if paths else listed(sys.stdin)
        if out is None:
            # Whatever ends it: who closes the answerer first would wait for it for ever.
            with closing(answers_of(files, answerer, wishes)) as answers:
                shown = show_table(answers) if table else show_lines(answers)
                tally = _followed(shown, total, hidden=total == 1)
        else:
            asked = {"model": answerer.version, "wishes": asdict(wishes)}
            with (
                closing(Journal(out, asked)) as journal,
                closing(answers_of(journal.left(files), answerer, wishes)) as answers,
            ):
                tally = _followed(chain(journal.answers(), journal.add(answers)), total)
                journal.finish()
    finally:
        answerer.close()
    sys.stderr.write(f"predict: {tally}\n")


def listed(lines: Iterable[str]) -> Iterator[Path]:
    """The files of a list, a path a line; empty lines are none."""
    return (Path(name) for line in lines if (name := line.rstrip("\n")))


def _followed(answers: Iterable[Answer], total: int | None, *, hidden: bool = False) -> Tally:
    """Take the answers as they come, and show how far it is."""
    tally = Tally()
    with tqdm(answers, total=total, unit=" videos", desc="score", disable=hidden) as shown:
        for answer in shown:
            tally.note(answer)
    return tally


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc predict", description=__doc__)
    parser.add_argument(
        "paths",
        type=Path,
        nargs="*",
        metavar="PATH",
        help="read: video files, and folders with all below them; without any, a list of files on "
        "standard input, a path a line",
    )
    parser.add_argument("--model", default="models:/fvc@champion", help="any MLflow model URI")
    parser.add_argument(
        "--out",
        type=Path,
        help=f"written: the answers, {', '.join(FORMATS)}; stopped, the same command goes on",
    )
    parser.add_argument(
        "--format",
        choices=("table", "jsonl"),
        help="of standard output: table on a terminal, else lines of JSON",
    )
    parser.add_argument("--clips", type=int, help="views of each video, in place of training's")
    parser.add_argument("--threshold", type=float, help="fake above it, real below")
    parser.add_argument("--explain", action="store_true", help="add a picture as overlay_png")
    args = parser.parse_args(argv)
    if not args.paths and sys.stdin.isatty():
        parser.error("name files or folders, or give a list on standard input")
    try:
        wishes = Wishes(clips=args.clips, threshold=args.threshold, explain=args.explain)
    except ValueError as error:
        parser.error(str(error))
    table = sys.stdout.isatty() if args.format is None else args.format == "table"
    run(args.paths, model=args.model, wishes=wishes, out=args.out, table=table)
