import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from fvc import process
from fvc.errors import FvcError


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    def again() -> None:
        with process.only_one("split", tmp_path):
            pass

    with process.only_one("split", tmp_path):
        with pytest.raises(FvcError, match=rf"split: is already running \(process {os.getpid()}\)"):
            again()
        with process.only_one("index", tmp_path):
            pass
    again()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_its_last_holder_removed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, lock = tmp_path / "split.lock", fcntl.flock

    def remove_before(*arguments: Any) -> None:
        monkeypatch.undo()
        path.unlink()
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", remove_before)
    with process.only_one("split", tmp_path):
        assert path.read_text() == f"process {os.getpid()}"
        with (
            pytest.raises(FvcError, match="is already running"),
            process.only_one("split", tmp_path),
        ):
            pass


CHILD = """
import time
from fvc import process
process.end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("shell", ["{child}", "{child}; true"], ids=["direct", "below a shell"])
def test_a_stage_ends_when_what_started_it_is_killed(shell: str) -> None:
    """A shell in between, as DVC and MLflow start stages, would survive them."""
    killed_after_ready(starter_of(CHILD, shell), within_s=10)


def test_a_stage_ends_when_dvc_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "end_with_parent.py"
    program.write_text(CHILD, encoding="utf-8")
    stage = {"cmd": f"{sys.executable} {program}", "always_changed": True}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}), encoding="utf-8")
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    starter = subprocess.Popen(
        [*dvc, "repro"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    killed_after_ready(starter, within_s=10)


def killed_after_ready(starter: subprocess.Popen[str], *, within_s: float) -> str:
    """Kill a starter once its stage is ready; the stage has to end, too. Gives what it said."""
    assert starter.stdout is not None
    assert "ready\n" in iter(starter.stdout.readline, "")
    family = psutil.Process(starter.pid).children(recursive=True)
    stages = [member for member in family if "end_with_parent" in " ".join(member.cmdline()[-1:])]
    assert stages
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + within_s
    while any(stage.is_running() and stage.status() != "zombie" for stage in stages):
        assert time.monotonic() < deadline, "a training would go on and fight the next one"
        time.sleep(0.1)
    with starter.stdout as stream:
        return stream.read()


def starter_of(program: str, shell: str = "{child}") -> subprocess.Popen[str]:
    """A process that starts a program by way of a shell, as DVC does."""
    child = f"{sys.executable} -c '{program.replace(chr(39), chr(34))}'"
    command = ["bash", "-c", shell.format(child=child)]
    return subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"],
        stdout=subprocess.PIPE,
        text=True,
    )


STOPPING = """
import time
from fvc import process
process.end_with_parent()
with process.stop_on_sigterm() as is_asked:
    print("ready", flush=True)
    while not is_asked():
        time.sleep(0.05)
    time.sleep(1.5)
    print("checkpoint", flush=True)
"""


@pytest.mark.parametrize("shell", ["{child}", "{child}; true"], ids=["direct", "below a shell"])
def test_the_death_of_the_parent_leaves_time_for_a_checkpoint(shell: str) -> None:
    """The kernel and the watching thread both send a signal: together they are one request."""
    said = killed_after_ready(starter_of(STOPPING, shell), within_s=10)
    assert said == "checkpoint\n"


DEAF = """
import time
from fvc import process
process.GRACE_S = 1.0
process.end_with_parent()
with process.stop_on_sigterm():
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_stage_that_does_not_listen_is_killed_after_its_grace() -> None:
    killed_after_ready(starter_of(DEAF), within_s=6)
    assert process.GRACE_S <= 15, "a dead dvc would leave a training for long"


@contextmanager
def running(program: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has said that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


LISTENING = """
import time
from fvc import process
process.TOGETHER_S = 0.3
try:
    with process.stop_on_sigterm() as is_asked:
        print("ready", flush=True)
        while not is_asked():
            time.sleep(0.02)
        print("asked", flush=True)
        time.sleep({seconds})
finally:
    print("after", is_asked(), flush=True)
"""


def test_the_first_sigterm_only_asks() -> None:
    with running(LISTENING.format(seconds=0.5)) as child:
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGTERM)
        said, _ = child.communicate(timeout=10)
    assert said == "asked\nafter True\n", "one warning, sent twice, cost the checkpoint"
    assert child.returncode == 0


def test_a_later_sigterm_ends_the_process_at_once() -> None:
    with running(LISTENING.format(seconds=60)) as child:
        child.send_signal(signal.SIGTERM)
        assert child.stdout is not None
        assert child.stdout.readline() == "asked\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGTERM)
        said, _ = child.communicate(timeout=10)
    assert child.returncode == -signal.SIGTERM
    assert said == ""


def test_after_the_block_sigterm_is_what_it_was() -> None:
    came: list[int] = []
    former = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with process.stop_on_sigterm() as outer:
            with process.stop_on_sigterm() as inner:
                os.kill(os.getpid(), signal.SIGTERM)
                assert inner()
            assert not outer(), "the signal was for the inner block"
        assert not came
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)


def test_another_thread_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with process.stop_on_sigterm() as is_asked:
            seen.extend([is_asked(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, before]


def test_a_shielding_parent_does_not_shield_the_stage() -> None:
    """A batch job keeps SIGTERM from DVC, and what ignores it hands that on."""
    shielded = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CHILD
    with running(shielded) as child:
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, False),
    ],
)
def test_one_process_of_torchrun_speaks_for_all(
    environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process.is_first_rank() == expected
