"""The fold array on a real SLURM: preempted and queued again, it ends as `dvc repro` does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient
from slow_network import SOURCE
from slurm_site import ABSENT, IS_INSTALLED, Site, slurm_site, wait_for
from source_tree import ROOT

FOLDS = (0, 1, 2)
SMALL: dict[str, dict[str, Any]] = {
    "split": {"folds": list(FOLDS)},
    "clips": {"num_frames": 4, "side_px": 16},
    "model": {"head_channels": 4},
    "train": {"epochs": 25, "patience": 25, "mixed_precision": False},
    "engine": {"checkpoint_minutes": 0.0},
    "evaluate": {"bootstrap_samples": 100, "robustness_videos": 2},
}
OURS = {"--cpus-per-task=8": "--cpus-per-task=1", "--gpus-per-node=1": "--comment=no-gpus"}
"""What the jobs ask for, and what there is here."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not IS_INSTALLED, reason=ABSENT),
]


class Copy:
    """A working copy of the repository, with a small corpus and a small network."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        outside = {
            name: value
            for name, value in site.environment.items()
            if not name.startswith(("MLFLOW_", "FVC_", "DVC_"))
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {
            **outside,
            "PATH": path,
            "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false",
        }

    def must(self, *command: str) -> str:
        """What a command says that has to succeed."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def make(self) -> None:
        """Clone, shrink, and fill with videos."""
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True)
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        for section, changes in SMALL.items():
            params[section] |= changes
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        with (self.folder / "fvc" / "networks" / "__init__.py").open("a") as source:
            source.write(SOURCE)
        for job in (self.folder / "cluster").glob("*.sbatch"):
            lines = job.read_text()
            for asked, have in OURS.items():
                lines = lines.replace(f"#SBATCH {asked}\n", f"#SBATCH {have}\n")
            job.write_text(lines)
        self.must("fvc", "demo", "data", "--videos", "16", "--seed", "1")
        self.must("dvc", "add", "--quiet", "data")

    def forget_training(self, store: Path) -> None:
        """As it was before any fold was trained.

        Args:
            store: An empty one. Two folds that make its tables at once fail on SQLite.
        """
        for name in ("models", "checkpoints", "runs"):
            shutil.rmtree(self.folder / "work" / name)
        shutil.rmtree(self.folder / ".dvc" / "cache" / "runs")
        shutil.copy(store, self.folder / "mlflow.db")
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        for fold in FOLDS:
            del lock["stages"][f"train@{fold}"]
        (self.folder / "dvc.lock").write_text(yaml.safe_dump(lock))

    def weights(self) -> dict[int, bytes]:
        """By fold."""
        models = self.folder / "work" / "models"
        return {fold: (models / str(fold) / "weights.safetensors").read_bytes() for fold in FOLDS}

    def has_begun(self, fold: int) -> bool:
        """Whether a fold has a checkpoint to go on from."""
        return (self.folder / "work" / "checkpoints" / str(fold) / "checkpoints.json").exists()

    def state(self, job: str) -> dict[str, str]:
        """What SLURM says of a job."""
        words = self.must("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for_job(self, job: str) -> None:
        """Until it has ended well."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_for(lambda: self.state(job)["JobState"] in over, f"job {job}", 400)
        logs = "".join(log.read_text()[-3000:] for log in sorted(self.folder.glob("fvc-*.log")))
        assert self.state(job)["JobState"] == "COMPLETED", logs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with slurm_site(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="module")
def plain(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Where `dvc repro` has trained all folds, one after the other."""
    copy = Copy(tmp_path_factory.mktemp("plain") / "fvc", site)
    copy.make()
    copy.must("dvc", "repro", "export_folds", "train")
    return copy


@pytest.fixture
def untrained(plain: Copy, site: Site, tmp_path: Path, empty_store: Path) -> Copy:
    """The same, before the folds were trained."""
    copy = Copy(tmp_path / "fvc", site)
    shutil.copytree(plain.folder, copy.folder, symlinks=True)
    copy.forget_training(empty_store)
    return copy


def test_a_disturbed_array_ends_as_dvc_repro_does(plain: Copy, untrained: Copy) -> None:
    said = untrained.must("bash", "cluster/pipeline.sbatch", "--open-mode=append").split()
    before, array, after = said[-3:]
    wait_for(lambda: all(map(untrained.has_begun, FOLDS)), "all folds to have begun", 300)
    tasks = [f"{array}_{fold}" for fold in FOLDS]
    numbers = [untrained.state(task)["JobId"] for task in tasks]
    untrained.must("scontrol", "requeue", numbers[0])
    # One whole node for a job of more importance: what trains there has to make room.
    node = untrained.state(numbers[1])["NodeList"]
    more = ["--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
    urgent = untrained.must("sbatch", "--parsable", *more, "--wrap=sleep 1").split()[-1]
    untrained.wait_for_job(urgent)
    untrained.wait_for_job(after)
    restarts = [int(untrained.state(number)["Restarts"]) for number in numbers]
    assert min(restarts[:2]) >= 1, "it was neither queued again nor preempted"
    logs = [untrained.folder / f"fvc-train-{array}_{fold}.log" for fold in FOLDS]
    assert "was stopped after" in logs[1].read_text(), "preempted without a last checkpoint"
    assert untrained.weights() == plain.weights()
    client = MlflowClient(f"sqlite:///{untrained.folder}/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    folds = [run for run in runs if run.data.tags.get("fvc.kind") == "fold"]
    assert sorted(run.data.tags["fvc.fold"] for run in folds) == ["0", "1", "2"]
    assert {run.info.status for run in folds} == {"FINISHED"}
    assert "up to date" in untrained.must("dvc", "status")
    assert "took" not in untrained.must("dvc", "repro"), "something is done again"
    assert untrained.state(before)["JobState"] == "COMPLETED"


def test_two_nodes_train_one_fold(plain: Copy, untrained: Copy) -> None:
    array = untrained.must("sbatch", "--parsable", "--nodes=2", "--array=1", "cluster/train.sbatch")
    untrained.wait_for_job(f"{array.strip()}_1")
    log = (untrained.folder / f"fvc-train-{array.strip()}_1.log").read_text()
    assert log.count("fvc train@1 took") == 1, "each node has trained by itself"
    [mine, theirs] = [copy.folder / "work" / "models" / "1" for copy in (untrained, plain)]
    assert {path.name for path in mine.iterdir()} == {path.name for path in theirs.iterdir()}
    assert "up to date" in untrained.must("dvc", "status", "train@1")
