import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import psutil
import pytest
from indexing import OUTPUTS, flags, places
from running_here import run_here

from fvc import matching, probing
from fvc.__main__ import main
from fvc.annotations import read_annotations
from fvc.config import load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.files import read_json, sha256_of_file
from fvc.matching import list_files
from fvc.pool import Failure
from fvc.records import INDEX, NEAR_DUPLICATES, REJECTED
from fvc.stages import index

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")
YOUTUBE = "https://www.youtube.com/watch?v="
FACEBOOK = "https://www.facebook.com/page/videos/"

ROWS = [
    ("f9", YOUTUBE + "original_01", "fake"),
    ("f10", FACEBOOK + "1001/", "fake"),  # the original again, smaller, in another cascade
    ("f11", FACEBOOK + "1002/", "fake"),  # the bytes of original_01
    ("r1", YOUTUBE + "stranger_01", "real"),
    ("r2", YOUTUBE + "stranger_01", "real"),  # joins r2 to r1
    ("r2", FACEBOOK + "1003/", "real"),
    ("r3", FACEBOOK + "1004/", "Real "),  # on disk twice
    ("r4", FACEBOOK + "404/", "real"),  # not on disk
    ("r5", FACEBOOK + "1005/", "real"),  # one frame
    ("r6", FACEBOOK + "1006/", "real"),  # no bytes
    ("r7", FACEBOOK + "1007/", "real"),  # not a video
    ("f1", FACEBOOK + "1008/", "fake"),
    ("r1", FACEBOOK + "1008/", "real"),
    ("f2", FACEBOOK + "1009/", "parody"),
    ("f3", FACEBOOK + "1010/", "hoax"),
    ("f4", "https://vimeo.com/1011", "fake"),
]
FILES: dict[str, int | bytes] = {
    "FVC1/youtube/original_01/video.mp4": 1,
    "FVC1/youtube/stranger_01/video.mkv": 2,
    "FVC1/youtube/unlisted_01/video.mp4": b"never opened",
    "FVC2/1001/video.webm": 1,
    "FVC2/1002/video.mp4": 1,
    "FVC2/1003/video.mp4": 3,
    "FVC2/1004/video.mp4": 4,
    "FVC3/1004/video.mp4": 4,
    "FVC3/1005/video.mp4": 5,
    "FVC3/1006/video.mp4": b"",
    "FVC3/1007/video.mp4": b"<html>not found</html>" * 50,
    "FVC3/1008/video.mp4": b"never opened",
    "FVC3/1009/video.mp4": b"never opened",
    "FVC3/1009/thumbnail.jpg": b"never opened",
}
REASONS = {
    "404": "missing",
    "1005": "too_short",
    "1006": "empty",
    "1007": "not_a_video",
    "1008": "conflicting_labels",
    "1009": "excluded_label",
    "1010": "unknown_label",
}


def write_video(path: Path, seed: int) -> None:
    num_frames = 1 if seed == 5 else 20
    blocks = np.random.default_rng(seed).integers(0, 256, (num_frames, 6, 8, 3), dtype=np.uint8)
    factor = 12 if path.suffix == ".webm" else 16
    frames = list(blocks.repeat(factor, axis=1).repeat(factor, axis=2))
    codec = "libvpx-vp9" if path.suffix == ".webm" else "libx264"
    encode(path, frames, fps=10, container=path.suffix[1:], codec=codec)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    for name, content in FILES.items():
        path = root / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            write_video(path, content)
    lines = [",".join(row) for row in ROWS]
    header = "cascade_id,video_url,label"
    (root / "annotations").mkdir()
    (root / "annotations/FVC.csv").write_text("\n".join([header, *lines[:5]]), encoding="utf-8")
    (root / "annotations/FVC_dup.csv").write_text("\n".join([header, *lines[5:]]), encoding="utf-8")
    return root


def run(corpus: Path, out: Path, **changes: Any) -> None:
    index.run(
        replace(PARAMS, index=replace(PARAMS.index, **changes)),
        **places(corpus, out),
    )


@pytest.fixture(scope="module")
def indexed(corpus: Path) -> Path:
    run(corpus, corpus / "work")
    return corpus / "work"


