"""Whether a candidate may become champion: the gate."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fvc.evidence.metrics import lies_above
from fvc.evidence.probes import PROBES
from fvc.files import sha256_of

Promotion = Literal["unopposed", "won", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opponent:
    """The champion in service, beside the candidate on the locked test."""

    name: str
    """What reasons call it."""
    gain_high: float | None
    """Upper end of the interval of the candidate's ROC-AUC minus the opponent's."""
    unknown: str | None
    """Why there is no such interval; None where there is one."""
    perhaps_seen: int
    """Videos of this locked test that were not locked when the opponent was trained."""


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
    withdrawn: bool
    """A person took this very version out of service."""
    opponent: Opponent | None
    """The champion in service, if there is one."""

    @property
    def own_sha256(self) -> str:
        """Of what evaluation found, whoever is in service: with this, a decision stands."""
        return sha256_of({**asdict(self), "opponent": None, "withdrawn": None})


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
            "refused": "did not pass the gate and is not in service",
        }[self.promotion]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Decision":
        """What `as_dict` gave."""
        return cls(**{**fields, "reasons": tuple(fields["reasons"])})


def decide(evidence: Evidence) -> Decision:
    """Let the candidate replace the champion only if every clause holds.

    The clauses: the audit found no leak; the lower end of the ROC-AUC's
    interval lies above the best probe; no person took this version out of
    service; the champion in service is not significantly better on the locked
    test. Where no champion is in service, the first candidate with a clean
    audit becomes one, whatever it scores.
    """
    clean, beats, reasons = _own_clauses(evidence)
    if evidence.withdrawn:
        reasons.append(_withdrawn_reason(evidence.opponent))
    promotion: Promotion
    if evidence.opponent is None:
        passed, promotion = clean, "unopposed"
        reasons.append("No champion was in service.")
    else:
        gain_high = evidence.opponent.gain_high
        worse = gain_high is None or gain_high < 0
        passed, promotion = clean and beats and not worse, "won"
        reasons.append(_opponent_reason(evidence.opponent))
    if not passed or evidence.withdrawn:
        promotion = "refused"
    return Decision(promotion=promotion, beats_probes=beats, reasons=tuple(reasons))


def stay(decision: Decision, evidence: Evidence) -> Decision:
    """What is said of the champion after its own evidence has changed: it stays.

    The gate is at the entrance; who is in may be worse than was thought, which
    the reasons then say, and is for people to act on.
    """
    _, beats, reasons = _own_clauses(evidence)
    reasons.append("It is champion already; a better candidate or 'fvc rollback' replaces it.")
    return Decision(promotion=decision.promotion, beats_probes=beats, reasons=tuple(reasons))


def _own_clauses(evidence: Evidence) -> tuple[bool, bool, list[str]]:
    """Whether the audit is clean, whether it beats the probes, and a sentence on each."""
    clean = evidence.leaks == 0
    beats = lies_above(evidence.roc_auc_low, evidence.best_probe_roc_auc)
    found = f"{evidence.leaks} leak{'' if evidence.leaks == 1 else 's'}"
    audit = "The leakage audit is clean." if clean else f"The audit found {found}."
    return clean, beats, [audit, _probe_reason(evidence, beats)]


def _probe_reason(evidence: Evidence, beats: bool) -> str:
    low, score = evidence.roc_auc_low, evidence.best_probe_roc_auc
    if low is None or score is None or evidence.best_probe is None:
        return "The out-of-fold ROC-AUC of the model or of the probes is undefined."
    gap = abs(low - score)
    lies = f"{gap:.3f} above" if beats else f"{gap:.3f} below" if gap else "at"
    return (
        f"The model {'beats' if beats else 'does not beat'} the probes: the interval of its "
        f"out-of-fold ROC-AUC starts at {low:.3f}, {lies} the best probe, "
        f"'{PROBES[evidence.best_probe]}' ({score:.3f})."
    )


def _withdrawn_reason(opponent: Opponent | None) -> str:
    if opponent is None:
        remedy = "Without its tag 'fvc.withdrawn' ('mlflow ui', Model registry) it may serve again."
        return f"This version was taken out of service. {remedy}"
    return "This version was taken out of service by 'fvc rollback', which alone brings it back."


def _opponent_reason(opponent: Opponent) -> str:
    name = opponent.name
    if opponent.gain_high is None:
        return (
            f"The difference to {name} on the locked test is unknown: {opponent.unknown}. To "
            f"retire {name}, delete the alias 'champion' and run 'dvc repro -f -s register'."
        )
    verb = "is worse than" if opponent.gain_high < 0 else "is not worse than"
    high = f"the interval of the difference ends at {opponent.gain_high:+.3f}"
    seen = (
        f" Of these videos, {opponent.perhaps_seen} were not locked when {name} was trained: it "
        "may have learnt from them, which favours it."
    )
    said = f"On the locked test the candidate {verb} {name}: {high}."
    return said + (seen if opponent.perhaps_seen else "")
