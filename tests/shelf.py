"""Clips that each network takes, as small as is of use in a test."""

from pathlib import Path

from settings import clips_config

from fvc.config import TAKES, ClipsConfig, Params, load_params
from fvc.networks import ARCHITECTURES

TRAINED = tuple(name for name, each in ARCHITECTURES.items() if each.classifier is None)
"""The networks that gradients train: trees have tests of their own."""

ROOT = Path(__file__).parents[1]


def compose(target: Path, *overrides: str) -> Params:
    """What `dvc exp run -S ...` writes to params.yaml, by DVC's own code."""
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(target, str(ROOT / "conf"), None, "config", str(target.parent), [*overrides])
    return load_params(target)


def small_clips(name: str, *, frames: int = 4, side_px: int = 32) -> ClipsConfig:
    """Letterboxed clips of at least this size that the network `name` takes."""
    takes = TAKES[name]
    return clips_config(
        1,
        _next(max(frames, takes.frames_from), takes.frames_multiple),
        _next(max(side_px, takes.side_px_from), takes.side_px_multiple),
    )


def _next(least: int, multiple: int) -> int:
    return -(-least // multiple) * multiple
