"""Stages on a real SLURM: the same bytes as on this machine, whatever is lost on the way."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import stages_in_turn
from slurm_site import ABSENT, IS_INSTALLED, Site, slurm_site, wait_for
from source_tree import ROOT

from fvc.encoding import encode
from fvc.pool import ENGINE

NUM_VIDEOS = 300
STRUCK_AFTER = 20
"""Files of a stage that are there when a worker, a job or a node is taken away."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not IS_INSTALLED, reason=ABSENT),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with slurm_site(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "annotations").mkdir()
    generator = np.random.default_rng(0)
    rows = []
    for number in range(NUM_VIDEOS):
        path = folder / "videos" / "FVC2" / f"{1000 + number}" / "video.mp4"
        path.parent.mkdir(parents=True)
        # One more that has no picture, and is rejected.
        num_frames = 8 if number else 1
        encode(path, list(generator.integers(0, 256, (num_frames, 48, 64, 3), dtype=np.uint8)))
        url = f"https://www.facebook.com/page/videos/{1000 + number}/"
        rows.append((f"c{number}", url, ("real", "fake")[number % 2]))
    for name, content in (("FVC.csv", rows), ("FVC_dup.csv", [])):
        with (folder / "annotations" / name).open("w", newline="") as written:
            writer = csv.writer(written)
            writer.writerow(("cascade_id", "video_url", "label"))
            writer.writerows(content)
    return folder


class Run:
    """The stages, in a folder and a process of their own."""

    def __init__(
        self, site: Site, corpus: Path, folder: Path, engine: str, processes: int = 1
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.said = folder.with_name(f"{folder.name}.log")
        command = [sys.executable, stages_in_turn.__file__, str(corpus), str(ROOT / "params.yaml")]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={
                    **site.environment,
                    ENGINE: engine,
                    "PYTHONPATH": str(ROOT / "tests"),
                    "DASK_JOBQUEUE__SLURM__CORES": str(processes),
                    "DASK_JOBQUEUE__SLURM__PROCESSES": str(processes),
                },
                stderr=said,
            )

    def has_done(self, stage: str) -> bool:
        """Whether a stage has written some of its files."""
        assert self.process.poll() is None, self.said.read_text()
        return len(list(self.folder.joinpath(stage).glob("*"))) >= STRUCK_AFTER

    def end(self) -> None:
        assert self.process.wait(300) == 0, self.said.read_text()[-3000:]
        assert json.loads((self.folder / "ended.json").read_text()) == NUM_VIDEOS - 1

    def outputs(self) -> dict[str, bytes]:
        """All that was written, by its name."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="module")
def expected(
    site: Site, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What the stages write on this machine alone."""
    run = Run(site, corpus, tmp_path_factory.mktemp("here") / "run", "local")
    run.end()
    outputs = run.outputs()
    assert sum(name.startswith("augmented/") for name in outputs) == NUM_VIDEOS - 1
    return outputs


def kill_a_worker(site: Site) -> None:
    job = site.jobs("RUNNING")[0]
    for process in site.processes(job):
        if "spawn_main" in " ".join(process.cmdline()):
            os.kill(process.pid, signal.SIGKILL)
            return
    raise AssertionError("no worker to kill")


def cancel_a_job(site: Site) -> None:
    site.run("scancel", site.jobs("RUNNING")[0])


def lose_a_node(site: Site) -> None:
    node = site.run("squeue", "--noheader", "--states=RUNNING", "--format=%N").split()[0]
    site.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    # A node that answers comes back by itself (ReturnToService), but its jobs are lost.


def nothing(_: Site) -> None:
    pass


@pytest.mark.parametrize(
    ("strike", "processes"),
    [(nothing, 1), (kill_a_worker, 1), (cancel_a_job, 2), (lose_a_node, 1)],
)
def test_stages_write_what_they_write_here(
    site: Site,
    corpus: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    strike: Callable[[Site], None],
    processes: int,
) -> None:
    run = Run(site, corpus, tmp_path / "run", "slurm", processes)
    try:
        for stage in ("probes", "clips", "augmented"):
            wait_for(partial(run.has_done, stage), f"files in {stage}")
            strike(site)
        run.end()
    finally:
        run.process.kill()
        run.process.wait()
    outputs = run.outputs()
    assert outputs.keys() == expected.keys()
    assert [name for name in outputs if outputs[name] != expected[name]] == []
    wait_for(lambda: not site.jobs(), "the queue to be empty", 60)


ITEMS = """
import sys
from pathlib import Path
import items
from fvc.errors import FvcError
from fvc.pool import run_isolated

if __name__ == "__main__":
    pids = [(number, Path.cwd()) for number in (1, 2)]
    try:
        list(run_isolated(items.write_pid, pids, timeout_s=90.0, description="test"))
    except FvcError as error:
        sys.exit(f"error: {error}")
"""


def start_items(site: Site, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Two items that take a minute, on SLURM."""
    script = folder / "script.py"
    script.write_text(ITEMS)
    ours = {ENGINE: "slurm", "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.Popen(
        [sys.executable, script],
        cwd=folder,
        env={**site.environment, **ours, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_jobs(
    site: Site, tmp_path: Path, number: signal.Signals
) -> None:
    with start_items(site, tmp_path) as process:
        wait_for((tmp_path / "2.pid").exists, "both items to be worked on")
        assert len(site.jobs()) == 2
        process.send_signal(number)
        process.communicate(timeout=60)
    wait_for(lambda: not site.jobs(), "the queue to be empty", 60)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "DASK_JOBQUEUE__SLURM__QUEUE",
            "nowhere",
            "error: sbatch: refuses the job (sbatch: error:",
        ),
        ("DASK_JOBQUEUE__SLURM__CORES", "null", "error: Dask's configuration: You must specify"),
        ("PATH", "/nowhere", "error: FVC_CLUSTER: is slurm, but there is no sbatch"),
        ("DASK_JOBQUEUE__SLURM__PYTHON", "/nowhere", "error: SLURM: 4 jobs have ended before"),
    ],
)
def test_what_cannot_be_submitted_is_one_clear_line(
    site: Site, tmp_path: Path, variable: str, value: str, said: str
) -> None:
    with start_items(site, tmp_path, **{variable: value}) as process:
        _, printed = process.communicate(timeout=60)
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line.startswith(said)
    assert "Traceback" not in printed
    assert process.returncode == 1