def test_every_video_and_file_is_in_exactly_one_table(corpus: Path, indexed: Path) -> None:
    table, rejected = INDEX.read(indexed / "index.parquet"), REJECTED.read(indexed / "rejected.csv")
    annotated = read_annotations(corpus / "annotations").videos.keys()
    ids = [*table["video_id"], *rejected["video_id"].drop_nulls()]
    assert len(ids) == len(set(ids)), "a video has two rows"
    assert set(ids) == {*annotated, "youtube_unlisted_01"}
    paths = [*table["path"], *rejected["path"].drop_nulls()]
    assert sorted(paths) == sorted(FILES)


def test_each_rejection_has_its_reason(indexed: Path) -> None:
    rejected = REJECTED.read(indexed / "rejected.csv")
    named = dict(rejected.drop_nulls("video_id").select("video_id", "reason").iter_rows())
    expected = {f"facebook_{source_id}": reason for source_id, reason in REASONS.items()}
    assert named == {**expected, "youtube_unlisted_01": "not_annotated"}
    unnamed = rejected.filter(rejected["video_id"].is_null())
    assert set(unnamed.select("path", "reason").iter_rows()) == {
        ("FVC3/1004/video.mp4", "duplicate_file"),
        ("FVC3/1009/thumbnail.jpg", "not_annotated"),
        (None, "unparsable_url"),
    }
    assert set(rejected["reason"]) <= set(matching.REASONS)


def test_rows_say_what_the_files_are(indexed: Path) -> None:
    table = INDEX.read(indexed / "index.parquet")
    rows = {row["video_id"]: row for row in table.iter_rows(named=True)}
    small = rows["facebook_1001"]
    assert (small["subset"], small["platform"], small["source_id"]) == ("FVC2", "facebook", "1001")
    assert (small["width"], small["height"], small["frames"]) == (96, 72, 20)
    assert (small["codec"], small["label"], small["cascade_ids"]) == ("vp9", "fake", ["f10"])
    assert rows["youtube_stranger_01"]["cascade_ids"] == ["r1", "r2"]
    again = rows["facebook_1004"]
    assert (again["label"], again["raw_label"]) == ("real", "Real")


def test_related_videos_are_one_group(indexed: Path) -> None:
    groups = dict(INDEX.read(indexed / "index.parquet").select("video_id", "group").iter_rows())
    assert groups == {
        "youtube_original_01": "f9",
        "facebook_1001": "f9",  # looks the same
        "facebook_1002": "f9",  # has the same bytes
        # 1008 cannot be used, and still ties f1 to r1
        "youtube_stranger_01": "f1",
        "facebook_1003": "f1",
        "facebook_1004": "r3",
    }


def test_equal_titles_are_one_group(corpus: Path, indexed: Path, tmp_path: Path) -> None:
    copytree(corpus / "annotations", tmp_path / "annotations")
    copytree(indexed / "probes", tmp_path / "probes")
    (tmp_path / "videos").symlink_to(corpus / "videos")
    titles = "cascade_id,event_title,french\nf11,A crash,a\nr3,a  CRASH,with,commas\nr9,A crash,a\n"
    (tmp_path / "annotations/FVC_text_queries.csv").write_text(titles, encoding="utf-8")
    run(tmp_path, tmp_path)
    groups = dict(INDEX.read(tmp_path / "index.parquet").select("video_id", "group").iter_rows())
    assert groups["facebook_1004"] == groups["facebook_1002"] == "f9"
    assert len(set(groups.values())) == 2
    assert read_json(tmp_path / "index.json", "index")["annotations"]["cascades_with_title"] == 3


def test_the_published_index_is_the_index(indexed: Path) -> None:
    table = INDEX.read(indexed / "index.parquet")
    rows = json.loads((indexed / "index_rows.json").read_text(encoding="utf-8"))
    read = [{**row, "fingerprint": bytes.fromhex(row["fingerprint"])} for row in rows]
    assert read == table.to_dicts()
    with (indexed / "index.csv").open(newline="", encoding="utf-8") as stream:
        written = list(csv.DictReader(stream))
    assert list(written[0]) == table.columns
    for row, expected in zip(written, table.iter_rows(named=True), strict=True):
        assert json.loads(row["cascade_ids"]) == expected["cascade_ids"]
        assert bytes.fromhex(row["fingerprint"]) == expected["fingerprint"]
        assert float(row["duration_s"]) == expected["duration_s"]
        assert row["sha256"] == expected["sha256"]


