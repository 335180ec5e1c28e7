import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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
    child = f"{sys.executable} -c '{CHILD.replace(chr(39), chr(34))}'"
    command = ["bash", "-c", shell.format(child=child)]
    starter = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"
    family = psutil.Process(starter.pid).children(recursive=True)
    stages = [member for member in family if "end_with_parent" in " ".join(member.cmdline()[-1:])]
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + 10
    while any(stage.is_running() and stage.status() != "zombie" for stage in stages):
        assert time.monotonic() < deadline, "a training would go on and fight the next one"
        time.sleep(0.1)
    assert stages
