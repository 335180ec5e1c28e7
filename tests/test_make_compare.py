"""`make compare` with a DVC that only plays its part: what it queues, waits for and says."""

import shutil
import subprocess
from pathlib import Path

import pytest
from source_tree import ROOT

DVC = """#!/usr/bin/env bash
echo "dvc $*" >> calls
if [ "$1 $2" = "exp run" ]; then echo "$5" >> queued; fi
if [ "$1 $2" = "queue status" ]; then
  echo "Task     Name  Created   Status"
  echo "1111111  other-r3d_18  02:00 PM  Failed"
  asked=$(grep -c "queue status" calls)
  while read -r name; do
    state=Success
    case $name in *-broken) state=Failed;; esac
    [ "$asked" -gt 2 ] && [ ! -e gone ] || state=Running
    [ "$(grep -c "queue start" calls)" -lt 2 ] || state=Success
    echo "abcdef0  $name  02:12 PM  $state"
  done < queued
  if [ -e gone ] && [ "$(grep -c "queue start" calls)" -lt 2 ]; then
    echo "Worker status: 0 active, 0 idle"
  else
    echo "Worker status: 1 active, 0 idle"
  fi
fi
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A working copy with three networks, of which training `broken` fails."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    shutil.copy(ROOT / "conf" / "config.yaml", tmp_path / "conf")
    for model in ("a_net", "broken", "r3d_18"):
        (tmp_path / "conf" / "model" / f"{model}.yaml").touch()
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in (("dvc", DVC), ("fvc", '#!/bin/sh\necho "fvc $*" >> calls\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "archives").mkdir()
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def make(copy: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what was said, and the commands that ran."""
    command = ["make", "compare", "WAIT_S=0", *arguments]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    calls = copy / "calls"
    ran = calls.read_text().splitlines() if calls.exists() else []
    return done.returncode, done.stdout + done.stderr, ran


def test_every_network_is_queued_and_compared_with_the_default_first(copy: Path) -> None:
    (copy / "conf" / "model" / "broken.yaml").unlink()
    code, said, ran = make(copy)
    assert code == 0, said
    queued = [call.split() for call in ran if call.startswith("dvc exp run --queue")]
    assert [words[6:] for words in queued] == [
        ["-S", "model=r3d_18", "-S", "scale=quickstart"],
        ["-S", "model=a_net", "-S", "scale=quickstart"],
    ]
    assert ran.count("dvc queue start") == 1
    names = [words[5] for words in queued]
    [compared] = [call for call in ran if call.startswith("fvc compare")]
    assert compared.split()[2:5] == ["--table", *names]
    assert sum(call == "dvc queue status" for call in ran) >= 2, "it did not wait"


def test_where_the_worker_ended_before_its_queue_another_one_goes_on(copy: Path) -> None:
    (copy / "gone").touch()
    code, said, ran = make(copy, "MODELS=r3d_18", "SETTINGS=split=single train.epochs=1")
    assert code == 0, said
    assert "another one goes on" in said
    assert ran.count("dvc queue start") == 2
    [queued] = [call for call in ran if call.startswith("dvc exp run --queue")]
    assert queued.endswith("-S scale=quickstart -S split=single -S train.epochs=1")


def test_one_that_fails_is_named_and_the_others_are_compared(copy: Path) -> None:
    code, said, ran = make(copy, "SCALE=longer", "MODELS=broken r3d_18")
    assert code != 0
    [failed] = [line for line in said.splitlines() if line.startswith("failed:")]
    assert failed.split(";")[0].endswith("-broken")
    assert "other-r3d_18" not in failed, "an earlier failure is not this one's"
    [compared] = [call for call in ran if call.startswith("fvc compare")]
    assert "broken" not in compared
    assert "-r3d_18 " in compared
    assert any("scale=longer" in call for call in ran)


def test_a_network_that_is_not_there_is_named_before_anything_is_queued(copy: Path) -> None:
    code, said, ran = make(copy, "MODELS=r3d_18 resnet")
    assert code != 0
    assert "there is no conf/model/resnet.yaml" in said
    assert not any("queue" in call for call in ran)
