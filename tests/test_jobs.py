"""The SLURM jobs, run by commands that stand in for Slurm, DVC and torchrun."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dvc.cli.parser import get_main_parser
from slurm_site import wait_for
from source_tree import ROOT
from torch.distributed.run import parse_args

from fvc.config import load_params

JOB = ROOT / "cluster" / "train.sbatch"
LINES = JOB.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()

RECORDED = """#!/bin/bash
echo "{name} $*" >>"$LOG"
"""

# As srun runs the step, and dvc the stage: below one more process.
SRUN = RECORDED + '"$@"; exit $?\n'
DVC = RECORDED + '[ "$2" = commit ] || python "$TRAINING"; exit $?\n'

TRAINING = """
import os, time
from pathlib import Path
from fvc import process
process.end_with_parent()
with process.stop_on_sigterm() as is_asked:
    Path("ready").touch()
    while not is_asked():
        time.sleep(0.02)
    time.sleep(0.5)
    Path("checkpoint").touch()
raise SystemExit(1)
"""


class Cluster:
    """A repository with the jobs, and commands that write down how they are called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        shutil.copytree(JOB.parent, root / "cluster")
        for name, body in {"srun": SRUN, "dvc": DVC, "scontrol": RECORDED}.items():
            self.install(name, body)
        self.install("torchrun", RECORDED)
        self.environment = {
            **os.environ,
            "LOG": str(self.log),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_ARRAY_JOB_ID": "4710",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_JOB_ID": "4711",
            "SLURM_SUBMIT_DIR": str(root),
        }

    def install(self, name: str, body: str) -> None:
        target = self.root / ".venv" / "bin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(body.replace("{name}", name))
        target.chmod(0o755)

    def start(self, *job: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a job, as Slurm does on a node."""
        return subprocess.Popen(
            ["bash", *job], cwd=self.root, env={**self.environment, **environment}
        )

    def submit(self, training: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the folds' job, with a training that is this program."""
        program = self.root / "training.py"
        program.write_text(training)
        return self.start("cluster/train.sbatch", TRAINING=str(program), **environment)

    def called(self) -> list[str]:
        """The commands in the order in which they were started, less the step's own."""
        lines = self.log.read_text().splitlines()
        assert lines[0].startswith("srun bash cluster/train.sbatch step")
        return lines[1:]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    yield Cluster(tmp_path)
    for process in psutil.process_iter(["cmdline"]):
        assert str(tmp_path) not in " ".join(process.info["cmdline"] or []), "a process is left"


@pytest.mark.parametrize("code", [0, 3])
def test_a_training_that_ends_is_not_queued_again(cluster: Cluster, code: int) -> None:
    assert cluster.submit(f"raise SystemExit({code})").wait(30) == code
    assert cluster.called() == ["dvc --wait-for-lock repro --single-item train@3"]


def test_a_warned_training_writes_its_checkpoint_and_is_queued_again(cluster: Cluster) -> None:
    job = cluster.submit(TRAINING)
    wait_for((cluster.root / "ready").exists, "the training to begin")
    [srun] = psutil.Process(job.pid).children()
    # Slurm signals every process of the step, in no order.
    for member in srun.children(recursive=True):
        member.send_signal(signal.SIGTERM)
    assert job.wait(30) == 75
    assert (cluster.root / "checkpoint").exists(), "what the training had done is lost"
    assert cluster.called()[1:] == ["scontrol requeue 4710_3"]


def test_several_gpus_train_one_fold_outside_dvc_which_then_takes_it_over(
    cluster: Cluster,
) -> None:
    assert cluster.submit("", SLURM_GPUS_ON_NODE="4").wait(30) == 0
    trained, taken_over = cluster.called()
    words = shlex.split(trained)
    args = parse_args(words[1:])  # type: ignore[no-untyped-call]
    assert (args.nproc_per_node, args.max_restarts) == ("4", 8)
    assert [args.training_script, *args.training_script_args] == ["fvc", "train", "--fold", "3"]
    assert args.module
    assert taken_over == "dvc --wait-for-lock commit --force train@3"
    cluster.install("torchrun", RECORDED + "exit 1")
    cluster.log.unlink()
    assert cluster.submit("", SLURM_GPUS_ON_NODE="4").wait(30) == 1
    assert len(cluster.called()) == 1, "a fold that failed is taken for trained"


@pytest.mark.parametrize("job", ["train.sbatch", "pipeline.sbatch before", "pipeline.sbatch after"])
def test_a_step_gets_the_cores_of_its_job(cluster: Cluster, job: str) -> None:
    cluster.install("srun", '#!/bin/bash\necho "$SRUN_CPUS_PER_TASK" >>"$LOG"\n')
    assert cluster.start(*f"cluster/{job}".split(), SLURM_CPUS_PER_TASK="8").wait(30) == 0
    assert cluster.log.read_text() == "8\n", "where tasks are bound, all runs on one core"


def test_dvc_knows_what_the_job_asks_of_it() -> None:
    commands = [line.strip() for line in LINES if line.strip().startswith("dvc ")]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("$1", "3"))
        args = get_main_parser().parse_args(words[1:])
        assert args.targets == ["train@3"]
        assert args.wait_for_lock, "three seconds of another fold's DVC would lose this one"


def test_the_array_is_the_folds() -> None:
    [array] = [found[1] for line in LINES if (found := re.match(r"#SBATCH --array=(.+)", line))]
    assert array == f"0-{len(load_params(ROOT / 'params.yaml').split.folds) - 1}"


def test_nodes_of_one_fold_meet_at_the_first_and_hand_over_once(cluster: Cluster) -> None:
    nodes = {"SLURM_NNODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "192.0.2.7"}
    assert cluster.submit("", **nodes, SLURM_GPUS_ON_NODE="4", SLURM_PROCID="0").wait(30) == 0
    trained, taken_over = cluster.called()
    args = parse_args(shlex.split(trained)[1:])  # type: ignore[no-untyped-call]
    assert (args.nnodes, args.nproc_per_node, args.rdzv_backend) == ("2", "4", "c10d")
    assert args.rdzv_endpoint == "192.0.2.7:24711"
    assert taken_over == "dvc --wait-for-lock commit --force train@3"
    cluster.log.unlink()
    assert cluster.submit("", **nodes, SLURM_PROCID="1").wait(30) == 0
    assert len(cluster.called()) == 1, "two nodes write dvc.lock"
