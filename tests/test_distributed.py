import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import distributed_worker
import numpy as np
import pytest
import torch
from distributed_worker import CASES, CPU, OWN_STATISTICS, PLAIN, meeting_point, write_clips
from torch import nn

from fvc.batches import Batch, EpochBatches
from fvc.dataset import ClipDataset
from fvc.distributed import (
    World,
    not_averaged,
    part_of,
    share_of,
    share_statistics,
    stand_ins,
    world,
    wrapped,
)
from fvc.errors import FvcError
from fvc.loading import ClipLoader

WORKER = Path(distributed_worker.__file__)
SINGLE = World.single(CPU)
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips are, and what the ranks write."""
    made = tmp_path_factory.mktemp("distributed")
    write_clips(made)
    return made


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes found, which were started as torchrun starts them."""
    _store, common = meeting_point()
    command = [sys.executable, str(WORKER), str(folder)]
    workers = [
        subprocess.Popen(command, env=common | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [worker.wait(120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def test_ranks_know_their_places(ranks: list[dict[str, Any]]) -> None:
    assert [found["around"] for found in ranks] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one_process(
    folder: Path, ranks: list[dict[str, Any]], case: str
) -> None:
    losses, state = distributed_worker.train(CASES[case], folder, SINGLE)
    assert len(losses) == distributed_worker.STEPS
    assert len(set(losses)) > 5, "the weights hardly change"
    for found in ranks:
        shared_losses, shared_state = found["trained"][case]
        np.testing.assert_allclose(shared_losses, losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(shared_state, state, rtol=0, atol=1e-4)
    first, second = (found["trained"][case][1] for found in ranks)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_checkpoints_know_no_ranks(ranks: list[dict[str, Any]]) -> None:
    network = distributed_worker.network_of(CASES["even"])
    for found in ranks:
        network.load_state_dict(found["trained"]["even"][1], strict=True)


def test_names_stay_where_batch_norm_is_synchronised() -> None:
    network = distributed_worker.network_of(OWN_STATISTICS)
    names, parameters = list(network.state_dict()), list(network.parameters())
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    assert list(network.state_dict()) == names
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))


def test_ranks_end_a_step_with_equal_statistics(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["own statistics"] for found in ranks)
    untrained = distributed_worker.network_of(OWN_STATISTICS).state_dict()
    name = "features.2.running_mean"
    assert not torch.equal(first[name], untrained[name])
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_messages_reach_every_rank(ranks: list[dict[str, Any]]) -> None:
    for found in (each["messages"] for each in ranks):
        assert found["agreed"] == [1, 0, 7]
        assert [each["rank"] for each in found["gathered"]] == [0, 1]
        assert [len(each["logits"]) for each in found["gathered"]] == [0, 1]


def test_a_process_alone_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    network = distributed_worker.network_of(OWN_STATISTICS)
    with world(CPU) as around:
        assert around == SINGLE
        assert not torch.distributed.is_initialized()
        assert wrapped(network, around) is network
        share_statistics(network, around)
        around.barrier()
    with not_averaged(network):
        assert (around.agree_max(3), around.gather("a")) == (3, ["a"])


def test_one_process_of_torchrun_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("0", "1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with world(CPU) as around:
        assert around == SINGLE


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FvcError, match=r"WORLD_SIZE: is not set, though RANK is set"), world(CPU):
        pass


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("2", "4", "2"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    remedy = r"for 2 GPUs\. Set --nproc-per-node to 2 at most"
    with pytest.raises(FvcError, match=remedy), world(torch.device("cuda")):
        pass


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("clips", range(1, 10))
def test_shares_hold_every_clip_once_and_are_equally_long(clips: int, size: int) -> None:
    batch = [f"clip {number}" for number in range(clips)]
    shares = [share_of(batch, rank, size) for rank in range(size)]
    spare = [stand_ins(clips, rank, size) for rank in range(size)]
    counted = [share[: len(share) - extra] for share, extra in zip(shares, spare, strict=True)]
    assert list(chain(*counted)) == batch, "a clip is trained on twice, or never"
    assert {len(share) for share in shares} == {-(-clips // size)}
    assert set(spare) <= {0, 1}
    assert spare[0] == 0, "what rank 0 shows of a step is of no clip"
    assert set(chain(*shares)) <= set(batch)


def test_an_empty_batch_has_no_shares() -> None:
    assert part_of([], 0, 2) == []
    with pytest.raises(ValueError, match="empty batch"):
        share_of([], 0, 2)


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_batches_that_one_would_have(size: int, first: int) -> None:
    labels = np.array([0] * 5 + [1] * 8)
    whole = EpochBatches(labels, 5, 0, "balanced_batches")
    shares = [
        EpochBatches(labels, 5, 0, "balanced_batches", rank=rank, size=size) for rank in range(size)
    ]
    for batches in (whole, *shares):
        batches.epoch, batches.first = 2, first
    assert {len(batches) for batches in (whole, *shares)} == {4 - first}
    for keys, *parts in zip(whole, *shares, strict=True):
        assert parts == [share_of(keys, rank, size) for rank in range(size)]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("first", [0, 2])
def test_a_loaded_share_says_what_counts(folder: Path, num_workers: int, first: int) -> None:
    dataset = ClipDataset({f"v{number}": int(number > 2) for number in range(8)}, folder, None)
    config = replace(PLAIN, num_workers=num_workers)

    def loaded(rank: int, size: int) -> list[Batch]:
        with ClipLoader(
            dataset, 3, config, imbalance="none", seed=0, device=CPU, rank=rank, size=size
        ) as loader:
            assert len(loader) == 3
            made = list(loader.batches(1, first=first))
            assert len(loader) == 3
            return made

    whole = loaded(0, 1)
    assert [len(batch.labels) for batch in whole] == [3, 3, 2][first:]
    assert all(batch.spare == 0 for batch in whole)
    for batch, *shares in zip(whole, loaded(0, 2), loaded(1, 2), strict=True):
        labels = torch.cat([share.labels[: share.counted] for share in shares])
        assert torch.equal(labels, batch.labels)
        assert {share.counted_by_all for share in shares} == {len(batch.labels)}


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.slow
def test_torchrun_starts_the_ranks(folder: Path, ranks: list[dict[str, Any]]) -> None:
    before = [(folder / f"rank{rank}.pt").read_bytes() for rank in (0, 1)]
    for rank in (0, 1):
        (folder / f"rank{rank}.pt").unlink()
    subprocess.run([sys.executable, *TORCHRUN, str(WORKER), str(folder)], check=True, timeout=300)
    assert len(ranks) == len(before)
    assert [(folder / f"rank{rank}.pt").read_bytes() for rank in (0, 1)] == before


@pytest.mark.slow
def test_an_error_of_one_rank_ends_all(folder: Path) -> None:
    started = time.monotonic()
    command = [sys.executable, *TORCHRUN, str(WORKER), str(folder), "fail"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode != 0
    assert "rank 1: fails. Nothing helps." in ended.stderr
    assert time.monotonic() - started < 120, "the other rank was waited for"
