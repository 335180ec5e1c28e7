from collections.abc import Sequence
from runpy import run_path

import numpy as np
import polars as pl
import pytest
from source_tree import ROOT

from fvc.config import load_params
from fvc.leakage import Leak, find_leaks, guess_labels, look_up_cascades
from fvc.records import FOLDS

CONFIG = load_params(ROOT / "params.yaml").index
PUBLISHED = ROOT.parent / "shared" / "fvc"
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


def look(seed: int, flipped_bits: int = 0) -> bytes:
    """The fingerprint of six frames, the same for a seed but for some bits of each."""
    bits = np.random.default_rng(seed).integers(0, 2, (6, 256), dtype=np.uint8)
    bits[:, :flipped_bits] ^= 1
    return np.packbits(bits, axis=1).tobytes()


def index_of(video_ids: Sequence[str], **shared: Sequence[object]) -> pl.DataFrame:
    """Videos that share nothing but the given columns."""
    columns: dict[str, Sequence[object]] = {
        name: [f"{name} of {video_id}" for video_id in video_ids]
        for name in ("group", "source_id", "sha256")
    }
    columns["cascade_ids"] = [[f"c {video_id}"] for video_id in video_ids]
    columns["fingerprint"] = [look(seed) for seed in range(len(video_ids))]
    return pl.DataFrame({"video_id": video_ids, **columns, **shared})


def leaks_of(places: dict[str, Place], index: pl.DataFrame) -> list[Leak]:
    return find_leaks(folds_of(places), index, CONFIG)


@pytest.mark.parametrize(
    "shared",
    [
        {"group": ["g", "h", "g"]},
        {"source_id": ["1", "2", "1"]},
        {"sha256": ["a", "b", "a"]},
        {"cascade_ids": [["x", "y"], ["z"], ["w", "x"]]},
        {"fingerprint": [look(7), look(8), look(7, CONFIG.fingerprint_distance)]},
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
        (("fold", 0, []), ("fold", None, [])),
        (("fold", None, [0]), ("fold", None, [])),
        (("locked", None, []), ("fold", None, [])),
    ],
)
def test_what_is_shared_between_parts_is_found(
    shared: dict[str, list[object]], one: Place, other: Place
) -> None:
    index = index_of(["f1", "r2", "f3"], **shared)
    third: Place = ("fold", 0, [])
    (leak,) = leaks_of({"f1": one, "r2": third, "f3": other}, index)
    assert leak.key == next(iter(shared))
    assert {leak.one.split()[0], leak.other.split()[0]} == {"f1", "f3"}, "the pair is not named"
    assert not leaks_of({"f1": one, "r2": third, "f3": one}, index)


def test_a_value_in_three_places_is_two_leaks() -> None:
    places: dict[str, Place] = {
        f"f{fold}{copy}": ("fold", fold, []) for fold in (0, 1, 2) for copy in "ab"
    }
    found = leaks_of(places, index_of(list(places), sha256=["same"] * 6))
    assert [(leak.one.split()[0], leak.other.split()[0]) for leak in found] == [
        ("f0a", "f1a"),
        ("f0a", "f2a"),
    ]


def test_every_pair_of_lookalikes_is_named() -> None:
    places: dict[str, Place] = {"f0": ("fold", 0, []), "f1": ("fold", 1, []), "f2": ("fold", 1, [])}
    found = leaks_of(places, index_of(list(places), fingerprint=[look(1), look(1, 9), look(1, 20)]))
    assert [str(leak) for leak in found] == [
        f"f0 (fold 0, validates []) and f{other} (fold 1, validates []) share fingerprint within "
        f"{CONFIG.fingerprint_distance} bits"
        for other in (1, 2)
    ]


def test_what_looks_different_may_be_anywhere() -> None:
    places: dict[str, Place] = {"f0": ("fold", 0, []), "f1": ("fold", 1, [])}
    far = CONFIG.fingerprint_distance + 1
    assert not leaks_of(places, index_of(list(places), fingerprint=[look(1), look(1, far)]))
    assert not leaks_of(places, index_of(list(places), fingerprint=[b"", b""]))


@pytest.mark.parametrize(
    "place", [("fold", 1, [0, 1]), ("locked", None, [0]), ("locked", 0, []), ("fold", None, [])]
)
def test_a_video_in_two_parts_by_itself_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="video f1 is in two parts"):
        leaks_of({"f1": place}, index_of(["f1"]))


