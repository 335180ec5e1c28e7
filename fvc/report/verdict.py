"""What the report says first: how good the model is, and how sure that is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fvc.evidence.metrics import Estimate, Outcomes
from fvc.evidence.probes import PROBES, Probe, beats_probes, best_probe
from fvc.report import Grid, Headline, Terms
from fvc.report.sections import LABELS, NAMES, Availability
from fvc.report.wording import (
    counted,
    estimate_text,
    interval_text,
    percent_text,
    span_of,
    value_text,
)

FEW_CASCADES = 20
"""With fewer of a class one more cascade may change every number, and a bootstrap over groups
rests on what little they happen to be.

Source:
    Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference with
    clustered errors", Review of Economics and Statistics 90(3), 2008: few is 5 to 30.
"""

GUESSING = 0.5

TERMS: Terms = (
    (
        "ROC-AUC",
        "of one fake and one real video, how often the fake gets the higher score. 0.5 is "
        "guessing, 1 is always.",
    ),
    (
        "Macro-F1",
        "from 0 to 1, how well videos are named real and fake; both classes count the same.",
    ),
    (
        "Cascade",
        "a video with its reposts and other near-duplicates. Per video, a much-shared video counts "
        "often; per cascade, it counts once.",
    ),
    (
        "Interval",
        "where the number would mostly lie had other cascades been collected; the wider, the less "
        "is known.",
    ),
    (
        "Probe",
        "a rival that takes a shortcut instead of watching the video, such as guessing from the "
        "platform or the file's header. Where a shortcut does as well, nothing shows that the "
        "model learned to see fakes.",
    ),
    ("Audit", "a search for cascades that are in training and in test at once, a leak."),
)
"""The words of the verdict."""


def headline_of(
    video: Mapping[str, Estimate],
    cascade: Mapping[str, Estimate],
    probes: Mapping[str, Probe],
    num_leaks: int,
    *,
    tested: Outcomes,
    availability: Availability,
    confidence: float,
) -> Headline:
    """The verdict on the model, per video and weighted per cascade.

    Args:
        video: Every measure, each video counting the same.
        cascade: Every measure, each cascade counting the same.
        probes: The rivals on the same videos.
        num_leaks: What the audit of the split found.
        tested: The videos behind the measures.
        availability: As index counted it.
        confidence: Of the intervals.
    """
    roc_auc = video["roc_auc"]
    beaten = beats_probes(roc_auc, probes)
    few = _few(tested)
    statement = statement_of(roc_auc, probes, num_leaks)
    if few and beaten and not num_leaks:
        statement = f"{statement.removesuffix('.')}, but on very few videos."
    return Headline(
        good_news=beaten and not num_leaks and not few,
        statement=statement,
        text=[*_in_plain_words(roc_auc, confidence), *few],
        numbers=[
            (f"{NAMES[name]} per {unit}", value_text(found[name].value), interval_text(found[name]))
            for name in ("roc_auc", "macro_f1")
            for unit, found in (("video", video), ("cascade", cascade))
        ],
        comparison=comparison_of(roc_auc, probes, confidence),
        facts=_facts(video, probes, num_leaks, tested, availability),
        terms=TERMS,
    )


def statement_of(roc_auc: Estimate, probes: Mapping[str, Probe], num_leaks: int) -> str:
    """The verdict in a sentence that promises no more than was shown."""
    best = best_probe(probes)
    score = None if best is None else probes[best].roc_auc.value
    if num_leaks:
        return f"These numbers prove nothing: the audit found {counted(num_leaks, 'leak')}."
    if roc_auc.value is None or roc_auc.low is None or roc_auc.high is None:
        return f"How good the model is cannot be told: {roc_auc.reason}."
    if best is None or score is None:
        return "The model is not shown to beat the probes: none of them could be measured."
    if roc_auc.high < GUESSING:
        return "The model is worse than guessing."
    if roc_auc.low <= GUESSING:
        return "The model is not shown to beat guessing."
    if beats_probes(roc_auc, probes):
        return "The model beats every probe."
    if roc_auc.value > score:
        return "The model is ahead of the probes, but not shown to beat them."
    return f"The model is not shown to beat the probes: '{PROBES[best]}' does as well or better."


def comparison_of(roc_auc: Estimate, probes: Mapping[str, Probe], confidence: float) -> Grid:
    """The model beside the probes, the strongest first."""
    known = sorted(
        ((PROBES[name], probe.roc_auc) for name, probe in probes.items()),
        key=lambda row: (row[1].value is None, -(row[1].value or 0.0)),
    )
    rows = [("this model", roc_auc), *known]
    return Grid(
        caption=f"Model and probes: ROC-AUC with {confidence:.0%} interval; 0.5 is guessing",
        header=("", "ROC-AUC"),
        rows=[(name, estimate_text(found)) for name, found in rows],
        spans=[span_of(found, stands_out=found is roc_auc) for _, found in rows],
        spans_title="0.5",
    )


def cascades_by_label(tested: Outcomes) -> dict[str, int]:
    """In how many cascades there are videos of either label."""
    sides = zip(LABELS, (~tested.is_fake, tested.is_fake), strict=True)
    return {label: len(np.unique(tested.groups[members])) for label, members in sides}


def _few(tested: Outcomes) -> list[str]:
    counts = cascades_by_label(tested)
    if min(counts.values()) >= FEW_CASCADES or not min(counts.values()):
        return []
    real, fake = (counted(counts[label], "cascade") for label in LABELS)
    return [
        f"Very few videos: the real ones are of {real}, the fakes of {fake}. With fewer than "
        f"{FEW_CASCADES} of either, one more cascade may change every number: read this as a "
        "trial of the method, not as a result."
    ]


def _in_plain_words(roc_auc: Estimate, confidence: float) -> list[str]:
    if roc_auc.value is None:
        return []
    interval = "how sure that is, is not known"
    if roc_auc.low is not None and roc_auc.high is not None:
        interval = (
            f"between {100 * roc_auc.low:.0f} and {100 * roc_auc.high:.0f} by a "
            f"{confidence:.0%} interval"
        )
    return [
        "Shown one fake and one real video that it was not trained on, the model gives the "
        f"fake the higher score in {100 * roc_auc.value:.0f} of 100 cases ({interval}). Guessing "
        "gets 50."
    ]


def _facts(
    video: Mapping[str, Estimate],
    probes: Mapping[str, Probe],
    num_leaks: int,
    tested: Outcomes,
    availability: Availability,
) -> Sequence[tuple[str, str]]:
    best = best_probe(probes)
    strongest = "no probe could be measured"
    if best is not None:
        score = value_text(probes[best].roc_auc.value)
        strongest = f"the best probe is {PROBES[best]}, ROC-AUC {score}"
    beaten = beats_probes(video["roc_auc"], probes)
    num_fake = int(tested.is_fake.sum())
    coverage, decided = video["coverage"], video["decided_accuracy"]
    right = percent_text(decided.value)
    return [
        (
            "Does its interval lie above the best probe?",
            f"{'Yes' if beaten else 'No'}; {strongest}",
        ),
        (
            "Is any cascade in two parts of the split?",
            f"{'No' if num_leaks == 0 else 'Yes'}; the audit found {counted(num_leaks, 'leak')}",
        ),
        ("May it replace the model in service?", _may_serve(beaten, num_leaks)),
        (
            "How many videos get a verdict?",
            f"{percent_text(coverage.value)}; the others are uncertain",
        ),
        (
            "How many of these verdicts are right?",
            f"{right}: {decided.reason}"
            if decided.value is None
            else f"{right} ({interval_text(decided)})",
        ),
        (
            "What was it measured on?",
            f"{counted(len(tested.is_fake), 'video')} ({num_fake:,} fake) of "
            f"{counted(len(np.unique(tested.groups)), 'cascade')}",
        ),
        ("How much of the annotated data is usable?", _usable(availability)),
    ]


def _usable(availability: Availability) -> str:
    counts = [
        by_label[label]
        for by_label in availability.values()
        for label in by_label
        if label in LABELS
    ]
    annotated = sum(count["annotated"] for count in counts)
    usable = sum(count["usable"] for count in counts)
    if not annotated:
        return "nothing is annotated as real or fake"
    return f"{usable:,} of {counted(annotated, 'real or fake video')} ({usable / annotated:.0%})"


def _may_serve(beaten: bool, num_leaks: int) -> str:
    """What the gate's first clauses say; the locked test is read only after this page is made."""
    if num_leaks:
        return "No; not even where none is in service, because of the leaks"
    if not beaten:
        return "No; where none is in service it may be the first, and its model card says so"
    return "Yes, unless it is worse on the locked test; the model card says what came of it"


def note_of(metrics: Mapping[str, Any]) -> str:
    """What the page of the cross-validation's run says first, in Markdown.

    Args:
        metrics: As `metrics.json` has them.
    """
    found = estimate_text(Estimate(**metrics["video"]["roc_auc"]))
    beats = "beats" if metrics["beats_probes"] else "does **not** beat"
    probe = f", {PROBES[metrics['best_probe']]}" if metrics["best_probe"] else ""
    leaks = metrics["leaks"]
    warning = f"**These numbers prove nothing: the audit found {counted(leaks, 'leak')}.** "
    return (
        f"{warning if leaks else ''}Out-of-fold ROC-AUC **{found}**; it {beats} the best "
        f"probe{probe}. The evidence is in the artifact `report.html`. `test/accuracy` and the "
        "like are of calls at each fold's own threshold, those of the folds' runs at a probability "
        "of 0.5."
    )
