from collections.abc import Mapping

import numpy as np
import pytest

from fvc.evidence.metrics import Estimate, Outcomes
from fvc.evidence.probes import PROBES, Probe
from fvc.report import Headline, sections, verdict

KNOWN = Estimate(value=0.8, low=0.7, high=0.9)
UNKNOWN = Estimate(value=None, reason="all videos are fake")

COUNTS = {"annotated": 400, "on_disk": 300, "usable": 100}
AVAILABILITY = {"youtube": {"real": COUNTS, "fake": COUNTS, "debunked": COUNTS}}


def every(found: Estimate) -> dict[str, Estimate]:
    return dict.fromkeys(sections.NAMES, found)


def probes_of(value: float | None) -> Mapping[str, Probe]:
    probe = Probe(roc_auc=Estimate(value=value), accuracy=Estimate(value=0.5))
    return dict.fromkeys(PROBES, probe)


def outcomes_of(num_groups: int) -> Outcomes:
    """Two videos in each group; every other group is of fakes."""
    groups = np.repeat(np.arange(num_groups), 2)
    is_fake = groups % 2 == 0
    always = np.ones(len(groups), bool)
    probability = is_fake.astype(float)
    return Outcomes(
        is_fake=is_fake,
        probability=probability,
        called_fake=is_fake,
        decided=always,
        groups=groups,
    )


def headline_of(
    video: Mapping[str, Estimate] | None = None,
    cascade: Mapping[str, Estimate] | None = None,
    probe: float | None = 0.6,
    leaks: int = 0,
    num_groups: int = 80,
) -> Headline:
    return verdict.headline_of(
        video or every(KNOWN),
        cascade or every(KNOWN),
        probes_of(probe),
        leaks,
        tested=outcomes_of(num_groups),
        availability=AVAILABILITY,
        confidence=0.95,
    )


def test_a_model_above_the_probes_is_said_to_beat_them() -> None:
    found = headline_of()
    assert found.good_news
    assert found.statement == "The model beats every probe."
    assert dict(found.facts)["Does its interval lie above the best probe?"].startswith("Yes")


@pytest.mark.parametrize(
    ("roc_auc", "probe", "statement"),
    [
        (KNOWN, 0.75, "The model is ahead of the probes, but not shown to beat them."),
        (KNOWN, 0.7, "The model is ahead of the probes, but not shown to beat them."),
        (
            KNOWN,
            0.85,
            "The model is not shown to beat the probes: 'container and geometry' does as well "
            "or better.",
        ),
        (
            Estimate(value=0.6, low=0.5, high=0.7),
            0.4,
            "The model is not shown to beat guessing.",
        ),
        (Estimate(value=0.3, low=0.2, high=0.4), 0.5, "The model is worse than guessing."),
        (
            KNOWN,
            None,
            "The model is not shown to beat the probes: none of them could be measured.",
        ),
        (UNKNOWN, 0.5, "How good the model is cannot be told: all videos are fake."),
        (
            Estimate(value=0.9, reason="there is only one group"),
            0.5,
            "How good the model is cannot be told: there is only one group.",
        ),
    ],
)
def test_the_statement_promises_no_more_than_was_shown(
    roc_auc: Estimate, probe: float | None, statement: str
) -> None:
    only = dict.fromkeys(["container"], next(iter(probes_of(probe).values())))
    assert verdict.statement_of(roc_auc, only, 0) == statement


@pytest.mark.parametrize("roc_auc", [KNOWN, UNKNOWN], ids=["known", "unknown"])
def test_a_leak_comes_before_every_number(roc_auc: Estimate) -> None:
    found = headline_of(every(roc_auc), leaks=2)
    assert found.statement == "These numbers prove nothing: the audit found 2 leaks."
    assert not found.good_news, "a leaky result looks like good news"


@pytest.mark.parametrize(
    ("leaks", "told"),
    [(0, "No; the audit found 0 leaks"), (1, "Yes; the audit found 1 leak")],
)
def test_leaks_are_counted(leaks: int, told: str) -> None:
    found = headline_of(leaks=leaks)
    assert dict(found.facts)["Is any cascade in two parts of the split?"] == told


