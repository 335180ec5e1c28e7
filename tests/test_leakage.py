from collections.abc import Sequence

import polars as pl
import pytest

from fvc.leakage import cascade_lookup_accuracy, find_leaks
from fvc.records import FOLDS

Place = tuple[str, int | None, list[int]]


def folds_of(places: dict[str, Place]) -> pl.DataFrame:
    return FOLDS.frame(
        [
            {
                "video_id": video_id,
                "group": "same",
                "label": "fake" if video_id.startswith("f") else "real",
                "part": part,
                "fold": fold,
                "validates": validates,
            }
            for video_id, (part, fold, validates) in places.items()
        ]
    )


def index_of(video_ids: Sequence[str], **shared: Sequence[object]) -> pl.DataFrame:
    """Videos that share nothing but the given columns."""
    columns: dict[str, Sequence[object]] = {
        name: [f"{name} of {video_id}" for video_id in video_ids]
        for name in ("group", "source_id", "sha256")
    }
    columns["cascade_ids"] = [[f"c {video_id}"] for video_id in video_ids]
    return pl.DataFrame({"video_id": video_ids, **columns, **shared})


@pytest.mark.parametrize(
    "shared",
    [
        {"group": ["g", "h", "g"]},
        {"source_id": ["1", "2", "1"]},
        {"sha256": ["a", "b", "a"]},
        {"cascade_ids": [["x", "y"], ["z"], ["w", "x"]]},
    ],
    ids=lambda shared: next(iter(shared)),
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("locked", None, []), ("fold", 0, [])),
        (("fold", 0, []), ("fold", 1, [])),
        (("fold", 0, [1]), ("fold", 0, [])),
        (("fold", 0, [1]), ("fold", 0, [2])),
    ],
)
def test_what_is_shared_between_parts_is_found(
    shared: dict[str, list[object]], one: Place, other: Place
) -> None:
    index = index_of(["f1", "r2", "f3"], **shared)
    third: Place = ("fold", 0, [])
    (leak,) = find_leaks(folds_of({"f1": one, "r2": third, "f3": other}), index)
    assert leak.key == next(iter(shared))
    assert {leak.one.split()[0], leak.other.split()[0]} == {"f1", "f3"}, "the pair is not named"
    assert not find_leaks(folds_of({"f1": one, "r2": third, "f3": one}), index)


@pytest.mark.parametrize(
    "place", [("fold", 1, [0, 1]), ("locked", None, [0]), ("locked", 0, []), ("fold", None, [])]
)
def test_a_video_in_two_parts_by_itself_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="video f1 is in two parts"):
        find_leaks(folds_of({"f1": place}), index_of(["f1"]))


def test_a_video_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="different videos"):
        find_leaks(folds_of({"f1": ("fold", 0, [])}), index_of(["f1", "f2"]))


def test_a_lookup_table_wins_on_a_leaking_split_only() -> None:
    names = [f"{label}{cascade}{copy}" for label in "fr" for cascade in "abcd" for copy in "01"]
    index = index_of(names, cascade_ids=[[name[:2]] for name in names])
    by_copy: dict[str, Place] = {name: ("fold", int(name[2]), []) for name in names}
    by_cascade: dict[str, Place] = {name: ("fold", "abcd".index(name[1]) % 2, []) for name in names}
    assert cascade_lookup_accuracy(folds_of(by_copy), index) == 1.0
    assert cascade_lookup_accuracy(folds_of(by_cascade), index) == 0.5
