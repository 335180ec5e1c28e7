"""Tables as text, for those who read no parquet: CSV, and JSON with one row to a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from fvc.files import replacing


def write_csv(target: Path, frame: pl.DataFrame) -> None:
    """Write a table as CSV, atomically: bytes in hexadecimal, lists as JSON, unknown as nothing."""
    rows = [
        {name: _json(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in _rows(frame)
    ]
    names = {name: _text_type(kind) for name, kind in frame.schema.items()}
    with replacing(target) as partial:
        pl.DataFrame(rows, schema=names, orient="row").write_csv(partial)


def write_json_rows(target: Path, frame: pl.DataFrame) -> None:
    """Write a table as one JSON list of objects, atomically: bytes in hexadecimal.

    Raises:
        ValueError: A number is not finite; JSON has no name for it.
    """
    lines = ",\n".join(_json(row) for row in _rows(frame))
    with replacing(target) as partial:
        partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def _rows(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    return frame.with_columns(pl.col(pl.Binary).bin.encode("hex")).iter_rows(named=True)


def _text_type(kind: Any) -> Any:
    return pl.String() if isinstance(kind, pl.Binary | pl.List) else kind


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
