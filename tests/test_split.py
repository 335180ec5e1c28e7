import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_tree import ROOT
from test_division import corpus as division_corpus

from fvc.annotations import read_annotations, ties
from fvc.config import SplitConfig, load_params
from fvc.errors import FvcError
from fvc.evidence.fold_outputs import HISTORY_COLUMNS, read_fold
from fvc.evidence.locked import locked_videos
from fvc.fold_videos import videos_of_fold
from fvc.groups import connected
from fvc.leakage import find_leaks
from fvc.protocol import folds_csv, folds_sha256
from fvc.records import FOLDS, INDEX, PREDICTIONS
from fvc.stages import register, split
from fvc.stages.augment import training_videos
from fvc.stages.split import count, divide

PARAMS = load_params(ROOT / "params.yaml")
CONFIG = PARAMS.split
SINGLE = replace(CONFIG, scheme="single", folds=(0,))
SCHEMES = pytest.mark.parametrize("config", [CONFIG, SINGLE], ids=["kfold", "single"])
PUBLISHED = ROOT.parent / "shared" / "fvc"


def corpus(seed: int, num_groups: int = 60) -> pl.DataFrame:
    """Groups of very different sizes, some with both labels."""
    generator = np.random.default_rng(seed)
    rows = []
    for group in range(num_groups):
        fakes = generator.choice([0.0, 0.1, 0.9, 1.0])
        for copy in range(min(int(generator.pareto(1.2)) + 1, 40)):
            label = "fake" if generator.random() < fakes else "real"
            platform = str(generator.choice(["facebook", "twitter", "youtube"], p=[0.4, 0.1, 0.5]))
            names = {"video_id": f"{platform}_{group}_{copy}", "group": f"g{group}"}
            rows.append({**names, "label": label, "platform": platform})
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
    outside = folds.filter(part="fold").filter(pl.col("fold").ne_missing(fold))
    validates = pl.col("validates").list.contains(fold)
    return {
        "train": outside.filter(~validates),
        "validation": outside.filter(validates),
        "test": folds.filter(pl.col("fold") == fold),
        "locked": folds.filter(part="locked"),
    }


@SCHEMES
@pytest.mark.parametrize("seed", range(12))
def test_the_parts_of_a_fold_share_nothing_and_leave_out_nothing(
    seed: int, config: SplitConfig
) -> None:
    videos = corpus(seed)
    folds = divide(videos, config, seed)
    assert sorted(folds["video_id"]) == sorted(videos["video_id"])
    for fold in config.folds:
        parts = parts_of(folds, fold)
        for column in ("video_id", "group"):
            values = [set(part[column]) for part in parts.values()]
            union: set[str] = set().union(*values)
            overlap = sum(map(len, values)) - len(union)
            assert overlap == 0, f"two parts of fold {fold} share a {column}"
        assert sum(map(len, parts.values())) == len(videos)
        for name, part in parts.items():
            assert set(part["label"]) == {"fake", "real"}, f"{name} lacks a label"


def test_the_folds_are_those_of_every_version_so_far() -> None:
    """Another hash makes runs of the same corpus incomparable: change it with a reason."""
    made = folds_sha256(divide(division_corpus(0), CONFIG, 0))
    assert made == "06f13ef59b3e20aa63a16d1bd59724d3bac2ddcf899d5a2c833a8b03d057e906"


def test_every_open_video_is_tested_by_one_of_several_folds() -> None:
    folds = divide(corpus(0), CONFIG, 0)
    tested = folds["fold"].drop_nulls().to_list()
    assert len(tested) == len(folds.filter(part="fold")), "a video is never tested"


def test_a_single_division_tests_its_share_and_trains_on_the_rest() -> None:
    folds = divide(corpus(0, num_groups=200), SINGLE, 0)
    sizes = {name: len(part) for name, part in parts_of(folds, 0).items()}
    open_videos = len(folds) - sizes["locked"]
    assert folds["fold"].unique().to_list() in ([0, None], [None, 0])
    assert sizes["test"] == pytest.approx(SINGLE.test_share * open_videos, rel=0.05)
    rest = open_videos - sizes["test"]
    assert sizes["validation"] == pytest.approx(SINGLE.validation_share * rest, rel=0.05)


@SCHEMES
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 3), order=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(seed: int, order: int, config: SplitConfig) -> None:
    videos = corpus(seed, num_groups=30)
    shuffled = videos.sample(fraction=1.0, shuffle=True, seed=order)
    assert divide(videos, config, 0).equals(divide(shuffled, config, 0))


@SCHEMES
def test_another_seed_gives_another_split(config: SplitConfig) -> None:
    videos = corpus(0)
    assert not divide(videos, config, 0).equals(divide(videos, config, 1))


