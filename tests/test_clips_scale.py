"""Stages clips and augment on two thousand short videos: memory, work repeated, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from measuring import ROOT, Measured, run_measured

from fvc.encoding import encode
from fvc.files import sha256_of_file
from fvc.records import FOLDS, INDEX

NUM_CONTENTS = 20
MANY, FEW, KILLED = 2000, 200, 120
NUM_KILLS = 10
CLIPS_FLAGS = (
    *("--videos", "videos", "--index", "index.parquet"),
    *("--clips", "clips", "--summary", "clips.json"),
)
AUGMENT_FLAGS = ("--clips", "clips", "--folds", "folds.parquet", "--augmented", "augmented")
STAGES = {"clips": CLIPS_FLAGS, "augment": AUGMENT_FLAGS}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("contents")
    for number in range(NUM_CONTENTS):
        generator = np.random.default_rng(number)
        size = generator.integers(16, 60, 2) * 2
        frames = generator.integers(0, 256, (12, *size, 3), dtype=np.uint8)
        encode(folder / f"{number}.mp4", list(frames))
    return sorted(folder.iterdir())


def make_corpus(root: Path, contents: list[Path], count: int) -> None:
    """As many videos, in files of their own, with an index and a division into folds."""
    hashes = {content: sha256_of_file(content) for content in contents}
    empty: dict[str, object] = dict.fromkeys(INDEX.columns)
    rows, folds = [], []
    for number in range(count):
        content = contents[number % len(contents)]
        path = root / "videos" / f"v{number}" / "video.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.link(content, path)
        told: dict[str, object] = {
            "video_id": f"youtube_v{number:04}",
            "label": ("real", "fake")[number % 2],
        }
        found = {"path": f"v{number}/video.mp4", "sha256": hashes[content]}
        rows.append(empty | told | found)
        place = {"group": f"g{number}", "part": "fold", "fold": number % 2, "validates": []}
        folds.append(told | place)
    INDEX.write(root / "index.parquet", INDEX.frame(rows))
    FOLDS.write(root / "folds.parquet", FOLDS.frame(folds))


def written(root: Path) -> dict[str, int]:
    files = [file for name in ("clips", "augmented") for file in (root / name).glob("*.pt")]
    return {f"{file.parent.name}/{file.name}": file.stat().st_mtime_ns for file in files}


def outputs(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in [*written(root), "clips.json"]}


@pytest.mark.slow
def test_two_thousand_videos_take_the_memory_of_two_hundred_and_are_decoded_once(
    contents: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    peaks: dict[str, list[int]] = {stage: [] for stage in STAGES}
    many = tmp_path / "many"
    for count, root in ((FEW, tmp_path / "few"), (MANY, many)):
        make_corpus(root, contents, count)
        for stage, flags in STAGES.items():
            measured = run_measured(root, stage, *flags)
            assert f" {count}/{count} " in measured.said
            peaks[stage].append(measured.peak_bytes)
            lines.append(f"{count} videos, {measured}")
    for stage, (few_bytes, many_bytes) in peaks.items():
        assert many_bytes < 1.1 * few_bytes, f"the memory of {stage} grows with the corpus"
    before = written(many)
    for stage, flags in STAGES.items():
        lines.append(f"again, {run_and_expect(many, stage, flags, ' 0 videos ')}")
    assert written(many) == before, "a file is written again"
    make_corpus(many, contents, MANY + 1)
    for stage, flags in STAGES.items():
        lines.append(f"one more video, {run_and_expect(many, stage, flags, ' 1/1 ')}")
    after = written(many)
    assert len(after) == len(before) + 2
    assert after.items() >= before.items(), "one more video costs more than one decode"
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    shutil.rmtree(tmp_path)


def run_and_expect(root: Path, stage: str, flags: tuple[str, ...], progress: str) -> Measured:
    measured = run_measured(root, stage, *flags)
    assert progress in measured.said, f"more was done than necessary: {measured.said}"
    return measured


def start(root: Path, stage: str) -> subprocess.Popen[str]:
    arguments = ["--params", str(ROOT / "params.yaml"), *STAGES[stage]]
    return subprocess.Popen(
        [sys.executable, "-m", "fvc", stage, *arguments],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_ten_times_at_random_the_result_is_the_same(
    contents: list[Path], tmp_path: Path, stage: str
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for root in (whole, killed):
        make_corpus(root, contents, KILLED)
        run_measured(root, "clips", *CLIPS_FLAGS)
    run_measured(whole, "augment", *AUGMENT_FLAGS)
    folder = killed / ("clips" if stage == "clips" else "augmented")
    generator = np.random.default_rng(0)
    deaths = 0
    for _ in range(5 * NUM_KILLS):
        if deaths == NUM_KILLS:
            break
        # What is there already shortens a run until nothing is left to kill.
        kept = sorted(folder.glob("*.pt"))
        for file in kept[: -len(kept) // 3]:
            file.unlink()
        survivors = written(killed)
        running = start(killed, stage)
        until = len(list(folder.glob("*.pt"))) + int(generator.integers(1, KILLED // 2))
        while running.poll() is None and len(list(folder.glob("*.pt"))) < until:
            time.sleep(0.002)
        deaths += kill(running, whole=deaths % 2 == 0)
        assert written(killed).items() >= survivors.items(), "a finished file is made again"
    assert deaths == NUM_KILLS, "most runs had ended before they were killed"
    for name, flags in STAGES.items():
        run_measured(killed, name, *flags)
    assert outputs(killed) == outputs(whole)


def kill(running: subprocess.Popen[str], *, whole: bool) -> bool:
    """Kill the stage, with or without its workers; whether it was still at work."""
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL) if whole else running.kill()
    # Its workers hold the other end, and end with it.
    running.communicate()
    return running.returncode == -signal.SIGKILL
