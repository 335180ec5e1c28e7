"""Whether a candidate may become champion: the gate, and the card that says what it is."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Promotion = Literal["unopposed", "won", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the gate weighs."""

    leaks: int
    """Pairs that the leakage audit found on both sides of a division."""
    roc_auc_low: float | None
    """Lower end of the interval of the out-of-fold ROC-AUC; None where it is undefined."""
    best_probe: str | None
    """The best of the simple classifiers that see one shortcut each; None where none could be
    scored."""
    best_probe_roc_auc: float | None
    opponent: str | None
    """The champion in service, if there is one."""
    gain_high: float | None
    """Upper end of the interval of the candidate's ROC-AUC minus the opponent's, on the
    locked test; None where there is no opponent or the difference is undefined."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided, and why."""

    promotion: Promotion
    beats_probes: bool
    reasons: Sequence[str]
    """One sentence per clause."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "reasons": list(self.reasons)}

    @property
    def outcome(self) -> str:
        """What happened, in a few words."""
        return {
            "unopposed": "became champion because none was in service",
            "won": "passed the gate and replaced the champion",
            "refused": "did not pass the gate; the champion stays",
        }[self.promotion]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Decision":
        """What `as_dict` gave."""
        return cls(**{**fields, "reasons": tuple(fields["reasons"])})


def decide(evidence: Evidence) -> Decision:
    """Let the candidate replace the champion only if every clause holds.

    The clauses: the audit found no leak; the lower end of the ROC-AUC's
    interval lies above the best probe; the champion in service is not
    significantly better on the locked test. Where no champion is in service,
    the first candidate with a clean audit becomes one, whatever it scores.
    """
    clean = evidence.leaks == 0
    low, probe = evidence.roc_auc_low, evidence.best_probe_roc_auc
    beats = low is not None and probe is not None and low > probe
    reasons = [
        "The leakage audit is clean." if clean else f"The audit found {evidence.leaks} leaks.",
        _probe_reason(evidence, beats),
    ]
    if evidence.opponent is None:
        promotion: Promotion = "unopposed" if clean else "refused"
        reasons.append("No champion was in service.")
    else:
        worse = evidence.gain_high is None or evidence.gain_high < 0
        reasons.append(_opponent_reason(evidence, worse))
        promotion = "won" if clean and beats and not worse else "refused"
    return Decision(promotion=promotion, beats_probes=beats, reasons=tuple(reasons))


def _probe_reason(evidence: Evidence, beats: bool) -> str:
    low, score = evidence.roc_auc_low, evidence.best_probe_roc_auc
    if low is None or score is None:
        return "The out-of-fold ROC-AUC of the model or of the probes is undefined."
    gap = abs(low - score)
    lies = f"{gap:.3f} above" if beats else f"{gap:.3f} below" if gap else "at"
    return (
        f"The model {'beats' if beats else 'does not beat'} the probes: the interval of its "
        f"out-of-fold ROC-AUC starts at {low:.3f}, {lies} the best probe, "
        f"'{evidence.best_probe}' ({score:.3f})."
    )


def _opponent_reason(evidence: Evidence, worse: bool) -> str:
    if evidence.gain_high is None:
        return (
            f"The difference to {evidence.opponent} on the locked test is undefined, or it cannot "
            "see these clips; to retire it, delete the alias 'champion' and run 'dvc repro -f -s "
            "register'."
        )
    verb = "is worse than" if worse else "is not worse than"
    high = f"the interval of the difference ends at {evidence.gain_high:+.3f}"
    return f"On the locked test the candidate {verb} {evidence.opponent}: {high}."


def model_card(
    decision: Decision,
    *,
    headline: str,
    locked: str,
    data: dict[str, str],
) -> str:
    """The description of a registered version, in Markdown; it opens with what to beware of.

    Args:
        decision: Of the gate.
        headline: Out-of-fold scores with intervals, in a line.
        locked: Scores on the locked test, in a line.
        data: Name and value of what identifies data, folds and parameters.
    """
    beats = "beats" if decision.beats_probes else "does **not** beat"
    rows = "\n".join(f"| {name} | `{value}` |" for name, value in data.items())
    return f"""# fvc: is this video real?

This version {decision.outcome}. It {beats} the probes, simple classifiers that
see one shortcut each: the platform, the file's header, a single frame, black bars, the cascade.

{chr(10).join(f"- {reason}" for reason in decision.reasons)}

## Scores

- Out of fold: {headline}
- Locked test, scored once for this version: {locked}

## Use

It takes the bytes of a video and answers `real`, `fake` or `uncertain`. It helps a person who
checks footage; it replaces none. Many fakes are authentic footage with a false claim, and pixels
cannot see that. Footage unlike that of the training corpus may be scored wrongly with confidence.

## Protocol

Groups of near-duplicates are never divided between training and test. Temperature, threshold and
the band of `uncertain` were chosen on validation videos alone.

## Data

| | |
|---|---|
{rows}
"""
