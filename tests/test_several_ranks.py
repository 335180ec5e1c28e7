"""One training on two ranks and on one: in the end the same, whatever happens on the way."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks_worker
import torch
from distributed_worker import CPU, meeting_point
from ranks_worker import (
    CASES,
    FITTING,
    SHORT_OF_MEMORY,
    STOP,
    STOPPED,
    Found,
    little_memory,
    stopped,
    trained,
    write_clips,
)

from fvc.distributed import World
from fvc.training.diagnostics import MEASURED_SERIES, EpochRow

ALONE = World.single(CPU)
WORKER = Path(ranks_worker.__file__)
MEMORY = {"train/micro_batch_size", "train/accumulation"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips are, and a training that one process has begun."""
    made = tmp_path_factory.mktemp("ranks")
    write_clips(made)
    stopped(made, ALONE, "one, then two", rank=0)
    return made


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    _store, environment = meeting_point()
    command = [sys.executable, str(WORKER), str(folder), "rank"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Found:
    """The training that others stop, by one process that nobody stops."""
    return trained(STOPPED, folder, ALONE, "undisturbed")


@pytest.fixture(scope="module")
def enough_memory(folder: Path) -> Found:
    """The training in which others run out of memory."""
    return trained(SHORT_OF_MEMORY, folder, ALONE, "enough memory")


def assert_near(history: Sequence[EpochRow], expected: Sequence[EpochRow], *but: str) -> None:
    """Every series of every epoch is the same within 1e-5, less what is measured."""
    assert len(history) == len(expected) == ranks_worker.EPOCHS
    for row, other in zip(history, expected, strict=True):
        assert row.keys() == other.keys()
        # Passes of one rank: the more ranks, the fewer.
        names = row.keys() - MEASURED_SERIES - {"train/accumulation", *but}
        assert names >= {"train/loss", "validation/loss"}
        for name in names:
            np.testing.assert_allclose(row[name], other[name], rtol=0, atol=1e-5, err_msg=name)


def assert_as_whole(found: Found, whole: Found, *but: str) -> None:
    assert_near(found.history, whole.history, *but)
    torch.testing.assert_close(found.weights, whole.weights, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_fit_as_one(folder: Path, ranks: list[dict[str, Any]], name: str) -> None:
    whole = trained(CASES[name], folder, ALONE, f"{name}, alone")
    losses = [row["validation/loss"] for row in whole.history]
    assert len(set(losses)) == len(losses), "the weights hardly change"
    first, second = (Found(*found["whole"][name]) for found in ranks)
    for found in (first, second):
        assert_as_whole(found, whole)
        assert found.steps == whole.steps
    torch.testing.assert_close(first.weights, second.weights, rtol=0, atol=0)


def test_rank_0_alone_writes(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["written"] for found in ranks)
    assert any("checkpoints.json" in path for path in first)
    assert second == []


def test_the_signal_to_one_rank_stops_both_and_one_goes_on(
    folder: Path, ranks: list[dict[str, Any]], undisturbed: Found
) -> None:
    assert all(found["stopped"][-1] == STOP for found in ranks)
    resumed = trained(STOPPED, folder, ALONE, "two, then one")
    assert_as_whole(resumed, undisturbed)
    for found in ranks:
        assert found["stopped"] + resumed.steps == undisturbed.steps, "a step is lost, or twice"


def test_the_signal_in_validation_stops_both_and_no_step_is_made_again(
    folder: Path, ranks: list[dict[str, Any]], undisturbed: Found
) -> None:
    epoch = [place for place in undisturbed.steps if place[0] == 0]
    assert all(found["stopped in validation"] == epoch for found in ranks)
    resumed = trained(STOPPED, folder, ALONE, "validation")
    assert epoch + resumed.steps == undisturbed.steps
    assert_as_whole(resumed, undisturbed)


def test_what_one_has_begun_two_go_on_with(ranks: list[dict[str, Any]], undisturbed: Found) -> None:
    for found in (Found(*found["resumed"]) for found in ranks):
        assert_as_whole(found, undisturbed)
        assert found.steps == undisturbed.steps[undisturbed.steps.index(STOP) + 1 :]


@pytest.mark.parametrize("short", ["one", "all", "beside"])
def test_a_rank_without_memory_says_so_and_the_next_start_takes_fewer_clips(
    folder: Path, ranks: list[dict[str, Any]], enough_memory: Found, short: str
) -> None:
    ends = [found[f"{short} short of memory"] for found in ranks]
    for rank in (1,) if short == "one" else (0, 1):
        said = f"OutOfMemoryOnRank: rank {rank}: ran out of memory; 1 clips at once are the next"
        assert ends[rank].startswith(said)
    with little_memory(lambda: True) as passed:
        resumed = trained(SHORT_OF_MEMORY, folder, ALONE, f"{short} short")
    assert set(passed) == {FITTING}, "it runs out of memory again"
    assert resumed.steps[0] == (1, 2)
    assert_as_whole(resumed, enough_memory, *MEMORY)


@pytest.mark.slow
def test_torchrun_starts_ranks_without_memory_again(folder: Path, enough_memory: Found) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    program = (str(WORKER), str(folder), "restarted")
    command = [sys.executable, *torchrun, "--max-restarts=1", *program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "ran out of memory; 1 clips at once are the next try" in ended.stderr
    for rank in (0, 1):
        found = torch.load(folder / f"restarted{rank}.pt")
        assert set(found["passed"]) == {FITTING}
        assert_as_whole(Found(*found["whole"]), enough_memory, *MEMORY)
