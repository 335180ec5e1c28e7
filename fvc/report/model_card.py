"""The model card: what a registered version is, what it is worth, and who should not use it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fvc.config import ClipsConfig
from fvc.evidence.metrics import Estimate
from fvc.evidence.promotion import Decision
from fvc.report.wording import estimate_text

# MLflow's tables take 5,000 characters on a server.
MAX_SLICES = 5

MEASURES: Mapping[str, str] = {
    "roc_auc": "ROC-AUC",
    "macro_f1": "macro-F1",
    "balanced_accuracy": "balanced accuracy",
    "brier": "Brier score (0 is best)",
    "ece": "calibration error (0 is best)",
    "coverage": "share answered `real` or `fake`",
    "decided_accuracy": "share of these that is right",
}
"""The rows of the table of scores, by the names of `metrics.json`."""

INTENDED_USE = """## Intended use

It takes the bytes of a video and answers `real`, `fake` or `uncertain`, with a probability for
each part of the video. It is a second opinion for a person who checks footage, and may sort what
that person looks at first.

**Do not use it** to remove, label or rank videos without a person, to accuse anybody, as evidence
in a court, or on footage unlike that of the training corpus."""
"""What every version is for."""

GAP = "&emsp;"
"""Before a cell: MLflow's page sets the columns of a table without a space between them."""

UNSAID = ("none", "unknown")
"""What tags say where there is nothing to say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on some videos."""

    num_videos: int
    num_groups: int
    measures: Mapping[str, Mapping[str, Any]]
    """Of each measure `value`, `low` and `high`, as `Estimate.as_dict` gives them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a card says besides what is true of every version."""

    decision: Decision
    out_of_fold: Measured
    locked: Measured
    readings: int
    """How many networks were scored on this locked test so far, this one included."""
    slices: Sequence[Mapping[str, Any]]
    """The content of `slices.json`."""
    clips: ClipsConfig
    """What the network is shown of a video."""
    num_training: int
    """Videos that this network was trained on; those made from them do not count."""
    num_validation: int
    """Videos that chose when its training stops, temperature, threshold and the band."""
    fold: int
    confidence: float
    """Coverage of the intervals."""
    identity: Mapping[str, str]
    """Name and value of what identifies data, folds, parameters and code."""


def model_card(facts: Facts) -> str:
    """The description of a registered version, in Markdown; it opens with what to beware of.

    A paragraph is one line, as MLflow's page breaks lines where the text does.
    """
    return unwrapped(_wrapped_card(facts))


def unwrapped(text: str) -> str:
    """Markdown whose paragraphs are one line each."""
    return re.sub(r"(?<=[^\n|])\n *(?=[^\n #|-])", " ", text)


def _wrapped_card(facts: Facts) -> str:
    decision = facts.decision
    beats = "beats" if decision.beats_probes else "does **not** beat"
    times = "once" if facts.readings == 1 else f"{facts.readings} times"
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    return f"""# fvc: is this video real?

This version {decision.outcome}. It {beats} the best probe.

{reasons}

{INTENDED_USE}

## Metrics

{_table(facts)}

Intervals of {facts.confidence:.0%}, from resampled groups. Out of fold, each video is scored by
the network of the fold that tests its group; this version is the network of fold {facts.fold}.
The locked test has been read **{times}** so far, this version included: the more often, the less
it says.

## Where it is worse

{_worse(facts.slices)}

## Limits

- Many fakes are authentic footage with a false claim, and pixels cannot see that: `real` means
  that nothing in the picture spoke against it, not that the story is true.
- Footage unlike that of the training corpus, or a new kind of manipulation, may be scored wrongly
  with confidence. Whoever knows the model can make videos that it misjudges.
- It sees {_sees(facts.clips)}; what is smaller or in between it does not see, nor does it hear
  the sound or read what is said about the video.
- Temperature, threshold and the band of `uncertain` come from {facts.num_validation} validation
  videos.

## Data and protocol

This network was trained on {facts.num_training} videos, and {facts.num_validation} others chose
when to stop. {facts.out_of_fold.num_videos} videos in {facts.out_of_fold.num_groups} groups are
tested out of fold, {facts.locked.num_videos} in {facts.locked.num_groups} groups are the locked
test. How the errors on the test videos of fold {facts.fold} fall the fewer are answered, is in
`risk_coverage.csv`, beside the weights.

A group holds the cascades (a video and its reposts) that share footage; one that is divided
between training, validation and test is a leak, which the audit looks for. The fold was chosen by
its score on validation videos, and so were temperature, threshold and band; the locked test chose
nothing but who serves.

| | |
|---|---|
{_rows(facts.identity)}
"""


def _sees(clips: ClipsConfig) -> str:
    most = "at most " if clips.views == "rolling" else ""
    number = f"{most}{clips.num_clips} clips" if clips.num_clips > 1 else "one clip"
    return f"{number} of {clips.num_frames} frames of {clips.side_px} pixels a video"


def _table(facts: Facts) -> str:
    """Scores out of fold and on the locked test, side by side."""
    rows = [
        f"| |{GAP}out of fold |{GAP}locked test |",
        "|---|---|---|",
        f"| videos (groups) |{GAP}{_size(facts.out_of_fold)} |{GAP}{_size(facts.locked)} |",
    ]
    for name, label in MEASURES.items():
        cells = [_cell(tested.measures.get(name)) for tested in (facts.out_of_fold, facts.locked)]
        rows.append(f"| {label} |{GAP}{cells[0]} |{GAP}{cells[1]} |")
    return "\n".join(rows)


def _size(tested: Measured) -> str:
    return f"{tested.num_videos} ({tested.num_groups})"


def _cell(found: Mapping[str, Any] | None) -> str:
    return "unknown" if found is None else estimate_text(Estimate(**found))


def _worse(slices: Sequence[Mapping[str, Any]]) -> str:
    """The slices that evaluation shows to be worse than the rest."""
    lines = [
        f"- {found['by'].replace('_', ' ')} {found['name']}: its share of wrong calls "
        f"is {found['excess_error']['error']:.3f} above the others', "
        f"ROC-AUC {_cell(found['roc_auc'])}, {found['videos']} videos"
        for found in slices
        if found["excess_error"]["worse"]
    ]
    tested = sum(found["excess_error"]["corrected"] is not None for found in slices)
    if not tested:
        return "No slice could be tested: each, or its rest, has too few cascades or errors."
    more = len(lines) - MAX_SLICES
    if more > 0:
        lines[MAX_SLICES:] = [f"- and {more} more, which the report has"]
    return "\n".join(lines) or (
        f"No slice is shown to be worse than the rest; {tested} of {len(slices)} could be tested."
    )


def _rows(identity: Mapping[str, str]) -> str:
    told = {name: value for name, value in identity.items() if value not in UNSAID}
    return "\n".join(f"| {name} |{GAP}`{value}` |" for name, value in told.items())
