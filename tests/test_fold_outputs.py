import math
from pathlib import Path

import polars as pl
import pytest

from fvc.errors import FvcError
from fvc.evidence.fold_outputs import (
    CHOSEN_LATER,
    HISTORY_COLUMNS,
    final_results,
    read_fold,
    read_history,
)
from fvc.evidence.summary import tracked_metrics
from fvc.records import FOLDS, PREDICTIONS
from fvc.report import sections


def places_of() -> pl.DataFrame:
    """Fold 0 tests v0, validates on v1 and trains on v2."""
    rows: list[dict[str, object]] = [
        {
            "video_id": f"v{fold}",
            "group": f"g{fold}",
            "label": "fake",
            "part": "fold",
            "fold": fold,
            "validates": [0] if fold == 1 else [],
        }
        for fold in range(3)
    ]
    return FOLDS.frame(rows)


def write_fold(models: Path, **changed: str) -> None:
    parts = {"v0": "test", "v1": "validation", "v2": "train", "v9": "locked", **changed}
    rows: list[dict[str, object]] = [
        {
            "video_id": video,
            "fold": 0,
            "part": part,
            "label": "fake",
            "probability_fake": 0.5,
            "logit": float(video[1:]),
            "num_clips": 1,
        }
        for video, part in parts.items()
    ]
    PREDICTIONS.write(models / "0/predictions.parquet", PREDICTIONS.frame(rows))
    history = pl.DataFrame({name: [1] for name in HISTORY_COLUMNS})
    history.write_csv(models / "0/history.csv")


def test_a_fold_has_its_three_parts_with_groups_and_nothing_locked(tmp_path: Path) -> None:
    write_fold(tmp_path)
    fold = read_fold(tmp_path, 0, places_of())
    assert fold.part("test").select("video_id", "group", "logit", "is_fake").rows() == [
        ("v0", "g0", 0.0, True)
    ]
    assert fold.part("validation")["video_id"].to_list() == ["v1"]
    assert fold.part("train")["video_id"].to_list() == ["v2"]
    assert fold.predictions.height == 3
    assert fold.history.height == 1


def test_a_single_division_is_read_as_a_fold(tmp_path: Path) -> None:
    write_fold(tmp_path)
    single = pl.when(pl.col("fold") == 0).then(pl.lit(0, dtype=pl.Int64)).alias("fold")
    fold = read_fold(tmp_path, 0, places_of().with_columns(single))
    parts = {
        part: fold.part(part)["video_id"].to_list() for part in ("train", "validation", "test")
    }
    assert parts == {"train": ["v2"], "validation": ["v1"], "test": ["v0"]}


@pytest.mark.parametrize("changed", [{"v2": "test"}, {"v0": "train"}, {"v3": "train"}])
def test_parts_that_differ_from_the_split_are_refused(
    tmp_path: Path, changed: dict[str, str]
) -> None:
    write_fold(tmp_path, **changed)
    with pytest.raises(FvcError, match="other folds than those of the split"):
        read_fold(tmp_path, 0, places_of())


def test_a_video_scored_twice_is_refused(tmp_path: Path) -> None:
    write_fold(tmp_path)
    source = tmp_path / "0/predictions.parquet"
    rows = PREDICTIONS.read(source)
    PREDICTIONS.write(source, pl.concat([rows, rows]))
    with pytest.raises(FvcError, match="other folds"):
        read_fold(tmp_path, 0, places_of())


def test_a_history_without_a_series_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"epoch": [1], "train/loss": [0.5]}).write_csv(tmp_path / "history.csv")
    with pytest.raises(FvcError, match=r"lacks the columns validation/loss, .*Run 'dvc repro'\."):
        read_history(tmp_path / "history.csv", "Run 'dvc repro'")


def test_a_fold_and_a_cross_validation_call_their_measures_alike() -> None:
    rows = [
        {
            "video_id": f"v{number}",
            "fold": 0,
            "part": "test",
            "label": ("real", "fake")[number % 2],
            "probability_fake": 1 / (1 + math.exp(-logit)),
            "logit": logit,
            "num_clips": 1,
        }
        for number, logit in enumerate([-1.0, 2.0, 0.5, -0.5, -2.0, 1.5])
    ]
    tested = PREDICTIONS.frame([dict(row) for row in rows])
    chosen = tested.with_columns(part=pl.lit("validation"), logit=-pl.col("logit"))
    found = final_results(pl.concat([tested, chosen]))
    assert found["test/accuracy"] == found["test/macro_f1"] == pytest.approx(4 / 6)
    assert found["test/roc_auc"] == pytest.approx(8 / 9)
    assert found["best/validation_roc_auc"] == pytest.approx(1 / 9), "of the weights that are kept"
    estimates = {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in sections.NAMES}
    folds = {name: {"mean": 0.5, "std": 0.1} for name in sections.NAMES}
    whole = tracked_metrics(
        {"video": estimates, "cascade": estimates, "folds": folds, "probes": {}, "leaks": 0}
    )
    best = {f"best/validation_{name}" for name in ("loss", "roc_auc", "macro_f1")}
    own = {"test/loss", "test/called_fake", "test/logit_std"} | best
    assert own <= found.keys()
    assert found.keys() - own <= whole.keys()
    missing = {name for name in sections.NAMES if f"test/{name}" not in found}
    assert missing == set(CHOSEN_LATER)


def test_a_fold_of_one_class_has_what_it_can_have() -> None:
    row = {"video_id": "v", "fold": 0, "part": "test", "label": "fake", "num_clips": 1}
    row |= {"probability_fake": 0.5, "logit": 0.0}
    found = final_results(PREDICTIONS.frame([row, {**row, "part": "validation"}]))
    assert found["test/accuracy"] == found["test/recall_fake"] == 1
    assert found.keys().isdisjoint({"test/roc_auc", "best/validation_roc_auc"})
