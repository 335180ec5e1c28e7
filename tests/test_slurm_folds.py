"""The fold array on a real SLURM: preempted and queued again, it ends as `dvc repro` does."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from clones import Clone, clone_of
from polars.testing import assert_frame_equal
from slurm_site import ABSENT, IS_INSTALLED, Site, slurm_site, wait_for
from source_tree import ROOT
from waiting_network import SOURCE

FOLDS = (0, 1, 2)
SMALL: dict[str, dict[str, Any]] = {
    "split": {"folds": list(FOLDS)},
    "clips": {"num_frames": 4, "side_px": 16},
    "model": {"head_channels": 4},
    "train": {"epochs": 4, "patience": 4, "mixed_precision": False},
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


class Copy(Clone):
    """A working copy of the repository, with a small corpus and a small network."""

    def __init__(self, folder: Path, site: Site) -> None:
        super().__init__(folder)
        self.environment |= site.variables | {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "false"}

    def make(self) -> None:
        """Clone, shrink, and fill with videos."""
        clone_of(ROOT, self.folder)
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

    def state(self, job: str) -> dict[str, str]:
        """What SLURM says of a job."""
        words = self.must("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def restarts(self, job: str) -> int:
        """How often it was queued again."""
        return int(self.state(job)["Restarts"])

    def preempt(self, node: str) -> None:
        """Let a job of more importance have a node, for which what trains there makes room."""
        more = ["--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
        self.wait_for_job(self.must("sbatch", "--parsable", *more, "--wrap=sleep 1").strip())

    def wait_for_job(self, job: str) -> None:
        """Until it has ended well."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_for(lambda: self.state(job)["JobState"] in over, f"job {job}", 400, every_s=0.5)
        assert self.state(job)["JobState"] == "COMPLETED"


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
def untrained(plain: Copy, site: Site, tmp_path: Path, empty_store: Path) -> Iterator[Copy]:
    """The same, before the folds were trained."""
    copy = Copy(tmp_path / "fvc", site)
    shutil.copytree(plain.folder, copy.folder, symlinks=True)
    copy.forget_training(empty_store)
    yield copy
    # Shown by pytest where a test has failed.
    for log in sorted(copy.folder.glob("fvc-*.log")):
        sys.stdout.write(f"{log.name}:\n{log.read_text()[-3000:]}\n")


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Where jobs say that they wait to be stopped."""
    folder = tmp_path / "held"
    folder.mkdir()
    return folder


def test_a_disturbed_array_ends_as_dvc_repro_does(plain: Copy, untrained: Copy, held: Path) -> None:
    pipeline = ("bash", "cluster/pipeline.sbatch", "--open-mode=append")
    before, array, after = untrained.must(*pipeline, HELD=str(held)).split()[-3:]
    wait_for(lambda: len(list(held.iterdir())) == len(FOLDS), "all folds to wait", 300)
    tasks = [f"{array}_{fold}" for fold in FOLDS]
    nodes = [untrained.state(task)["NodeList"] for task in tasks]
    # What is preempted is all on a node: here a fold that has one for itself.
    preempted, requeued, limited = sorted(FOLDS, key=lambda fold: nodes.count(nodes[fold]))
    untrained.must("scontrol", "update", f"JobId={tasks[limited]}", "EndTime=now+2minutes")
    untrained.must("scontrol", "requeue", tasks[requeued])
    untrained.preempt(nodes[preempted])
    wait_for(lambda: untrained.restarts(tasks[limited]), "the limit of time", every_s=0.5)
    untrained.must("scontrol", "update", f"JobId={tasks[limited]}", "TimeLimit=60")
    untrained.wait_for_job(after)
    assert list(map(untrained.restarts, tasks)) == [1, 1, 1], "not only what was disturbed"
    for fold in (preempted, limited):
        log = (untrained.folder / f"fvc-train-{array}_{fold}.log").read_text()
        assert "was stopped after" in log, "stopped without a last checkpoint"
    assert untrained.weights() == plain.weights()
    folds = [run for run in untrained.runs().values() if run.data.tags.get("fvc.kind") == "fold"]
    assert sorted(run.data.tags["fvc.fold"] for run in folds) == ["0", "1", "2"]
    assert {run.info.status for run in folds} == {"FINISHED"}
    assert "up to date" in untrained.must("dvc", "status")
    assert "took" not in untrained.must("dvc", "repro"), "something is done again"
    assert untrained.state(before)["JobState"] == "COMPLETED"


def test_two_nodes_train_one_fold_as_two_processes_of_one_do(
    untrained: Copy, site: Site, tmp_path: Path, held: Path
) -> None:
    reference = Copy(tmp_path / "reference", site)
    shutil.copytree(untrained.folder, reference.folder, symlinks=True)
    ranks = ("torchrun", "--standalone", "--nproc-per-node=2", "-m", "fvc", "train", "--fold", "1")
    reference.must(*ranks)
    job = ("sbatch", "--parsable", "--nodes=2", "--array=1", "cluster/train.sbatch")
    task = f"{untrained.must(*job, HELD=str(held)).strip()}_1"
    wait_for(lambda: len(list(held.iterdir())) == 2, "both nodes to wait", 300)
    untrained.preempt("n1")
    untrained.wait_for_job(task)
    assert untrained.restarts(task) == 1
    log = (untrained.folder / f"fvc-train-{task}.log").read_text()
    assert log.count("fvc train@1 took") == 1, "each node has trained by itself"
    assert "was stopped after" in log, "stopped without a last checkpoint"
    models = [copy.folder / "work" / "models" / "1" for copy in (untrained, reference)]
    # Stopped within an epoch, ranks have what they saw in it added up in another order.
    assert_frame_equal(*(pl.read_csv(model / "history.csv") for model in models))
    mine, theirs = [
        {path.name: path.read_bytes() for path in model.iterdir() if path.name != "history.csv"}
        for model in models
    ]
    assert mine == theirs
    assert "up to date" in untrained.must("dvc", "status", "train@1")
