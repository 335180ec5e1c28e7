"""The experiments that DVC keeps, by their names: which parameters each of them had."""

import subprocess
from pathlib import Path

import yaml

from fvc.config import Params, check_params
from fvc.tracking import Identity
from fvc.tracking.store import working_copy

EXPERIMENTS = "refs/exps"
"""Where DVC keeps their commits: below the commit that they started from, by name."""


def experiment_params_sha256(name: str) -> str | None:
    """The digest of what trained an experiment, as the tag of its runs has it.

    Returns:
        None where the working copy has no experiment of that name.

    Raises:
        FvcError: Its parameters are none of this code.
    """
    params = _params_of(name)
    if params is None:
        return None
    return Identity(params=params, data_sha256="", folds_sha256="").params_sha256


def _params_of(name: str) -> Params | None:
    root = working_copy()
    refs = _git(root, "for-each-ref", "--format=%(refname)", EXPERIMENTS) if root else None
    named = [ref for ref in (refs or "").splitlines() if ref.rpartition("/")[2] == name]
    if root is None or not named:
        return None
    content = _git(root, "show", f"{named[-1]}:./params.yaml")
    if content is None:
        return None
    return check_params(yaml.safe_load(content), f"params.yaml of the experiment {name}")


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, as it does outside a repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode()