def test_only_a_single_division_may_leave_a_video_untested() -> None:
    index = index_of(["f1", "f2", "f3"])
    places: dict[str, Place] = {
        "f1": ("fold", 0, []),
        "f2": ("fold", None, []),
        "f3": ("fold", None, [0]),
    }
    assert not leaks_of(places, index)
    with pytest.raises(ValueError, match="video f2 is in two parts of a fold, or in none"):
        leaks_of({**places, "f3": ("fold", 1, [0])}, index)


def test_a_video_without_a_place_or_with_two_is_refused() -> None:
    one = folds_of({"f1": ("fold", 0, [])})
    with pytest.raises(ValueError, match="different videos"):
        find_leaks(one, index_of(["f1", "f2"]), CONFIG)
    two = pl.concat([one, folds_of({"f1": ("fold", 1, [])})])
    with pytest.raises(ValueError, match="video f1 has two rows"):
        find_leaks(two, index_of(["f1", "f1"]), CONFIG)


NAMES = [f"{label}{cascade}{copy}" for label in "fr" for cascade in "abcdef" for copy in "01"]
INDEX = index_of(NAMES, cascade_ids=[[name[:2]] for name in NAMES])
LOCKED: Place = ("locked", None, [])


def test_a_lookup_wins_where_cascades_are_divided() -> None:
    places: dict[str, Place] = {name: ("fold", int(name[2]), []) for name in NAMES}
    places |= {name: LOCKED for name in NAMES if name[1] == "f"}
    found = {each.test: each for each in look_up_cascades(folds_of(places), INDEX)}
    assert {name: each.balanced_accuracy for name, each in found.items()} == {
        "fold 0": 1.0,
        "fold 1": 1.0,
        "locked": 0.5,
    }
    assert str(found["fold 0"].known[0]) == (
        "fa0 (tested) and fa1 (trained on) share cascade_ids fa"
    )
    assert len(found["fold 0"].known) == 10
    assert found["locked"].known == ()


def test_a_lookup_of_the_locked_test_wins_where_it_leaks() -> None:
    places: dict[str, Place] = {name: ("fold", "abcdef".index(name[1]) % 2, []) for name in NAMES}
    places |= {"fa0": LOCKED, "ra0": LOCKED, "fb0": LOCKED, "rb0": LOCKED}
    found = {
        each.test: each.balanced_accuracy for each in look_up_cascades(folds_of(places), INDEX)
    }
    assert found == {"fold 0": 0.5, "fold 1": 0.5, "locked": 1.0}


@pytest.mark.parametrize("single", [False, True])
def test_a_lookup_is_at_chance_to_the_last_digit_on_a_clean_split(single: bool) -> None:
    # More fakes than reals in one fold, so that majorities differ between folds.
    home = {name: "abcde".index(name[1]) if name[1] != "f" else None for name in NAMES}
    places: dict[str, Place] = {
        name: LOCKED if fold is None else ("fold", None if single and fold else fold % 2, [])
        for name, fold in home.items()
    }
    places |= {"rc0": places["ra0"], "rc1": places["ra0"]}
    found = look_up_cascades(folds_of(places), INDEX)
    assert len(found) == (2 if single else 3)
    assert {each.balanced_accuracy for each in found} == {0.5}


def test_guesses_follow_the_commonest_label() -> None:
    training = pl.DataFrame(
        {
            "cascade_ids": [["a"], ["a"], ["a", "b"], ["c"], ["d"]],
            "label": ["fake", "fake", "real", "real", "real"],
        }
    )
    asked = pl.DataFrame({"cascade_ids": [["a"], ["b"], ["a", "b"], ["x"], []]})
    assert guess_labels(training, asked) == ["fake", "real", "fake", "real", "real"]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published annotations are not here")
def test_the_published_corpus_leaks_under_a_random_split_and_not_under_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    benchmark = run_path(str(ROOT / "benchmarks/split_leakage.py"))
    benchmark["main"]([str(PUBLISHED), "--params", str(ROOT / "params.yaml"), "--seeds", "1"])
    random, ours = capsys.readouterr().out.splitlines()[2:]
    assert float(random.split()[-3].strip("%")) > 95
    lookup, majority, ratio = ours.split()[-3:]
    assert (lookup, ratio) == (majority, "1.00"), "a lookup without pixels beats the majority"
