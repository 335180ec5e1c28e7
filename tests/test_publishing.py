import csv
import json
from pathlib import Path

import polars as pl
import pytest

from fvc.publishing import write_csv, write_json_rows

TABLE = pl.DataFrame(
    {
        "text": ['a, "b"', None, "ü\n"],
        "number": [0.1, None, -3.0],
        "count": [1, 2, None],
        "names": [["x", "y"], [], None],
        "bytes": [b"\x00\xff", b"", None],
    }
)


def test_json_says_what_the_table_says(tmp_path: Path) -> None:
    write_json_rows(tmp_path / "t.json", TABLE)
    text = (tmp_path / "t.json").read_text(encoding="utf-8")
    expected = [
        {**row, "bytes": None if row["bytes"] is None else row["bytes"].hex()}
        for row in TABLE.to_dicts()
    ]
    assert json.loads(text) == expected
    assert len(text.splitlines()) == len(TABLE) + 2, "one row to a line"
    write_json_rows(tmp_path / "t.json", TABLE.clear())
    assert json.loads((tmp_path / "t.json").read_text()) == []


def test_csv_has_hexadecimal_and_json_in_its_cells(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", TABLE)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        TABLE.columns,
        ['a, "b"', "0.1", "1", '["x", "y"]', "00ff"],
        ["", "", "2", "[]", ""],
        ["ü\n", "-3.0", "", "", ""],
    ]


def test_what_json_cannot_say_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_rows(tmp_path / "t.json", pl.DataFrame({"number": [float("nan")]}))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
