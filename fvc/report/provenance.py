"""Where verdicts come from, as text for a terminal, and how to build their models again."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fvc.tracking.changes import UNKNOWN
from fvc.tracking.lineage import Lineage

MOST_SHOWN = 20
"""Verdicts of one model that are shown one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One verdict, and what its video is to the network that gave it."""

    name: str
    """What a reader knows the video by."""
    sha256: str
    """Of the video; empty where it was not read."""
    said: str
    """`fake`, `real`, `uncertain`, or why there is none."""
    probability_fake: float | None
    threshold: float | None
    """Between real and fake; None where it is not kept with the verdict."""
    standing: str
    """What the video is to the corpus that the network was trained and tested on."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "video_sha256": self.sha256 or None,
            "verdict": self.said,
            "probability_fake": self.probability_fake,
            "threshold": self.threshold,
            "standing": self.standing,
        }


def as_text(verdicts: Sequence[Verdict], lineage: Lineage, root: Path | None) -> str:
    """Verdicts of one model, what it rests on, and the commands that rebuild it.

    Args:
        verdicts: At least one.
        lineage: Of the model.
        root: The repository; None where there is none around.
    """
    lines = [line for verdict in verdicts[:MOST_SHOWN] for line in _verdict(verdict)]
    if len(verdicts) > MOST_SHOWN:
        lines.append(f"and {len(verdicts) - MOST_SHOWN} more; --json FILE has all")
    return "\n".join([*lines, "", *_model(lineage), "", *_rebuilding(lineage, root), ""])


def _verdict(verdict: Verdict) -> list[str]:
    score = "" if verdict.probability_fake is None else f", {verdict.probability_fake:.3f}"
    threshold = "" if verdict.threshold is None else f" (threshold {verdict.threshold:.3f})"
    return [
        f"{verdict.name}: {verdict.said}{score}{threshold}",
        *([f"  sha256   {verdict.sha256}"] if verdict.sha256 else []),
        f"  corpus   {verdict.standing}",
    ]


def _model(lineage: Lineage) -> list[str]:
    aliases = f" ({', '.join(lineage.aliases)})" if lineage.aliases else ""
    commit = lineage.commit or "no commit is known"
    changes = ", and changes that were not committed" if lineage.uncommitted else ""
    unlike = f"; unlike the commit: {lineage.changed}" if lineage.changed else ""
    told = {
        "model": f"{lineage.model or 'not registered'}{aliases}",
        "run": f"{lineage.run_id}, {lineage.run_name}",
        "": lineage.page,
        "above": f"{lineage.cross_validation}, its cross-validation",
        "network": f"{lineage.network}, trained on fold {lineage.fold}",
        "weights": f"sha256 {lineage.weights_sha256}",
        "folds": f"sha256 {lineage.folds_sha256}",
        "data": f"sha256 {lineage.data_sha256}",
        "params": f"sha256 {lineage.params_sha256}{unlike}",
        "code": f"{commit}{changes}",
    }
    if lineage.experiment:
        told["DVC"] = f"experiment {lineage.experiment}"
    return [f"{name:<9}{value}" for name, value in told.items()]


def _rebuilding(lineage: Lineage, root: Path | None) -> list[str]:
    if not lineage.commit:
        return ["It cannot be built again: it was trained outside of a Git repository."]
    warning = []
    if lineage.uncommitted:
        warning = ["Its code was not committed, so what follows may give another network."]
    commands = "\n".join(rebuilding_commands(lineage, root))
    return [*warning, "To build it again:", "", *commands.splitlines()]


def rebuilding_commands(lineage: Lineage, root: Path | None) -> list[str]:
    """The commands that build a network again, in a clone of its own, and what they give.

    They run in a shell of their own that ends with the first one that fails, and in a store of
    their own, so that nothing of the repository changes. On a machine with the same kind of
    processor and as many threads the digests are equal.
    """
    source = "." if root is None else shlex.quote(str(root))
    clone = f"fvc-{lineage.commit[:7]}"
    again = ["dvc repro --force"]
    if lineage.changed and lineage.changed != UNKNOWN:
        settings = (f"-S {shlex.quote(setting)}" for setting in shlex.split(lineage.changed))
        # Composed anew, parameters would be those of conf/ and not those of the commit.
        again = [
            "dvc config --local hydra.enabled false",
            f"dvc exp run --force {' '.join(settings)}",
        ]
    return [
        "(",
        "set -e",
        "unset MLFLOW_TRACKING_URI MLFLOW_RUN_ID MLFLOW_EXPERIMENT_NAME DVC_ROOT",
        f'cache="$(cd {source}; dvc cache dir)"',
        f"git clone --quiet {source} {clone}",
        f"cd {clone}",
        f"git checkout --quiet {lineage.commit}",
        "make setup",
        ". .venv/bin/activate",
        'dvc cache dir --local "$cache"',
        "dvc checkout data.dvc   # where the cache lacks it: dvc pull data.dvc",
        *again,
        f"sha256sum work/models/{lineage.fold}/weights.safetensors   # {lineage.weights_sha256}",
        f"cat work/folds.csv.sha256   # {lineage.folds_sha256}",
        f"grep data_sha256 work/clips.json   # {lineage.data_sha256}",
        ")",
    ]
