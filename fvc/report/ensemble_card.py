"""The card of an ensemble: what it is, and that nobody has weighed it."""

from collections.abc import Sequence
from dataclasses import dataclass

from fvc.evidence.metrics import Estimate
from fvc.report.model_card import INTENDED_USE, unwrapped
from fvc.report.wording import estimate_text


@dataclass(frozen=True, kw_only=True, slots=True)
class CardMember:
    """One of its networks."""

    network: str
    run_id: str
    """Of its cross-validation."""
    temperature: float
    weights_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EnsembleFacts:
    """What the card says besides what is true of every ensemble."""

    members: Sequence[CardMember]
    fold: int
    roc_auc: Estimate
    """Out of fold, per video."""
    macro_f1: Estimate
    num_videos: int
    num_groups: int
    num_validation: int
    """Videos that temperature, threshold and band were learned from."""
    confidence: float


def ensemble_card(facts: EnsembleFacts) -> str:
    """The description of its version, in Markdown."""
    rows = "\n".join(
        f"| {member.network} | `{member.run_id}` | {member.temperature:.3f} | "
        f"`{member.weights_sha256}` |"
        for member in facts.members
    )
    return unwrapped(f"""# fvc: is this video real?

This version is an **ensemble** of {len(facts.members)} networks. It has **not met the gate**: no
audit, probe or locked test was held against it, and it is `challenger` alone. Nothing but a person
can put it into service.

{INTENDED_USE}

## What it answers

The mean of its members' logits, each divided by the temperature of its own network. Temperature,
threshold and the band of `uncertain` were then learned from that mean on {facts.num_validation}
validation videos of fold {facts.fold}, which no member trained on. The fold was chosen by its
score on its validation videos.

| network | cross-validation | temperature | weights |
|---|---|---|---|
{rows}

## Metrics

Out of fold, on {facts.num_videos} videos in {facts.num_groups} groups, with intervals of
{facts.confidence:.0%}: ROC-AUC {estimate_text(facts.roc_auc)}, macro-F1
{estimate_text(facts.macro_f1)}. Members that were chosen for their scores on these videos make
that look better than it is.
""")