def test_very_few_videos_are_no_victory() -> None:
    found = headline_of(num_groups=2 * verdict.FEW_CASCADES - 2)
    assert found.statement == "The model beats every probe, but on very few videos."
    assert not found.good_news, "a trial of the method looks like good news"
    assert "the real ones are of 19 cascades, the fakes of 19 cascades" in found.text[-1]
    enough = headline_of(num_groups=2 * verdict.FEW_CASCADES)
    assert "few" not in enough.statement
    assert len(enough.text) == 1


def test_many_videos_of_few_cascades_are_few() -> None:
    assert verdict.cascades_by_label(outcomes_of(5)) == {"real": 2, "fake": 3}


def test_a_missing_class_is_not_called_few() -> None:
    fakes = outcomes_of(80)
    assert verdict.cascades_by_label(fakes.select(fakes.is_fake)) == {"real": 0, "fake": 40}
    found = verdict.headline_of(
        *(every(UNKNOWN), every(UNKNOWN), probes_of(None), 0),
        tested=fakes.select(fakes.is_fake),
        availability={},
        confidence=0.95,
    )
    assert found.statement == "How good the model is cannot be told: all videos are fake."
    assert found.text == []
    facts = dict(found.facts)
    told = facts["Does its interval lie above the best probe?"]
    assert told == "No; no probe could be measured"
    usable = facts["How much of the annotated data is usable?"]
    assert usable == "nothing is annotated as real or fake"


def test_the_area_is_told_in_words() -> None:
    told = headline_of().text[0]
    assert "the fake the higher score in 80 of 100 cases (between 70 and 90 by a 95%" in told
    assert headline_of(every(UNKNOWN)).text == []


def test_the_headline_counts_per_video_and_per_cascade() -> None:
    found = headline_of(cascade=every(Estimate(value=0.5, low=0.4, high=0.6)))
    assert found.numbers == [
        ("ROC-AUC per video", "0.800", "0.700 to 0.900"),
        ("ROC-AUC per cascade", "0.500", "0.400 to 0.600"),
        ("macro-F1 per video", "0.800", "0.700 to 0.900"),
        ("macro-F1 per cascade", "0.500", "0.400 to 0.600"),
    ]


def test_what_is_unknown_is_said_with_its_reason() -> None:
    found = headline_of(every(UNKNOWN), every(UNKNOWN), None)
    assert ("ROC-AUC per video", "unknown", "all videos are fake") in found.numbers
    facts = dict(found.facts)
    assert facts["How many of these verdicts are right?"] == "unknown: all videos are fake"
    assert found.comparison is not None
    assert found.comparison.rows[0] == ("this model", "unknown: all videos are fake")


def test_the_model_stands_above_the_probes_and_the_strongest_of_them_first() -> None:
    scores = {"container": 0.5, "platform": None, "majority": 0.7, "cascade": 0.6, "shuffle": 0.0}
    probes = {name: probes_of(score)[name] for name, score in scores.items()}
    grid = verdict.comparison_of(KNOWN, probes, 0.95)
    names = [row[0] for row in grid.rows]
    order = ["majority", "cascade", "container", "shuffle", "platform"]
    assert names == ["this model", *(PROBES[name] for name in order)]
    assert [span.stands_out for span in grid.spans] == [True] + 5 * [False]
    assert (grid.spans[0].low, grid.spans[0].value, grid.spans[0].high) == (0.7, 0.8, 0.9)
    assert grid.spans[-1].value is None


def test_it_is_said_on_what_the_model_was_measured_and_what_was_usable() -> None:
    facts = dict(headline_of().facts)
    assert facts["What was it measured on?"] == "160 videos (80 fake) of 80 cascades"
    usable = facts["How much of the annotated data is usable?"]
    assert usable == "200 of 800 real or fake videos (25%)"
