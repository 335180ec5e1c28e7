from pathlib import Path

import polars as pl
import pytest

from fvc.errors import FvcError
from fvc.records import FOLDS, REJECTED

ROWS: list[dict[str, object]] = [
    {
        "video_id": f"youtube_{name}",
        "group": "f0",
        "label": "fake",
        "part": "fold",
        "fold": 1,
        "validates": [0, 2],
    }
    for name in "cab"
]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_order_of_rows_does_not_reach_the_file(tmp_path: Path, order: tuple[int, ...]) -> None:
    FOLDS.write(tmp_path / "a.parquet", FOLDS.frame(ROWS))
    FOLDS.write(tmp_path / "b.parquet", FOLDS.frame([ROWS[place] for place in order]))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert FOLDS.read(tmp_path / "a.parquet")["video_id"].to_list() == [
        "youtube_a",
        "youtube_b",
        "youtube_c",
    ]


def test_csv_keeps_its_types_when_empty(tmp_path: Path) -> None:
    REJECTED.write(tmp_path / "rejected.csv", REJECTED.frame([]))
    assert REJECTED.read(tmp_path / "rejected.csv").schema == REJECTED.columns


def test_a_wrong_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="group"):
        FOLDS.frame([{"video_id": "youtube_a"}])
    with pytest.raises(ValueError, match="columns"):
        FOLDS.write(tmp_path / "folds.parquet", pl.DataFrame({"video_id": ["youtube_a"]}))
    pl.DataFrame({"video_id": ["youtube_a"]}).write_parquet(tmp_path / "folds.parquet")
    with pytest.raises(FvcError, match=r"other columns.*\(fold, group, label, part, validates\)"):
        FOLDS.read(tmp_path / "folds.parquet")
    (tmp_path / "folds.parquet").write_bytes(b"no parquet")
    with pytest.raises(FvcError, match="cannot be read"):
        FOLDS.read(tmp_path / "folds.parquet")
    with pytest.raises(FvcError, match=r"is missing\. Run 'dvc repro split'"):
        FOLDS.read(tmp_path / "none.parquet")
