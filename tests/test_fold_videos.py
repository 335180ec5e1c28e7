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
    row("tests_0", "real", 0, [1]),
    row("tests_1", "fake", 1, [2]),
    row("tests_2", "real", 2, [0]),
    row("locked", "fake", None, []),
]
UNTESTED: dict[str, list[int]] = {"trains": [], "validates": [0]}


@pytest.mark.parametrize("fold", range(3))
def test_each_video_of_a_fold_has_one_part(fold: int) -> None:
    parts = videos_of_fold(ROWS, fold)
    assert list(parts["test"]) == [f"tests_{fold}"]
    assert list(parts["validation"]) == [f"tests_{(fold - 1) % 3}"]
    assert list(parts["train"]) == [f"tests_{(fold + 1) % 3}"]


def test_fake_is_one_and_the_order_of_rows_is_nothing() -> None:
    assert videos_of_fold(ROWS, 0) == videos_of_fold(ROWS[::-1], 0)
    assert videos_of_fold(ROWS, 1)["test"] == {"tests_1": 1}
    assert videos_of_fold(ROWS, 2)["test"] == {"tests_2": 0}


def test_a_single_division_trains_on_what_no_fold_tests() -> None:
    rows = [row("tests", "real", 0, []), row("locked", "fake", None, [])]
    rows += [{**row(name, "fake", None, held), "part": "fold"} for name, held in UNTESTED.items()]
    parts = videos_of_fold(rows, 0)
    assert {part: list(videos) for part, videos in parts.items()} == {
        "train": ["trains"],
        "validation": ["validates"],
        "test": ["tests"],
    }


def test_a_fold_without_validation_is_refused() -> None:
    rows = [{**row, "validates": []} for row in ROWS]
    with pytest.raises(ValueError, match="fold 0 has no video to validation"):
        videos_of_fold(rows, 0)


def test_the_clips_of_a_video_are_its_own(tmp_path: Path) -> None:
    for number, video_id in enumerate("abc"):
        # As many clips as the video has windows.
        pixels = np.full((1 + number, 4, 3, 6, 6), number, np.uint8)
        save_clips(tmp_path / f"{video_id}.pt", pixels, "key")
    found = list(video_clips(["c", "a"], tmp_path))
    assert [(len(pixels), int(pixels.max())) for pixels in found] == [(3, 2), (1, 0)]
