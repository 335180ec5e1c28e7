"""What tells one run's parameters from the committed ones, in a few words."""

import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import yaml

from fvc.config import Params, as_overrides, differences
from fvc.tracking.store import working_copy

NONE, UNKNOWN = "none", "unknown"
NAME_LENGTH = 120
"""Characters of a run's name for people; the tag has all."""


def changed_params(params: Params) -> str:
    """The settings that the last commit's `params.yaml` has not so, as `--set` takes them.

    DVC's queue runs an experiment in a copy of the working copy, which has a
    repository of its own; there, DVC names the commit that it started from.

    Returns:
        `none` where nothing differs, `unknown` where no commit can be read.
    """
    root = working_copy()
    committed = _committed(root) if root else None
    if committed is None:
        return UNKNOWN
    return as_overrides(differences(params, committed)) or NONE


def named_after(name: str, changed: str) -> str:
    """The name of a run, and what is special about it as far as there is room."""
    if changed in (NONE, UNKNOWN):
        return name
    return textwrap.shorten(f"{name} {changed}", NAME_LENGTH, placeholder=" ...")


def differs_from_commit(root: Path) -> bool:
    """Whether a tracked file differs from the last commit, those aside that runs tell of or change.

    The parameters are in `changed_params`; `dvc repro` writes the lock while it trains.
    """
    told = [":!params.yaml", ":!dvc.lock"]
    command = ["git", "diff", "--quiet", "HEAD", "--", ".", *told]
    return subprocess.run(command, cwd=root, capture_output=True).returncode != 0


def _committed(root: Path) -> dict[str, Any] | None:
    revision = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
    try:
        shown = subprocess.run(
            ["git", "show", f"{revision}:./params.yaml"], cwd=root, capture_output=True, check=True
        )
        content = yaml.safe_load(shown.stdout)
    except (OSError, subprocess.CalledProcessError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None
