import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fvc.config import SplitConfig, load_params
from fvc.errors import FvcError
from fvc.records import FOLDS, INDEX
from fvc.stages import split
from fvc.stages.split import count, divide, draw, group_labels

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
CONFIG = PARAMS.split


def corpus(seed: int, num_groups: int = 60) -> pl.DataFrame:
    """Groups of very different sizes, some with both labels."""
    generator = np.random.default_rng(seed)
    rows = []
    for group in range(num_groups):
        fakes = generator.choice([0.0, 0.1, 0.9, 1.0])
        for copy in range(min(int(generator.pareto(1.2)) + 1, 40)):
            label = "fake" if generator.random() < fakes else "real"
            rows.append({"video_id": f"v{group}_{copy}", "group": f"g{group}", "label": label})
    return pl.DataFrame(rows)


def index_of(videos: pl.DataFrame) -> pl.DataFrame:
    """A whole index, in which only the given columns and the cascade mean something."""
    empty: dict[str, object] = {"String": "", "Int64": 1, "Float64": 1.0, "Binary": b""}
    rows = [
        {name: empty.get(str(kind)) for name, kind in INDEX.columns.items()}
        | {"sha256": video["video_id"], "source_id": video["video_id"]}
        | {"cascade_ids": [video["group"]]}
        | video
        for video in videos.iter_rows(named=True)
    ]
    return INDEX.frame(rows)


def parts_of(folds: pl.DataFrame, fold: int) -> dict[str, pl.DataFrame]:
    outside = folds.filter(part="fold").filter(pl.col("fold") != fold)
    validates = pl.col("validates").list.contains(fold)
    return {
        "train": outside.filter(~validates),
        "validation": outside.filter(validates),
        "test": folds.filter(pl.col("fold") == fold),
        "locked": folds.filter(part="locked"),
    }


@pytest.mark.parametrize("seed", range(12))
def test_the_parts_of_a_fold_share_nothing_and_leave_out_nothing(seed: int) -> None:
    videos = corpus(seed)
    folds = divide(videos, CONFIG, seed)
    assert sorted(folds["video_id"]) == sorted(videos["video_id"])
    tested = folds["fold"].drop_nulls().to_list()
    assert len(tested) == len(folds.filter(part="fold")), "a video is never tested"
    for fold in CONFIG.folds:
        parts = parts_of(folds, fold)
        for column in ("video_id", "group"):
            values = [set(part[column]) for part in parts.values()]
            union: set[str] = set().union(*values)
            overlap = sum(map(len, values)) - len(union)
            assert overlap == 0, f"two parts of fold {fold} share a {column}"
        assert sum(map(len, parts.values())) == len(videos)
        for name, part in parts.items():
            assert set(part["label"]) == {"fake", "real"}, f"{name} lacks a label"


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    videos = corpus(seed)
    shuffled = videos.sample(fraction=1.0, shuffle=True, seed=seed)
    assert shuffled["video_id"].to_list() != videos["video_id"].to_list()
    assert divide(videos, CONFIG, 0).equals(divide(shuffled, CONFIG, 0))


def test_another_seed_gives_another_split() -> None:
    videos = corpus(0)
    assert not divide(videos, CONFIG, 0).equals(divide(videos, CONFIG, 1))


def test_shares_are_kept_for_both_labels() -> None:
    videos = pl.DataFrame(
        [
            {"video_id": f"{label}{n}", "group": f"{label}{n}", "label": label}
            for label, number in (("fake", 200), ("real", 100))
            for n in range(number)
        ]
    )
    counts = count(divide(videos, CONFIG, 0))
    assert counts["locked"] == {"groups": 45, "fake": 30, "real": 15}
    for fold in CONFIG.folds:
        assert counts[f"fold_{fold}"]["test"] == {"groups": 51, "fake": 34, "real": 17}
        assert counts[f"fold_{fold}"]["validation"] == {"groups": 41, "fake": 27, "real": 14}


def test_one_more_group_moves_at_most_one_other() -> None:
    labels = {f"g{n}": "fake" for n in range(100)}
    before = draw(labels, 0.15, 7)
    after = draw({**labels, "new": "fake"}, 0.15, 7)
    assert len(before) == 15
    assert len(before - after) <= 1, "new videos reshuffle the locked test"


def test_a_mixed_group_counts_by_its_majority() -> None:
    rows = [("a", "fake"), ("a", "real"), ("a", "real"), ("b", "real"), ("b", "fake")]
    videos = pl.DataFrame(rows, schema=["group", "label"], orient="row")
    assert group_labels(videos) == {"a": "real", "b": "fake"}


def run(tmp_path: Path, index: pl.DataFrame, config: SplitConfig = CONFIG) -> None:
    INDEX.write(tmp_path / "index.parquet", index)
    split.run(
        replace(PARAMS, split=config),
        index=tmp_path / "index.parquet",
        folds=tmp_path / "folds.parquet",
        summary=tmp_path / "split.json",
    )


def test_the_stage_writes_folds_and_counts(tmp_path: Path) -> None:
    run(tmp_path, index_of(corpus(0)))
    folds = FOLDS.read(tmp_path / "folds.parquet")
    summary = json.loads((tmp_path / "split.json").read_text())
    locked = folds.filter(part="locked")
    assert summary["locked"]["fake"] == len(locked.filter(label="fake"))
    assert summary["audit"] == {"leaks": 0, "cascade_lookup_balanced_accuracy": pytest.approx(0.5)}
    written = (tmp_path / "folds.parquet").read_bytes()
    run(tmp_path, index_of(corpus(0)).reverse())
    assert (tmp_path / "folds.parquet").read_bytes() == written


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (corpus(0, num_groups=8), r"\d groups are mostly \w+; 5 folds and a locked test need 6"),
        (corpus(0).filter(label="fake"), "0 groups are mostly real"),
        (corpus(0).clear(), "its 0 groups cannot be divided"),
    ],
)
def test_too_few_groups_are_one_line(tmp_path: Path, videos: pl.DataFrame, message: str) -> None:
    with pytest.raises(FvcError, match=message) as caught:
        run(tmp_path, index_of(videos))
    assert "split.folds" in str(caught.value)
    assert not (tmp_path / "folds.parquet").exists()


def test_a_leak_stops_the_stage_and_is_named(tmp_path: Path) -> None:
    index = index_of(corpus(0)).with_columns(sha256=pl.lit("same bytes"))
    with pytest.raises(FvcError, match=r"leaks 1 times: v\w+ .* share sha256 same bytes"):
        run(tmp_path, index)
    assert not (tmp_path / "folds.parquet").exists(), "a leaking split was written"
