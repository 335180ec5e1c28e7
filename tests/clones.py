"""A clone of this repository, as a user has one."""

import subprocess
from pathlib import Path

import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from shared_server import own_environment


class Clone:
    """A clone of the repository, and commands that are run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = own_environment()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone's root; its output comes back as text."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def must(self, *command: str, **environment: str) -> str:
        """As `run`, for a command that has to succeed."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    @property
    def store(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def runs(self) -> dict[str, Run]:
        client = self.store
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return {run.info.run_id: run for run in client.search_runs(experiments)}


def clone_of(repository: Path, folder: Path) -> Clone:
    """Clone into a new folder, and say who commits there."""
    subprocess.run(["git", "clone", "--quiet", str(repository), str(folder)], check=True)
    clone = Clone(folder)
    clone.must("git", "config", "user.email", "test@example.org")
    clone.must("git", "config", "user.name", "Test")
    return clone


def make_small(clone: Clone) -> None:
    """A corpus and parameters with which the whole pipeline takes a minute: trees, in one fold."""
    target = clone.folder / "params.yaml"
    params = yaml.safe_load(target.read_text(encoding="utf-8"))
    params["model"] |= {"network": "forensic", "head": "linear", "dropout": 0.0}
    params["evaluate"] |= {"robustness_videos": 1, "bootstrap_samples": 200}
    params["split"] |= {"scheme": "single", "folds": [0]}
    params["augment"]["versions"] = 0
    target.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    clone.must("fvc", "demo", "data", "--videos", "24", "--seed", "1")
    clone.must("dvc", "add", "--quiet", "data")
