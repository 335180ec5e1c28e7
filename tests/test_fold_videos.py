from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fvc.clip_files import save_clips
from fvc.fold_videos import video_clips, videos_of_fold


def row(video_id: str, label: str, fold: int | None, validates: list[int]) -> dict[str, Any]:
    part = "locked" if fold is None else "fold"
    return {
        "video_id": video_id,
        "group": video_id,
        "label": label,
        "part": part,
        "fold": fold,
        "validates": validates,
    }


ROWS = [
    row("tests_0_a", "real", 0, [1]),
    row("tests_0_b", "fake", 0, [1]),
    row("tests_1_a", "real", 1, [2]),
    row("tests_1_b", "fake", 1, [2]),
    row("tests_2_a", "real", 2, [0]),
    row("tests_2_b", "fake", 2, [0]),
    row("locked", "fake", None, []),
]


@pytest.mark.parametrize("fold", range(3))
def test_each_video_of_a_fold_has_one_part(fold: int) -> None:
    parts = videos_of_fold(ROWS, fold)
    tested = {"test": fold, "validation": (fold - 1) % 3, "train": (fold + 1) % 3}
    assert {part: list(videos) for part, videos in parts.items()} == {
        part: [f"tests_{number}_a", f"tests_{number}_b"] for part, number in tested.items()
    }


def test_fake_is_one_and_the_order_of_rows_is_nothing() -> None:
    assert videos_of_fold(ROWS, 0) == videos_of_fold(ROWS[::-1], 0)
    assert videos_of_fold(ROWS, 1)["test"] == {"tests_1_a": 0, "tests_1_b": 1}


def test_a_single_division_trains_on_what_no_fold_tests() -> None:
    rows = [row("tests", "real", 0, []), row("locked", "fake", None, [])]
    untested = [
        row("trains_a", "fake", None, []),
        row("trains_b", "real", None, []),
        row("validates", "fake", None, [0]),
    ]
    rows += [{**row, "part": "fold"} for row in untested]
    parts = videos_of_fold(rows, 0)
    assert {part: list(videos) for part, videos in parts.items()} == {
        "train": ["trains_a", "trains_b"],
        "validation": ["validates"],
        "test": ["tests"],
    }


def test_a_fold_without_validation_is_refused() -> None:
    rows = [{**row, "validates": []} for row in ROWS]
    with pytest.raises(ValueError, match="fold 0 has no video to validation"):
        videos_of_fold(rows, 0)


@pytest.mark.parametrize(("kept", "missing"), [("real", "fake"), ("fake", "real")])
def test_a_fold_that_trains_on_one_class_is_refused(kept: str, missing: str) -> None:
    rows = [row for row in ROWS if row["fold"] != 1 or row["label"] == kept]
    with pytest.raises(ValueError, match=f"fold 0 has no {missing} video to train"):
        videos_of_fold(rows, 0)
    # What only validates or tests may be of one class.
    assert len(videos_of_fold(rows, 2)["validation"]) == 1


def test_the_clips_of_a_video_are_its_own(tmp_path: Path) -> None:
    for number, video_id in enumerate("abc"):
        # As many clips as the video has windows.
        pixels = np.full((1 + number, 4, 3, 6, 6), number, np.uint8)
        save_clips(tmp_path / f"{video_id}.pt", pixels, "key")
    found = list(video_clips(["c", "a"], tmp_path))
    assert [(len(pixels), int(pixels.max())) for pixels in found] == [(3, 2), (1, 0)]
