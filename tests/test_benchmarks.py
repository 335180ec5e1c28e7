"""The benchmarks run on tiny videos where few competitors are there; no time is asserted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

QUICK = ("--kinds", "1", "--seconds", "0.5", "--rounds", "1")


def run(
    script: str,
    *arguments: str,
    absent: tuple[str, ...],
    folder: Path,
    codes: tuple[int, ...] = (0,),
) -> str:
    """What a script prints, in an environment that misses some packages."""
    for name in absent:
        (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')")
    # Before the installed packages, so that one which is there is not found either.
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    # 1: a promise about time is broken, as it may be beside other work.
    assert done.returncode in codes, done.stdout + done.stderr
    return done.stdout


def cells(printed: str, label: str) -> list[list[str]]:
    """The rows of all tables that begin with a label."""
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].startswith(label)]


@pytest.mark.slow
def test_decoding_is_compared_with_what_is_there(tmp_path: Path) -> None:
    missing = ("decord", "torchcodec")
    printed = run("decode.py", *QUICK, absent=missing, folder=tmp_path)
    for name in missing:
        assert re.search(rf"{name}.* is skipped: No module named {name} .*make bench", printed)
    times, frames = cells(printed, "H.264 360p 10 s")
    header = cells(printed, "video")[0]
    assert header[1:] == [
        *("cv2 seek", "decode all, PIL", "PyAV seek", "cv2 grab"),
        *("ours, segment", "ours", "floor"),
    ]
    assert all(float(cell) > 0 for cell in times[1:])
    right = [cell.split(",")[0] for cell in frames[3:]]
    assert right == ["16"] * 6, "a way that decodes in order gives other frames than are wanted"


@pytest.mark.slow
def test_the_way_to_training_tensors_is_compared(tmp_path: Path) -> None:
    printed = run("clips_end_to_end.py", *QUICK, absent=(), folder=tmp_path)
    (row,) = cells(printed, "H.264 360p 10 s")
    *times, _, _, difference = map(float, row[1:])
    assert min(times) > 0
    assert difference < 5, "the two make different clips of one video"


@pytest.mark.slow
def test_the_stage_is_compared_on_one_core_and_on_two(tmp_path: Path) -> None:
    quick = ("--videos", "10", "--rounds", "1")
    printed = run("stage_clips.py", *quick, absent=(), folder=tmp_path, codes=(0, 1))
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    for name in ("one worker", "two workers", "nothing changed", "one more video"):
        ((_, *figures),) = cells(printed, name)
        assert all(float(figure) > 0 for figure in figures)


@pytest.mark.slow
def test_loading_is_compared(tmp_path: Path) -> None:
    few = ("--clips", "8", "--batch", "2", "--rounds", "2")
    printed = run("loading.py", *few, absent=(), folder=tmp_path, codes=(0, 1))
    for way in ("memory copy", "ours: one thread", "stored, one thread", "on the fly, one thread"):
        ((_, *figures),) = cells(printed, way)
        assert all(float(figure) > 0 for figure in figures)


@pytest.mark.slow
def test_training_steps_are_compared_without_what_a_gpu_machine_lacks(tmp_path: Path) -> None:
    missing = ("mlflow", "dvc", "av", "polars", "sklearn", "cv2", "pydantic")
    few = ("--size", "8x32", "--batch", "2", "--steps", "1", "--rounds", "1")
    printed = run("train_step.py", *few, absent=missing, folder=tmp_path, codes=(0, 1))
    for way in ("ours", "ours, float32", "plain loop, float32"):
        found = [row for row in cells(printed, way) if row[0] == way]
        ((_, clips_per_s, cpu_ms, ratio, share, waited),) = found
        assert min(float(clips_per_s), float(cpu_ms), float(ratio)) > 0
        # Of 2 clips of 32 x 32 far less than the products reach; above it, operations are made up.
        assert 0 < float(share.rstrip("%")) < 150
        assert 0 <= float(waited.rstrip("%")) < 100


@pytest.mark.slow
def test_the_engine_is_compared_with_bare_steps(tmp_path: Path) -> None:
    few = ("--side", "32", "--batch", "2", "--steps", "2", "--epochs", "2")
    printed = run("engine_overhead.py", *few, absent=(), folder=tmp_path, codes=(0, 1))
    for name in ("a bare step", "a step of the engine", "telling MLflow", "a checkpoint"):
        ((_, milliseconds),) = cells(printed, name)
        assert float(milliseconds) > 0
    assert re.search(r"percent that the engine adds: .*at most 3", printed)


def test_the_bootstrap_is_compared(tmp_path: Path) -> None:
    few = ("--videos", "200", "--groups", "30", "--samples", "100", "--rounds", "1")
    printed = run("bootstrap.py", *few, absent=(), folder=tmp_path, codes=(0, 1))
    for way in ("ours, per video", "ours, per cascade", "a loop over scikit-learn"):
        ((_, seconds),) = cells(printed, way)
        assert float(seconds) >= 0
    assert re.search(r"loop / ours: \d+", printed)


@pytest.mark.slow
def test_serving_and_folder_scoring_are_measured(tmp_path: Path) -> None:
    arguments = ("--requests", "20", "--clients", "2", "--files", "20", "--seconds", "0.5")
    printed = run("serving.py", *arguments, absent=(), folder=tmp_path, codes=(0, 1))
    [[_, wrong]] = cells(printed, "wrong answers")
    assert int(wrong) == 0
    assert "fvc predict / loop: " in printed


def test_the_flow_of_a_pair_is_compared(tmp_path: Path) -> None:
    printed = run("flow.py", "--side", "128", "--rounds", "1", absent=(), folder=tmp_path)
    for name in ("ours", "Farneback"):
        [[_, milliseconds, pairs, ratio, error]] = cells(printed, name)
        assert float(error.strip(" |")) < 0.2
        assert min(float(milliseconds), float(pairs), float(ratio)) > 0


@pytest.mark.slow
def test_tables_are_made_divided_and_published(tmp_path: Path) -> None:
    few = ("--videos", "3000", "--few", "300")
    printed = run("scale_tables.py", *few, absent=(), folder=tmp_path, codes=(0, 1))
    for step in ("make", "index", "split", "export_folds", "make_few", "index_few"):
        [row] = [row for row in cells(printed, step) if row[0] == step]
        seconds, cpu_s, memory_gb, megabytes = map(float, row[2:])
        assert min(cpu_s, memory_gb) > 0, step
        assert min(seconds, megabytes) >= 0, step
    assert re.search(r"\d+ groups; audit: .*'leaks': 0", printed)
    assert "split, most memory, GB" in printed


@pytest.mark.slow
def test_dask_is_compared_with_the_local_pool(tmp_path: Path) -> None:
    few = ("--tasks", "40", "--rounds", "1")
    printed = run("cluster.py", *few, absent=(), folder=tmp_path, codes=(0, 1))
    for name in ("local pool", "Dask"):
        ((_, _, speed),) = cells(printed, name)
        assert float(speed) > 0
    assert "throughput of Dask" in printed
