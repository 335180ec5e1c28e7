"""The rows of the annotation files, whatever is in them."""

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvc.errors import FvcError

ALIASES: Mapping[str, tuple[str, ...]] = {
    "cascade_id": ("cascade", "event_id", "group_id"),
    "video_url": ("url", "link", "video_link"),
    "label": ("annotation", "class", "truth_label"),
    "event_title": ("title",),
}
"""Every column that is read, with what else it may be called. Case, spaces and
punctuation do not count: 'Video URL' and 'videoUrl' are video_url."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of a file under the header."""

    line: int
    """Counted from 1, the header's."""
    cells: Sequence[str]
    num_surplus: int
    """Cells beyond those of the header."""
    places: Mapping[str, int]
    """Where the columns are that were asked for."""
    problem: str | None
    """Why the line could not be read and has no cells."""

    def get(self, column: str) -> str:
        """The cell without the spaces around it, '' if the row is too short."""
        place = self.places[column]
        return self.cells[place].strip() if place < len(self.cells) else ""


def read_rows(source: Path, columns: Sequence[str], *, remedy: str) -> list[Row]:
    """Read every line that is not blank; none of them is an error.

    A line is a row: a quote that is never closed costs its own row and not
    the rest of the file.

    Args:
        source: A CSV file with a header.
        columns: Of `ALIASES`, all needed.
        remedy: What to do if there is no such file.

    Raises:
        FvcError: The file is missing or empty, has not the columns, or one of
            them twice.
    """
    try:
        content = source.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FvcError(source, "is missing", remedy) from None
    except OSError as error:
        raise FvcError(source, f"cannot be read ({error.strerror})", remedy) from error
    # Spreadsheets put a byte order mark before the first column's name.
    lines = content.removeprefix(codecs.BOM_UTF8).splitlines() or [b""]
    try:
        header = _cells(lines[0])
    except ValueError as error:
        raise FvcError(source, str(error), "Save it as CSV in UTF-8") from error
    places = _places(source, header, columns)
    rows = []
    for line, text in enumerate(lines[1:], start=2):
        try:
            cells, problem = _cells(text), None
        except ValueError as error:
            cells, problem = [], str(error)
        if problem or any(cell.strip() for cell in cells):
            num_surplus = max(0, len(cells) - len(header))
            row = Row(
                line=line, cells=cells, num_surplus=num_surplus, places=places, problem=problem
            )
            rows.append(row)
    return rows


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8")]), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"is no CSV in UTF-8 ({error})") from error


def _places(source: Path, header: Sequence[str], columns: Sequence[str]) -> dict[str, int]:
    names = [_letters(cell) for cell in header]
    places = {}
    for column in columns:
        known = {_letters(name) for name in (column, *ALIASES[column])}
        found = [place for place, name in enumerate(names) if name in known]
        if len(found) > 1:
            meant = " and ".join(repr(header[place].strip()) for place in found)
            raise FvcError(source, f"has {meant}, which both mean {column}", "Keep one of them")
        if found:
            places[column] = found[0]
    if missing := [column for column in columns if column not in places]:
        cause = f"has no column {', '.join(missing)}"
        raise FvcError(source, cause, f"Its first line must be '{','.join(columns)}'")
    return places


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name.casefold())
