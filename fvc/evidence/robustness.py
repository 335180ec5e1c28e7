"""How far scores and verdicts hold when a video was changed on its way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from fvc.config import EvaluateConfig
from fvc.evidence.calibration import Calibration, judge
from fvc.evidence.metrics import DECIMALS, Estimate, Outcomes, merge
from fvc.evidence.paired import paired
from fvc.evidence.perturbations import LEVELS, REENCODED
from fvc.evidence.rescoring import Rescored
from fvc.seeding import generator_for, seed_for

STORED = "stored"
"""The predictions that training left: of the files as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The same videos in one version, compared with another one."""

    kind: str
    """The perturbation, or `reencoded`, or `stored`."""
    level: int | None
    """One of `LEVELS`; None where nothing is perturbed."""
    roc_auc: Estimate
    gain: Estimate
    """ROC-AUC minus that of the baseline, on the same resamples."""
    probability_change: float
    """Mean absolute difference to the probability in the baseline."""
    num_changed: int
    """Videos whose verdict (real, fake, uncertain) is another one than in the baseline."""
    share_changed: float

    @property
    def name(self) -> str:
        """As in files and metrics."""
        return self.kind if self.level is None else f"{self.kind}_{self.level}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "version": self.name,
            "kind": self.kind,
            "level": self.level,
            "roc_auc": self.roc_auc.as_dict(),
            "gain": self.gain.as_dict(),
            "probability_change": round(self.probability_change, DECIMALS),
            "num_changed": self.num_changed,
            "share_changed": round(self.share_changed, DECIMALS),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Robustness:
    """What perturbations do to the scores of some tested videos."""

    num_chosen: int
    failures: Mapping[str, str]
    """Why a chosen video could not be scored in every version; it counts in none."""
    num_videos: int
    """That could be."""
    num_groups: int
    num_fake: int
    effects: Sequence[Effect]
    """`stored`; `reencoded`, compared with it; every perturbation, compared with `reencoded`.
    Empty where no video could be scored."""

    @property
    def stored(self) -> Effect:
        """The files as they are."""
        return self.effects[0]

    @property
    def reencoded(self) -> Effect:
        """The baseline of all perturbations."""
        return self.effects[1]

    def of(self, kind: str) -> list[Effect]:
        """One perturbation, from weak to strong."""
        return [effect for effect in self.effects if effect.kind == kind]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "chosen": self.num_chosen,
            "failures": dict(self.failures),
            "videos": self.num_videos,
            "groups": self.num_groups,
            "fake": self.num_fake,
            "effects": [effect.as_dict() for effect in self.effects],
        }

    def points(self) -> pl.DataFrame:
        """One row per version, for plots."""
        rows = [
            {
                "version": effect.name,
                "roc_auc": effect.roc_auc.as_dict()["value"],
                "roc_auc_low": effect.roc_auc.as_dict()["low"],
                "roc_auc_high": effect.roc_auc.as_dict()["high"],
                "probability_change": round(effect.probability_change, DECIMALS),
                "share_changed": round(effect.share_changed, DECIMALS),
            }
            for effect in self.effects
        ]
        numbers = ("roc_auc", "roc_auc_low", "roc_auc_high", "probability_change", "share_changed")
        schema = {"version": pl.String} | dict.fromkeys(numbers, pl.Float64)
        return pl.DataFrame(rows, schema=schema, orient="row")


def choose_videos(tested: pl.DataFrame, num_videos: int, seed: int) -> pl.DataFrame:
    """Choose videos of one fold: as many real as fake, and of as many groups as there are.

    Labels take turns. Each takes a video of a group that fewest were taken
    from, of equal groups the one with the lowest rank. Ranks depend on the
    names alone, so one more video moves at most a few others in or out.

    Args:
        tested: The fold's test videos: `video_id`, `group`, `is_fake`.
        num_videos: At most so many; all, where there are no more.
        seed: The seed of params.yaml.

    Returns:
        Rows of `tested`, in its order.
    """
    left: dict[int, list[tuple[int, int, str, str]]] = {0: [], 1: []}
    for video_id, group, is_fake in tested.select("video_id", "group", "is_fake").rows():
        ranks = (seed_for(seed, "robustness", name) for name in (group, video_id))
        left[int(is_fake)].append((*ranks, group, video_id))
    taken: dict[str, int] = dict.fromkeys(tested["group"], 0)
    chosen: list[str] = []
    for turn in range(min(num_videos, tested.height)):
        side = turn % 2 if left[turn % 2] else 1 - turn % 2
        best = min(left[side], key=lambda video: (taken[video[2]], video))
        left[side].remove(best)
        taken[best[2]] += 1
        chosen.append(best[3])
    return tested.filter(pl.col("video_id").is_in(chosen))


def weigh_robustness(
    chosen: pl.DataFrame,
    rescored: Mapping[str, Rescored],
    calibrations: Mapping[int, Calibration],
    *,
    config: EvaluateConfig,
    seed: int,
) -> Robustness:
    """Measure every version on the videos that could be scored in all of them.

    Args:
        chosen: `video_id`, `fold`, `group`, `is_fake`, and the stored `logit`.
        rescored: By video id.
        calibrations: By fold.
        config: How intervals are drawn.
        seed: The seed of params.yaml; all versions are measured on the same resamples.
    """
    failures = {
        video_id: rescored[video_id].failure or ""
        for video_id in chosen["video_id"]
        if rescored[video_id].failure is not None
    }
    usable = chosen.filter(~pl.col("video_id").is_in(list(failures)))
    found = Robustness(
        num_chosen=chosen.height,
        failures=failures,
        num_videos=usable.height,
        num_groups=usable["group"].n_unique(),
        num_fake=int(usable["is_fake"].sum()),
        effects=(),
    )
    if not usable.height:
        return found
    logits = [rescored[video_id].logits for video_id in usable["video_id"]]
    outcomes = {STORED: _judged(usable, calibrations)}
    for name in logits[0]:
        column = pl.Series("logit", [each[name] for each in logits])
        outcomes[name] = _judged(usable.with_columns(column), calibrations)
    plan: list[tuple[str, int | None, str]] = [(STORED, None, STORED), (REENCODED, None, STORED)]
    plan += [(kind, level, REENCODED) for kind, levels in LEVELS.items() for level in levels]
    effects = [
        _effect(outcomes, kind, level, baseline=baseline, config=config, seed=seed)
        for kind, level, baseline in plan
    ]
    return replace(found, effects=effects)


def _judged(rows: pl.DataFrame, calibrations: Mapping[int, Calibration]) -> Outcomes:
    return merge(
        [
            judge(
                calibrations[fold],
                part["logit"].to_numpy(),
                is_fake=part["is_fake"].to_numpy(),
                groups=part["group"].to_numpy(),
            )
            for (fold,), part in rows.group_by("fold", maintain_order=True)
        ]
    )


def _effect(
    outcomes: Mapping[str, Outcomes],
    kind: str,
    level: int | None,
    *,
    baseline: str,
    config: EvaluateConfig,
    seed: int,
) -> Effect:
    own = outcomes[kind if level is None else f"{kind}_{level}"]
    before = outcomes[baseline]
    generator = generator_for(seed, "bootstrap", "robustness")
    compared = paired(before, own, per_group=False, config=config, generator=generator)["roc_auc"]
    changed = _verdicts(own) != _verdicts(before)
    return Effect(
        kind=kind,
        level=level,
        roc_auc=compared.second,
        gain=compared.gain,
        probability_change=float(np.abs(own.probability - before.probability).mean()),
        num_changed=int(changed.sum()),
        share_changed=float(changed.mean()),
    )


def _verdicts(outcomes: Outcomes) -> Int[np.ndarray, "V"]:
    """0 is real, 1 fake, 2 uncertain."""
    return np.where(outcomes.decided, outcomes.called_fake.astype(np.int64), 2)


def tracked(found: Mapping[str, Any]) -> dict[str, float]:
    """What the cross-validation's run shows of the content of `robustness.json`."""
    return {
        f"robustness/{effect['version']}_roc_auc": effect["roc_auc"]["value"]
        for effect in found["effects"]
        if effect["roc_auc"]["value"] is not None
    }