def test_the_locked_test_is_the_same_under_both_schemes() -> None:
    locked = [
        divide(corpus(0), config, 0).filter(part="locked")["video_id"].to_list()
        for config in (CONFIG, SINGLE)
    ]
    assert locked[0] == locked[1], "a video that one scheme locks is trained on by the other"


def test_shares_are_kept_for_both_labels() -> None:
    videos = pl.DataFrame(
        [
            {
                "video_id": f"{label}{n}",
                "group": f"{label}{n}",
                "label": label,
                "platform": "youtube",
            }
            for label, number in (("fake", 200), ("real", 100))
            for n in range(number)
        ]
    )
    counts = count(divide(videos, CONFIG, 0), CONFIG.folds)
    assert counts["locked"] == {"groups": 45, "fake": 30, "real": 15}
    for fold in counts["folds"]:
        assert fold["test"] == {"groups": 51, "fake": 34, "real": 17}
        assert fold["validation"]["fake"] in (27, 28)
        assert fold["validation"]["real"] in (13, 14)
        assert fold["train"]["fake"] == 170 - 34 - fold["validation"]["fake"]


def test_every_reader_takes_a_single_division(tmp_path: Path) -> None:
    folds = divide(corpus(0), SINGLE, 0)
    parts = {name: sorted(part["video_id"]) for name, part in parts_of(folds, 0).items()}
    read = videos_of_fold(folds.iter_rows(named=True), 0)
    assert {name: list(videos) for name, videos in read.items()} == {
        name: parts[name] for name in ("train", "validation", "test")
    }
    assert training_videos(folds) == parts["train"]
    index = folds.select("video_id", sha256=pl.lit("0"))
    assert locked_videos(folds, index, tmp_path)["video_id"].to_list() == parts["locked"]
    assert count(folds, SINGLE.folds)["folds"][0]["train"]["groups"] == len(
        set(folds.filter(pl.col("video_id").is_in(parts["train"]))["group"])
    )
    assert len(folds_csv(folds).splitlines()) == len(folds) + 1
    labels = dict(folds.select("video_id", "label").iter_rows())
    rows: list[dict[str, object]] = [
        {
            **{"video_id": video_id, "fold": 0, "part": part, "label": labels[video_id]},
            **{"probability_fake": 0.5, "logit": 0.0, "num_clips": 1},
        }
        for part, videos in read.items()
        for video_id in videos
    ]
    PREDICTIONS.write(tmp_path / "0/predictions.parquet", PREDICTIONS.frame(rows))
    pl.DataFrame({name: [1] for name in HISTORY_COLUMNS}).write_csv(tmp_path / "0/history.csv")
    fold = read_fold(tmp_path, 0, folds.filter(part="fold"))
    assert sorted(fold.part("test")["video_id"]) == parts["test"]
    assert register.best_fold(tmp_path, SINGLE.folds) == 0


def run(tmp_path: Path, index: pl.DataFrame, config: SplitConfig = CONFIG) -> None:
    INDEX.write(tmp_path / "index.parquet", index)
    split.run(
        replace(PARAMS, split=config),
        index=tmp_path / "index.parquet",
        probes=tmp_path / "probes",
        folds=tmp_path / "folds.parquet",
        summary=tmp_path / "split.json",
    )


def test_the_stage_writes_folds_and_counts(tmp_path: Path) -> None:
    run(tmp_path, index_of(corpus(0)))
    folds = FOLDS.read(tmp_path / "folds.parquet")
    summary = json.loads((tmp_path / "split.json").read_text())
    for number, fold in enumerate(summary["folds"]):
        for name, part in parts_of(folds, number).items():
            counted = summary["locked"] if name == "locked" else fold[name]
            assert counted == {
                "groups": part["group"].n_unique(),
                "fake": len(part.filter(label="fake")),
                "real": len(part.filter(label="real")),
            }
    fakes = [str(fold["validation"]["fake"]) for fold in summary["folds"]]
    assert summary["validation"]["fake"] == " ".join(fakes)
    assert summary["audit"] == {"leaks": 0, "cascade_lookup_balanced_accuracy": 0.5}
    written = (tmp_path / "folds.parquet").read_bytes()
    run(tmp_path, index_of(corpus(0)).reverse())
    assert (tmp_path / "folds.parquet").read_bytes() == written


