"""Folds trained by torchrun, as a user starts it: what is left of them, stopped or not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torchrun_train
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from source_tree import ROOT
from test_train import Corpus, fold_runs

from fvc.files import read_json, write_json

EPOCHS = 12
PROGRAM = Path(torchrun_train.__file__)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Repository:
    """A working copy with the pipeline, clips of tiny videos, and a store of its own."""

    def __init__(self, root: Path, store: Path) -> None:
        self.root, self.work = root, root / "work"
        self.work.mkdir(parents=True)
        shutil.copy(ROOT / "dvc.yaml", root)
        shutil.copy(store, root / "mlflow.db")
        params = Corpus(self.work).params
        settings = replace(
            params.train,
            batch_size=3,
            epochs=EPOCHS,
            patience=EPOCHS,
            ema_decay=0.8,
            learning_rate=1e-3,
            frozen_batch_norm_below=100,
            mixed_precision=False,
        )
        params = replace(
            params,
            train=settings,
            model=replace(params.model, head_channels=4, dropout=0.0),
            engine=replace(params.engine, checkpoint_minutes=0.0),
        )
        write_json(root / "params.yaml", asdict(params))
        self.written = root.with_name(f"{root.name}.written")
        self.manifest = self.work / "checkpoints" / "0" / "checkpoints.json"
        uri = f"sqlite:///{root}/mlflow.db"
        self.client = MlflowClient(uri)
        self._environment = os.environ | {
            "MLFLOW_TRACKING_URI": uri,
            "OMP_NUM_THREADS": "1",
            "WRITTEN": str(self.written),
        }

    def start(self, *launcher: str) -> subprocess.Popen[str]:
        """Begin to train fold 0."""
        command = [sys.executable, *launcher, str(PROGRAM), "train", "--fold", "0"]
        return subprocess.Popen(
            command, cwd=self.root, env=self._environment, stderr=subprocess.PIPE, text=True
        )

    def train(self, *launcher: str) -> None:
        """Train fold 0 to its end."""
        process = self.start(*launcher)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said

    def history(self) -> pl.DataFrame:
        [written] = self.work.rglob("history.csv")
        assert written.parent == self.work / "models" / "0"
        return pl.read_csv(written)

    def run(self) -> Run:
        [run] = fold_runs(self.client)
        return run


@pytest.fixture(scope="module")
def make(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> Callable[[str], Repository]:
    """Make a working copy."""
    folder = tmp_path_factory.mktemp("torchrun")
    return lambda name: Repository(folder / name, empty_store)


@pytest.fixture(scope="module")
def undisturbed(make: Callable[[str], Repository]) -> Repository:
    """Where two ranks have trained a fold."""
    repository = make("undisturbed")
    repository.train(*TORCHRUN)
    return repository


def assert_near(history: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert history.columns == expected.columns
    assert history["epoch"].to_list() == list(range(EPOCHS))
    for name in history.columns:
        values, others = history[name].to_numpy(), expected[name].to_numpy()
        np.testing.assert_allclose(values, others, rtol=0, atol=1e-5, err_msg=name)


def test_two_ranks_leave_what_one_process_leaves(
    make: Callable[[str], Repository], undisturbed: Repository
) -> None:
    assert undisturbed.run().info.status == "FINISHED"
    assert undisturbed.written.read_text() == "", "a rank that does not track writes"
    alone = make("alone")
    alone.train()
    assert_near(undisturbed.history(), alone.history())
    assert not alone.written.exists()
    names = [
        sorted(path.relative_to(each.work) for path in each.work.rglob("*"))
        for each in (undisturbed, alone)
    ]
    assert names[0] == names[1]


def test_asked_to_end_torchrun_leaves_a_checkpoint_and_goes_on_in_the_same_run(
    make: Callable[[str], Repository], undisturbed: Repository
) -> None:
    repository = make("stopped")
    process = repository.start(*TORCHRUN)
    deadline = time.monotonic() + 120
    while not (repository.manifest.exists() and newest(repository.manifest)["epochs"] >= 2):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    place = newest(repository.manifest)
    stopped = f"was stopped after {place['epochs']} epochs and {place['steps']} steps"
    assert said.count(f"error: training: {stopped}") == 2, said
    run = repository.run()
    assert run.info.status == "KILLED"
    assert not (repository.work / "models").exists()
    repository.train(*TORCHRUN)
    again = repository.run()
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert_near(repository.history(), undisturbed.history())
    for name in ("train/loss", "validation/loss"):
        points = repository.client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in points] == list(range(1, EPOCHS + 1))


def newest(manifest: Path) -> dict[str, int]:
    """Where the newest checkpoint is."""
    entry: dict[str, int] = read_json(manifest, "train")["checkpoints"][-1]
    return entry