def test_near_duplicates_across_cascades_are_listed_with_their_distance(indexed: Path) -> None:
    """Not those of `r1` and `r2`, which share a video and look different."""
    table = NEAR_DUPLICATES.read(indexed / "near_duplicates.csv")
    rows = {(row[0], row[1]): row[2:] for row in table.iter_rows()}
    assert rows.keys() == {
        ("facebook_1001", "facebook_1002"),
        ("facebook_1001", "youtube_original_01"),
        ("facebook_1002", "youtube_original_01"),
    }
    assert rows["facebook_1002", "youtube_original_01"] == ("f11", "f9", 1.0, 0.0), "equal bytes"
    *cascades, share, distance = rows["facebook_1001", "youtube_original_01"]
    assert (cascades, share) == (["f10", "f9"], 1.0)
    assert 0 < distance <= PARAMS.index.fingerprint_distance


def test_counts_add_up(indexed: Path) -> None:
    summary = read_json(indexed / "index.json", "index")
    facebook = summary["availability"]["facebook"]
    assert facebook["real"] == {"annotated": 6, "on_disk": 5, "usable": 2}
    assert facebook["fake/real"] == {"annotated": 1, "on_disk": 1, "usable": 0}
    assert facebook["unknown"] == {"annotated": 1, "on_disk": 0, "usable": 0}
    annotated = [
        counts["annotated"] for by in summary["availability"].values() for counts in by.values()
    ]
    assert sum(annotated) == summary["annotations"]["videos"] == 13
    assert summary["annotations"]["rows"] == {"FVC.csv": 5, "FVC_dup.csv": 11}
    assert summary["availability"]["youtube"]["fake"]["usable"] == 1
    assert summary["videos"] == 6
    assert summary["groups"] == 3
    rejected = REJECTED.read(indexed / "rejected.csv")
    assert sum(summary["rejected"].values()) == len(rejected)