def test_dvc_shows_the_counts_in_few_columns(tmp_path: Path) -> None:
    def columns(value: Any) -> int:
        # What DVC takes from a file of metrics: mappings, and numbers and texts in them.
        if isinstance(value, dict):
            return sum(map(columns, value.values()))
        return 0 if isinstance(value, list) else 1

    run(tmp_path, index_of(corpus(0)))
    summary = json.loads((tmp_path / "split.json").read_text())
    assert columns(summary) == 11
    run(tmp_path, index_of(corpus(0)), SINGLE)
    single = json.loads((tmp_path / "split.json").read_text())
    assert single["test"] == {
        label: single["folds"][0]["test"][label] for label in ("fake", "real")
    }
    assert columns(single) == 11


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        (corpus(0, num_groups=8), r"\d groups .* are mostly \w+; 5 folds need 5\. Shorten split"),
        (corpus(0).filter(label="fake"), r"0 groups .* are mostly real; .*\. Add videos"),
        (corpus(0).clear(), r"its 0 groups cannot be divided.*\. Add videos"),
    ],
)
def test_too_few_groups_are_one_line(tmp_path: Path, videos: pl.DataFrame, message: str) -> None:
    with pytest.raises(FvcError, match=message) as caught:
        run(tmp_path, index_of(videos))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "folds.parquet").exists()


def test_too_few_groups_for_a_single_division_are_one_line(tmp_path: Path) -> None:
    videos = corpus(0, num_groups=4)
    with pytest.raises(FvcError, match=r"training, validation and test need 3\. Add videos\."):
        run(tmp_path, index_of(videos), SINGLE)


def same_bytes(index: pl.DataFrame) -> pl.DataFrame:
    return index.with_columns(sha256=pl.lit("same bytes"))


def same_look(index: pl.DataFrame) -> pl.DataFrame:
    """One video of each of ten groups looks the same; the others show nothing."""
    look = np.random.default_rng(0).bytes(32 * 4)
    chosen = index["video_id"].is_in(index.unique("group").sort("group").head(10)["video_id"])
    return index.with_columns(fingerprint=pl.when(chosen).then(pl.lit(look)).otherwise(pl.lit(b"")))


@SCHEMES
@pytest.mark.parametrize(
    ("share", "named"), [(same_bytes, "share sha256 same bytes"), (same_look, "share fingerprint")]
)
def test_a_leak_stops_the_stage_and_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    share: Callable[[pl.DataFrame], pl.DataFrame],
    named: str,
    config: SplitConfig,
) -> None:
    with pytest.raises(FvcError, match=rf"leaks \d+ times: \w+ .* {named}"):
        run(tmp_path, share(index_of(corpus(3))), config)
    assert named in capsys.readouterr().err, "not every pair is listed"
    assert not (tmp_path / "folds.parquet").exists(), "a leaking split was written"


def test_a_lookup_above_chance_stops_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "find_leaks", lambda *_, **__: [])
    index = index_of(corpus(0)).with_columns(cascade_ids=pl.concat_list("label"))
    with pytest.raises(FvcError, match=r"a lookup of cascades has 1.000 .* than 0.01 above chance"):
        run(tmp_path, index)
    assert "(tested) and " in capsys.readouterr().err
    assert not (tmp_path / "folds.parquet").exists(), "a leaking split was written"


def published() -> pl.DataFrame:
    """The real corpus as its annotations tell of it."""
    annotations = read_annotations(PUBLISHED)
    videos = annotations.videos
    groups = connected(ties(annotations))
    return pl.DataFrame(
        [
            {
                **{
                    "video_id": video_id,
                    "group": groups[video_id],
                    "label": next(iter(video.labels)),
                },
                **{"platform": video.platform, "source_id": video.source_id},
                "cascade_ids": sorted(video.cascades),
            }
            for video_id, video in videos.items()
            if video.labels in ({"fake"}, {"real"})
        ]
    )


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published annotations are not here")
@SCHEMES
def test_twenty_seeds_divide_the_published_corpus_evenly_and_without_overlap(
    config: SplitConfig,
) -> None:
    index = index_of(published())
    whole = index.select("label", "platform")
    for seed in range(20):
        folds = divide(index, config, seed)
        assert find_leaks(folds, index, PARAMS.index) == []
        placed = folds.join(index.select("video_id", "platform"), on="video_id")
        locked = placed.filter(part="locked")
        num_groups = 0.15 * index["group"].n_unique()
        assert locked["group"].n_unique() == pytest.approx(num_groups, abs=1)
        assert locked.height == pytest.approx(0.15 * index.height, rel=0.3)
        for fold in config.folds:
            test = parts_of(placed, fold)["test"]
            share = 0.2 * (index.height - locked.height)
            assert test.height == pytest.approx(share, rel=0.01)
            for column in ("label", "platform"):
                expected = whole[column].value_counts(normalize=True)
                for name, proportion in expected.iter_rows():
                    assert (test[column] == name).mean() == pytest.approx(proportion, abs=0.05)
