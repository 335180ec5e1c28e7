from pathlib import Path

import pytest

from fvc.errors import FvcError
from fvc.files import read_json, replacing, sha256_of, sha256_of_file, write_json


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "table.csv"

    def fail_halfway() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_halfway()
    assert list(target.parent.iterdir()) == []
    target.write_text("before")
    with pytest.raises(RuntimeError, match="killed"):
        fail_halfway()
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [
        ("table.csv", "before")
    ]
    with replacing(target) as partial:
        partial.write_text("after")
    assert target.read_text() == "after"


def test_equal_values_are_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1, "y": [2.5, "é"]})
    write_json(tmp_path / "b.json", {"y": [2.5, "é"], "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sha256_of({"x": 1, "y": 2}) == sha256_of({"y": 2, "x": 1})
    assert sha256_of_file(tmp_path / "a.json") == sha256_of_file(tmp_path / "b.json")


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_missing_or_damaged_file_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"is missing\. Run 'dvc repro split'"):
        read_json(tmp_path / "split.json", "split")
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(FvcError, match="is no JSON"):
        read_json(tmp_path / "split.json", "split")
