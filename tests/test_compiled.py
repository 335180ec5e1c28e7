"""Networks compiled by torch.compile; what runs them is in compiling.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from settings import clips_config, train_config
from small_networks import small_network
from source_tree import ROOT

from fvc.errors import FvcError
from fvc.precision import compiled


def compile_elsewhere(
    device: str, dtype: str, cache: Path, **variables: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "tests" / "compiling.py"), device, dtype]
    # A cache of its own, or what another process has compiled would be taken.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache), **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def require_equal(device: str, dtype: str, cache: Path, tolerance: float) -> None:
    done = compile_elsewhere(device, dtype, cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["is_another_callable"]
    assert not found["graph_breaks"], "the network falls into pieces, which gain less"
    assert found["names_are_equal"], "checkpoints could not be interchanged"
    assert found["logit_error"] < tolerance
    assert len(found["gradient_errors"]) == 8
    wrong = {name: error for name, error in found["gradient_errors"].items() if error >= tolerance}
    assert not wrong, f"compiled, these have other gradients: {wrong}"


@pytest.mark.slow
def test_a_compiled_network_trains_as_it_does_otherwise(tmp_path: Path) -> None:
    require_equal("cpu", "bfloat16", tmp_path, 0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1)])
def test_on_a_gpu_too(tmp_path: Path, dtype: str, tolerance: float) -> None:
    require_equal("cuda", dtype, tmp_path, tolerance)


@pytest.mark.slow
def test_without_a_compiler_the_error_says_so(tmp_path: Path) -> None:
    done = compile_elsewhere("cpu", "float32", tmp_path, CXX=str(tmp_path / "none"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train.compile: torch.compile failed (No working C++ compiler")
    assert last.endswith("Install a C++ compiler (and Triton for a GPU), or set it to false.")


def test_nothing_is_compiled_unless_it_is_asked_for() -> None:
    network = small_network()
    assert compiled(network, train_config(compile=False)) is network


def test_clips_of_several_sizes_are_not_compiled() -> None:
    network = small_network()
    network.clips = clips_config(1, 8, 32, fit="native")
    with pytest.raises(FvcError, match=r"train\.compile: cannot be used with clips\.fit native"):
        compiled(network, train_config(compile=True))
