"""What every test may rely on."""

import os

# Before torch is imported: with shared cores, OpenMP makes tiny networks thirty times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Numbers in a temporary store need no second thread that measures the machine.
os.environ["MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"] = "false"

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from fvc.tracking.store import PARENT_VARIABLE, connect

MLFLOW_VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
    *("DVC_ROOT", "DVC_EXP_NAME", PARENT_VARIABLE),
)


@pytest.fixture(autouse=True)
def _random_state_is_restored() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """One that is takes memory, and may hold up or confuse any test after it."""
    yield
    assert not multiprocessing.active_children()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on small pictures, and most where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def store(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    """The store of a repository with nothing but a dvc.yaml, which is the working directory."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    for name in MLFLOW_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield connect()
    mlflow.set_tracking_uri("")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
