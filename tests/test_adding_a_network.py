"""What docs/networks.md says of adding a network is tried: a file, its names, a configuration."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from source_tree import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOY = '''"""One convolution, as an example."""

from collections.abc import Mapping
from typing import NoReturn

from torch import nn

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.networks.architecture import Architecture, children


def _build(clips: ClipsConfig) -> nn.Module:
    del clips
    return nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU())


def _no_weights(pretrained: str, clips: ClipsConfig) -> NoReturn:
    raise FvcError(f"model.pretrained: {pretrained}", "there is none", "Set it to none")


TOY = Architecture(
    build=_build,
    channels=8,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    stages=children,
    weights=_no_weights,
    published=None,
)
'''
CONFIGURATION = """# @package _global_
model:
  network: toy
  head: linear
  head_channels: 512
  dropout: 0.0
"""


def with_a_toy(folder: Path) -> Path:
    """A copy of what is tracked, with one more network."""
    tracked = subprocess.run(
        ("git", "ls-files", "fvc", "tests", "conf", "*.yaml", "*.toml"),
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in tracked.stdout.split():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "fvc/networks/toy.py").write_text(TOY)
    (folder / "conf/model/toy.yaml").write_text(CONFIGURATION)
    add_line(folder / "fvc/config/networks.py", "TAKES: ", '    "toy": ANY,\n')
    door = folder / "fvc/networks/__init__.py"
    add_line(door, "ARCHITECTURES: ", '    "toy": TOY,\n')
    text = door.read_text()
    first = text.index("from fvc.networks.")
    door.write_text(f"{text[:first]}from fvc.networks.toy import TOY\n{text[first:]}")
    return folder


def add_line(source: Path, table: str, line: str) -> None:
    """Put a line at the beginning of a dict."""
    text = source.read_text()
    begin = text.index("{\n", text.index(f"\n{table}")) + 2
    source.write_text(text[:begin] + line + text[begin:])


def test_a_network_is_its_file_its_names_and_its_configuration(tmp_path: Path) -> None:
    copy = with_a_toy(tmp_path / "copy")
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    (tmp_path / "corpus").mkdir()
    done = subprocess.run(
        (sys.executable, str(copy / "tests/toy_network.py"), str(tmp_path / "corpus")),
        cwd=copy,
        env=outside | {"PYTHONPATH": f"{copy}:{copy / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"] is None
    assert told["served"] == pytest.approx(told["expected"], abs=1e-6)
