import os
import subprocess
import sys
from pathlib import Path

import leaking
import pytest
from source_tree import ROOT


def grown_mib(folder: Path, kept: int) -> float:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    ran = subprocess.run(
        [sys.executable, leaking.__file__, str(folder), str(kept)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(ran.stdout)


@pytest.mark.slow
def test_memory_is_flat_over_two_hundred_steps(tmp_path: Path) -> None:
    assert grown_mib(tmp_path, kept=0) < 3


@pytest.mark.slow
def test_a_leak_would_be_seen(tmp_path: Path) -> None:
    assert grown_mib(tmp_path, kept=1) > 6