def test_a_second_run_gives_equal_bytes_and_reads_nothing(
    corpus: Path, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(indexed / "probes", tmp_path / "probes")

    def refuse(file: Path) -> str:
        raise AssertionError(f"{file} was read again")

    monkeypatch.setattr(index, "run_isolated", run_here)
    monkeypatch.setattr(probing, "sha256_of_file", refuse)
    run(corpus, tmp_path)
    for name in ("index.parquet", "rejected.csv", "index.json", "index.csv", "index_rows.json"):
        assert (tmp_path / name).read_bytes() == (indexed / name).read_bytes(), name


def test_a_touched_file_is_read_but_not_probed(
    corpus: Path, indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(indexed / "probes", tmp_path / "probes")
    touched = corpus / "videos/FVC2/1003/video.mp4"
    touched.touch()
    read = []

    def watch(file: Path) -> str:
        read.append(file)
        return sha256_of_file(file)

    def refuse(file: Path) -> None:
        raise AssertionError(f"{file} was probed again")

    monkeypatch.setattr(index, "run_isolated", run_here)
    monkeypatch.setattr(probing, "sha256_of_file", watch)
    monkeypatch.setattr(probing, "probe", refuse)
    run(corpus, tmp_path)
    assert read == [touched]
    run(corpus, tmp_path)
    assert read == [touched], "the new time was not kept"
    for name in ("index.parquet", "rejected.csv", "index.json"):
        assert (tmp_path / name).read_bytes() == (indexed / name).read_bytes(), name


@pytest.mark.parametrize("reason", ["timeout", "crashed"])
def test_a_lost_worker_costs_one_video(
    corpus: Path, tmp_path: Path, reason: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_one(
        function: Any, items: Sequence[Path], **_: object
    ) -> Iterator[tuple[Path, object]]:
        for item in items:
            lost = item.parent.name == "1003"
            yield item, Failure(reason, "lost") if lost else function(item)

    monkeypatch.setattr(index, "run_isolated", lose_one)
    run(corpus, tmp_path)
    rejected = REJECTED.read(tmp_path / "rejected.csv").filter(video_id="facebook_1003")
    assert rejected.row(0) == ("facebook_1003", "FVC2/1003/video.mp4", reason, "lost")
    assert len(INDEX.read(tmp_path / "index.parquet")) == 5
    monkeypatch.setattr(index, "run_isolated", run_here)
    monkeypatch.setattr(probing, "probe", None)
    run(corpus, tmp_path)
    assert len(INDEX.read(tmp_path / "index.parquet")) == 5, "an unchanged file was tried again"
    monkeypatch.undo()
    run(corpus, tmp_path, timeout_s=PARAMS.index.timeout_s + 1)
    assert len(INDEX.read(tmp_path / "index.parquet")) == 6, "a limit was raised to no effect"


def test_an_error_of_a_worker_is_not_swallowed(corpus: Path, indexed: Path, tmp_path: Path) -> None:
    copytree(indexed / "probes", tmp_path / "probes")
    kept = sorted((tmp_path / "probes").glob("*.json"))[0]
    kept.write_text("{ cut off")
    with pytest.raises(FvcError, match=f"{kept.name}: is no JSON"):
        run(corpus, tmp_path)
    assert not (tmp_path / "index.parquet").exists()


def test_a_missing_folder_names_the_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"nowhere: is missing\. Run 'dvc repro extract'"):
        list_files(tmp_path / "nowhere")


def test_annotations_without_their_columns_are_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FVC.csv").write_text("id,url\n1,2\n", encoding="utf-8")
    given = [*flags(corpus, tmp_path), "--annotations", str(tmp_path)]
    assert main(["index", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/FVC.csv: has no column cascade_id, label")
    assert [path.name for path in tmp_path.iterdir()] == ["FVC.csv"], "something was written"


NUM_VIDEOS = 36


def start_index(corpus: Path, out: Path) -> subprocess.Popen[str]:
    out.mkdir(exist_ok=True)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "fvc", "index", "--params", str(ROOT / "params.yaml")),
            *flags(corpus, out),
        ],
        cwd=out,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kept_probes(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "probes").glob("*.json")}


def kill_index(corpus: Path, out: Path, generator: np.random.Generator, *, whole: bool) -> int:
    """Kill a run when it has kept a random number of findings; how it ended."""
    wanted = int(generator.integers(NUM_VIDEOS))
    running = start_index(corpus, out)
    while running.poll() is None and len(kept_probes(out)) < wanted:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.02 if wanted else 2))
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(running.pid).children(recursive=True)
        if whole:
            os.killpg(running.pid, signal.SIGKILL)
        else:
            running.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive, "a worker outlives the run"
    running.communicate()
    return running.returncode


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_repeats_nothing_and_ends_the_same(
    tmp_path: Path,
) -> None:
    rows = ["cascade_id,video_url,label"]
    for number in range(NUM_VIDEOS):
        path = tmp_path / f"videos/FVC2/{number}/video.mp4"
        path.parent.mkdir(parents=True)
        if number % 6 == 5:
            path.write_bytes(b"no video" * (number + 1))
        else:
            write_video(path, 100 + number)
        label = "fake" if number % 2 else "real"
        rows.append(f"{label[0]}{number},{FACEBOOK}{number}/,{label}")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/FVC.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "annotations/FVC_dup.csv").write_text(rows[0], encoding="utf-8")
    _, said = start_index(tmp_path, tmp_path / "undisturbed").communicate()
    assert f" {NUM_VIDEOS}/{NUM_VIDEOS} " in said
    generator = np.random.default_rng(0)
    killed = 0
    for attempt in range(30):
        out = tmp_path / f"killed_{attempt}"
        killed += kill_index(tmp_path, out, generator, whole=attempt % 2 == 0) == -signal.SIGKILL
        kept = kept_probes(out)
        again = start_index(tmp_path, out)
        _, said = again.communicate()
        assert again.returncode == 0, said
        left = NUM_VIDEOS - len(kept)
        assert f" {left}/{left} " in said or not left, "a finished file was given to a worker"
        assert kept_probes(out).items() >= kept.items(), "a finished file was probed again"
        for name in OUTPUTS.values():
            undisturbed = (tmp_path / "undisturbed" / name).read_bytes()
            assert (out / name).read_bytes() == undisturbed, name
        if killed == 10:
            break
    assert killed == 10, "most runs had ended before they were killed"
