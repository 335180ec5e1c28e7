"""The whole corpus in small: its real annotations, and for each video a tiny one of its own."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from indexing import flags
from measuring import run_measured
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fvc.annotations import AnnotatedVideo, locate, platforms_by_id, read_annotations
from fvc.config import load_params
from fvc.encoding import encode
from fvc.leakage import find_leaks
from fvc.records import INDEX, REJECTED
from fvc.stages.split import divide

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")
# A folder beside the repository, with the annotations of the Fake Video Corpus.
SHARED = ROOT.parent / "shared" / "fvc"
FILES = ("FVC.csv", "FVC_dup.csv")
MAX_BYTES = 1.5e9
NEW_ID = "newcomer_01"


def write_video(path: Path, number: int) -> None:
    """Two seconds of a pattern that no other video has: independent in every coarse frequency."""
    blocks = np.random.default_rng(number).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    frame = blocks.repeat(2, axis=0).repeat(2, axis=1).repeat(3, axis=2)
    encode(path, [frame] * 4, codec="mpeg4", fps=2)


def path_of(video: AnnotatedVideo, number: int, platforms: Mapping[str, list[str]]) -> str:
    """Where the corpus has it; all three subsets occur, and both forms of a path."""
    short = f"FVC{2 + number % 2}/{video.source_id}/video.mp4"
    if number % 3 and locate(short, platforms) == (video.platform, video.source_id):
        return short
    return f"FVC1/{video.platform}/{video.source_id}/video.mp4"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"there is no {SHARED}")
    root = tmp_path_factory.mktemp("scale")
    (root / "annotations").mkdir()
    for name in FILES:
        shutil.copy(SHARED / name, root / "annotations" / name)
    videos = read_annotations(root / "annotations").videos
    platforms = platforms_by_id(videos)
    for number, video in enumerate(videos.values()):
        write_video(root / "videos" / path_of(video, number, platforms), number)
    return root


def components(videos: Mapping[str, AnnotatedVideo]) -> dict[str, int]:
    """Which videos belong together by the annotations alone: equal cascades, equal source ids."""
    links = [
        (row, key)
        for row, video in enumerate(videos.values())
        for key in [*(("cascade", name) for name in video.cascades), ("id", video.source_id)]
    ]
    keys = {key: len(videos) + place for place, key in enumerate({key for _, key in links})}
    rows, columns = [row for row, _ in links], [keys[key] for _, key in links]
    size = len(videos) + len(keys)
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(size, size))
    _, names = connected_components(graph, directed=False)
    return dict(zip(videos, names[: len(videos)].tolist(), strict=True))


SPLIT_FLAGS = (
    *("--index", "index.parquet", "--probes", "probes"),
    *("--folds", "folds.parquet", "--summary", "split.json"),
)


@pytest.mark.slow
def test_the_whole_corpus_is_indexed_and_divided_in_little_time_and_memory(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = read_annotations(corpus / "annotations").videos
    assert len(videos) > 5000
    lines = []
    for command, given in (("index", flags(corpus, corpus)), ("split", SPLIT_FLAGS)):
        measured = run_measured(corpus, command, *given)
        assert measured.peak_bytes < MAX_BYTES, measured
        lines.append(str(measured))
    table = INDEX.read(corpus / "index.parquet")
    expected = components(videos)
    assert len(set(expected.values())) == 376
    check_groups(dict(table.select("video_id", "group").iter_rows()), expected, videos)
    rejected = REJECTED.read(corpus / "rejected.csv")
    assert sorted([*table["video_id"], *rejected["video_id"]]) == sorted(videos)
    # Stage split has compared the fingerprints, and no seed changes the groups.
    faceless = table.with_columns(fingerprint=pl.lit(b""))
    for seed in range(20):
        leaks = find_leaks(divide(table, PARAMS.split, seed), faceless, PARAMS.index)
        assert not leaks, f"seed {seed}: {leaks[0]}"
    before = {path: path.stat().st_mtime_ns for path in (corpus / "probes").glob("*.json")}
    add_video(corpus)
    measured = run_measured(corpus, "index", *flags(corpus, corpus))
    lines.append(f"one more video, {measured}")
    assert " 1/1 " in measured.said, "more than the new file was read"
    after = {path: path.stat().st_mtime_ns for path in (corpus / "probes").glob("*.json")}
    assert len(after) == len(before) + 1
    assert after.items() >= before.items(), "a file was probed again"
    assert len(INDEX.read(corpus / "index.parquet")) == len(table) + 1
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def check_groups(
    groups: Mapping[str, str], expected: Mapping[str, int], videos: Mapping[str, AnnotatedVideo]
) -> None:
    """Videos are in one group exactly where the annotations put them together."""
    usable = {name for name, video in videos.items() if video.labels in ({"real"}, {"fake"})}
    assert groups.keys() == usable
    found, wanted = defaultdict(set), defaultdict(set)
    for name in usable:
        found[groups[name]].add(name)
        wanted[expected[name]].add(name)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, wanted.values()))


def add_video(root: Path) -> None:
    write_video(root / f"videos/FVC1/youtube/{NEW_ID}/video.mp4", 10**6)
    with (root / "annotations/FVC_dup.csv").open("a", encoding="utf-8") as stream:
        stream.write(f"r_new,https://www.youtube.com/watch?v={NEW_ID},real\n")
