"""Scoring perturbed videos by the network of the fold that tests them; what was scored is kept."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.evidence.perturbations import clips_of_versions, version_names
from fvc.files import read_json, sha256_of, sha256_of_code, sha256_of_file, write_json
from fvc.networks import WEIGHTS, ClipClassifier, load_network
from fvc.pool import Failure, run_isolated
from fvc.precision import choose_precision
from fvc.predict import clip_logits, video_logit

CODE = (
    "encoding.py",
    "evidence/perturbations.py",
    "flow.py",
    "memory.py",
    "networks",
    "predict.py",
    "residuals.py",
    "sampling.py",
    "video/__init__.py",
    "video/decoding.py",
    "video/limits.py",
    "video/packets.py",
    "video/picture.py",
)
"""The modules behind a score: those of other code are not taken up again."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A video that is scored again."""

    video_id: str
    source: Path
    sha256: str
    """Of the file."""
    fold: int
    """The one that tests it."""


@dataclass(frozen=True, slots=True)
class Rescored:
    """The logits of a video by the names of its versions; or none, and why."""

    logits: Mapping[str, float]
    failure: str | None = None


def rescore(
    subjects: Sequence[Subject], models: Path, config: ClipsConfig, kept: Path
) -> dict[str, Rescored]:
    """Score every version of every video, by the path that serving takes.

    Versions are made in isolated workers while others are scored. Scores are
    kept as they come, so that a killed run has not worked in vain; what took
    too long or crashed its worker is tried again by the next run.

    Args:
        subjects: Each file once.
        models: One folder per fold.
        config: How a video becomes clips; its time limit holds for each version.
        kept: Folder of the scores of this and earlier runs.

    Returns:
        The scores by video id, in the order of `subjects`.

    Raises:
        FvcError: A video or a network is missing.
    """
    for subject in subjects:
        if not subject.source.is_file():
            raise FvcError(subject.source, "is missing", "Run 'dvc repro extract'")
    folds = {subject.fold for subject in subjects}
    weights = {fold: sha256_of_file(_weights(models, fold)) for fold in folds}
    places = {
        subject.video_id: kept / f"{_key(subject.sha256, weights[subject.fold], config)}.json"
        for subject in subjects
    }
    found = {video_id: _read(place) for video_id, place in places.items() if place.is_file()}
    waiting = [subject for subject in subjects if subject.video_id not in found]
    for subject, rescored, is_final in _score(waiting, models, config):
        if is_final:
            _write(places[subject.video_id], rescored)
        found[subject.video_id] = rescored
    return {subject.video_id: found[subject.video_id] for subject in subjects}


def _score(
    subjects: Sequence[Subject], models: Path, config: ClipsConfig
) -> Iterable[tuple[Subject, Rescored, bool]]:
    """Each video with its scores, and whether another run would find the same."""
    device = choose_precision(mixed=False).device
    # Videos come fold by fold, but for the few that workers hold at a time.
    network_of = lru_cache(maxsize=2)(lambda fold: load_network(models / str(fold)).to(device))
    by_source = {subject.source: subject for subject in subjects}
    outcomes = run_isolated(
        partial(clips_of_versions, config=config),
        sorted(by_source, key=lambda source: (by_source[source].fold, source)),
        timeout_s=len(version_names()) * config.timeout_s,
        description="perturb videos",
    )
    for source, outcome in outcomes:
        subject = by_source[source]
        if isinstance(outcome, FvcError):
            raise outcome
        if isinstance(outcome, dict):
            logits = logits_of_versions(network_of(subject.fold), outcome)
            yield subject, Rescored(logits), True
        else:
            sys.stderr.write(f"perturb videos: {subject.video_id}: {outcome}\n")
            yield subject, Rescored({}, str(outcome)), not isinstance(outcome, Failure)


def logits_of_versions(
    network: ClipClassifier, versions: Mapping[str, UInt8[np.ndarray, "N T C _H _W"]]
) -> dict[str, float]:
    """The logit of each version of one video, as `video_logit` gives it.

    Clips of one shape are scored together: one by one they take three times as
    long on a CPU, and the logits are the same but for rounding.
    """
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, pixels in versions.items():
        by_shape.setdefault(pixels.shape[1:], []).append(name)
    logits: dict[str, float] = {}
    for names in by_shape.values():
        together = torch.from_numpy(np.concatenate([versions[name] for name in names]))
        sizes = [len(versions[name]) for name in names]
        parts = torch.split(clip_logits(network, together), sizes)
        logits |= {name: video_logit(part) for name, part in zip(names, parts, strict=True)}
    return {name: logits[name] for name in versions}


def _weights(models: Path, fold: int) -> Path:
    weights = models / str(fold) / WEIGHTS
    if not weights.is_file():
        raise FvcError(weights, "is missing", f"Run 'dvc repro -f -s train@{fold}'")
    return weights


def _read(place: Path) -> Rescored:
    return Rescored(**read_json(place, "evaluate"))


def _write(place: Path, rescored: Rescored) -> None:
    write_json(place, {"logits": dict(rescored.logits), "failure": rescored.failure})


def _key(video_sha256: str, weights_sha256: str, config: ClipsConfig) -> str:
    """What the scores of one video depend on, as one text."""
    parts = [video_sha256, weights_sha256, config.pixel_settings(), version_names(), _code()]
    return sha256_of(parts)


@cache
def _code() -> list[str]:
    versions = [version(name) for name in ("av", "numpy", "opencv-python-headless", "torch")]
    return [*versions, *sha256_of_code(CODE)]
