"""Where answers go: a terminal, or a file that a stopped run goes on with; and back from there."""

import csv
import fcntl
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import polars as pl
from tqdm import tqdm

from fvc.errors import FvcError
from fvc.files import replacing
from fvc.serving.files import shown_name

Answer = Mapping[str, Any]

CLIP = pl.Struct(dict.fromkeys(("start_s", "end_s", "probability_fake"), pl.Float64()))
COLUMNS: dict[str, pl.DataType] = {
    "file": pl.String(),
    "probability_fake": pl.Float64(),
    "verdict": pl.String(),
    "threshold": pl.Float64(),
    "clips": pl.List(CLIP),
    "model_version": pl.String(),
    "video_sha256": pl.String(),
    "overlay_png": pl.String(),
    "error": pl.String(),
}
"""The columns of a parquet file; a CSV file has them as text, `clips` as JSON."""

TRACED = {
    **dict.fromkeys(("model_version", "video_sha256", "verdict", "error"), str | None),
    **dict.fromkeys(("probability_fake", "threshold"), float | int | None),
}
"""What leads from an answer to where it comes from, and is told of it."""

READABLE = (".json", ".jsonl", ".csv", ".parquet")
"""How the name of a file of answers ends."""


def make_folder(out: Path) -> None:
    """Make the folder that a file is to be written to.

    Raises:
        FvcError: Something else has its name, or that of one above it.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        cause = f"its folder cannot be made ({error.strerror}: {error.filename})"
        raise FvcError(out, cause, "Name another --out") from error


class Journal:
    """The answers so far, a line of JSON each, beside the file that they will make.

    Args:
        out: The file; the journal is its name with `.partial`.
        asked: What was asked for (model, wishes): answers of another request do not mix.

    Raises:
        FvcError: It was begun for something else, or another process writes it.
    """

    def __init__(self, out: Path, asked: Mapping[str, Any]) -> None:
        self._out = out
        self.path = out.with_name(f"{out.name}.partial")
        head = json.dumps(asked, sort_keys=True)
        if not self.path.exists() or not self.path.stat().st_size:
            self.path.write_text(f"{head}\n", encoding="utf-8")
        # Open until the end, for the lock on it.
        self._held = self.path.open("r+b")
        try:
            self._take_up(self._held, f"{head}\n")
        except FvcError:
            self.close()
            raise

    def _take_up(self, file: BinaryIO, head: str) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "Wait for it to end, or name another --out"
            raise FvcError(self.path, "is being written by another process", remedy) from error
        if file.readline().decode(errors="replace") != head:
            remedy = "Delete it, or name another --out"
            raise FvcError(self.path, "was begun with another model or other flags", remedy)
        # A line that a stop has cut is answered again.
        whole = file.tell()
        while (line := file.readline()).endswith(b"\n"):
            whole += len(line)
        file.truncate(whole)

    def close(self) -> None:
        """Let another process go on with it."""
        self._held.close()

    def answers(self) -> Iterator[Answer]:
        """All that is there, in order.

        Raises:
            FvcError: A line of it is damaged.
        """
        with self.path.open(encoding="utf-8") as lines:
            try:
                yield from map(json.loads, islice(lines, 1, None))
            except ValueError as error:
                cause = f"holds a line that is no answer ({error})"
                raise FvcError(
                    self.path, cause, "Delete it, or that line and those after"
                ) from error

    def left(self, files: Iterable[Path]) -> Iterator[Path]:
        """The files without an answer yet.

        Raises:
            FvcError: The answers are to other files.
        """
        remaining = iter(files)
        for answer in self.answers():
            following = next(remaining, None)
            if following is None or answer["file"] != shown_name(following):
                cause = f"holds an answer to {answer['file']}, which is not the next file"
                raise FvcError(self.path, cause, "Delete it, or name the same files as before")
        yield from remaining

    def add(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Write each down before it is passed on."""
        with self.path.open("a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps(answer) + "\n")
                file.flush()
                yield answer

    def finish(self) -> None:
        """Make the file of the answers, in the format that its name asks for."""
        with replacing(self._out) as partial:
            FORMATS[self._out.suffix](self, partial)
        self.path.unlink()


def _as_lines(journal: Journal, target: Path) -> None:
    with target.open("w", encoding="utf-8") as file:
        for answer in journal.answers():
            file.write(json.dumps(answer) + "\n")


def _as_csv(journal: Journal, target: Path) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        for answer in journal.answers():
            writer.writerow({**answer, "clips": json.dumps(answer["clips"])})


def _as_parquet(journal: Journal, target: Path) -> None:
    with TemporaryDirectory(dir=target.parent) as scratch:
        lines = Path(scratch) / "answers.jsonl"
        _as_lines(journal, lines)
        pl.scan_ndjson(lines, schema=COLUMNS).sink_parquet(target)


FORMATS: Mapping[str, Callable[[Journal, Path], None]] = {
    ".jsonl": _as_lines,
    ".csv": _as_csv,
    ".parquet": _as_parquet,
}
"""By the end of a file's name."""


def show_lines(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Print a line of JSON for each, as soon as it is there."""
    for answer in answers:
        _show(json.dumps(answer))
        yield answer


def show_table(answers: Iterable[Answer]) -> Iterator[Answer]:
    """Print a row for each, as soon as it is there."""
    _show(f"{'verdict':<10}{'fake':>6}  file")
    for answer in answers:
        score = answer["probability_fake"]
        shown = f"{'-':>6}" if score is None else f"{score:6.3f}"
        reason = "" if answer["error"] is None else f"  ({answer['error']})"
        _show(f"{answer['verdict'] or 'failed':<10}{shown}  {answer['file']}{reason}")
        yield answer


def _show(line: str) -> None:
    """Print a line above the bar of progress that may be on the same terminal."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def answers_in(source: Path) -> list[Answer]:
    """Read answers back: what `fvc predict` wrote, in any of its formats, or a server said.

    Raises:
        FvcError: It is missing, or holds something else.
    """
    remedy = "Name what 'fvc predict' wrote, or the JSON of an answer"
    try:
        answers = _read(source)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, pl.exceptions.PolarsError) as error:
        raise FvcError(source, f"cannot be read ({error})", remedy) from error
    if not answers:
        raise FvcError(source, "holds no answer at all", remedy)
    for answer in answers:
        if not isinstance(answer, dict) or TRACED.keys() - answer.keys():
            raise FvcError(source, f"holds no answers with {', '.join(sorted(TRACED))}", remedy)
        if wrong := [name for name in sorted(TRACED) if not isinstance(answer[name], TRACED[name])]:
            cause = f"holds an answer whose {wrong[0]} is {answer[wrong[0]]!r}"
            raise FvcError(source, cause, remedy)
    return answers


def _read(source: Path) -> list[Any]:
    if source.suffix == ".parquet":
        return pl.read_parquet(source).to_dicts()
    if source.suffix == ".csv":
        schema = {name: kind for name, kind in COLUMNS.items() if not isinstance(kind, pl.List)}
        return pl.read_csv(source, schema_overrides=schema).to_dicts()
    text = source.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(content, dict):
        content = content.get("predictions", [content])
    return content if isinstance(content, list) else [content]
