from dataclasses import replace
from typing import Any

import pytest

from fvc.evidence.promotion import Decision, Evidence, Opponent, decide, stay

STRONG = Evidence(
    leaks=0,
    roc_auc_low=0.8,
    best_probe="container",
    best_probe_roc_auc=0.7,
    withdrawn=False,
    opponent=Opponent(name="version 3", gain_high=0.05, unknown=None, perhaps_seen=0),
)


def against(**changes: Any) -> Evidence:
    assert STRONG.opponent is not None
    return replace(STRONG, opponent=replace(STRONG.opponent, **changes))


def test_a_candidate_that_holds_every_clause_replaces_the_champion() -> None:
    decision = decide(STRONG)
    assert (decision.promotion, decision.beats_probes) == ("won", True)


@pytest.mark.parametrize(
    ("weakness", "said"),
    [
        ({"leaks": 2}, "found 2 leaks"),
        (
            {"roc_auc_low": 0.65},
            "does not beat the probes: the interval of its out-of-fold ROC-AUC starts at 0.650",
        ),
        ({"roc_auc_low": 0.65}, "0.050 below the best probe, 'container and geometry' (0.700)"),
        (
            {"roc_auc_low": 0.7},
            "starts at 0.700, at the best probe, 'container and",
        ),
        ({"roc_auc_low": None}, "undefined"),
        ({"best_probe": None, "best_probe_roc_auc": None}, "undefined"),
        ({"withdrawn": True}, "was taken out of service by 'fvc rollback'"),
    ],
)
def test_any_clause_alone_refuses(weakness: dict[str, Any], said: str) -> None:
    decision = decide(replace(STRONG, **weakness))
    assert decision.promotion == "refused"
    assert said in " ".join(decision.reasons), "a refusal says which clause, and by how much"


@pytest.mark.parametrize(
    ("weakness", "said"),
    [
        ({"gain_high": -0.01}, "worse than version 3: the interval of the difference ends at -0.0"),
        ({"gain_high": None, "unknown": "all videos are fake"}, "is unknown: all videos are fake."),
    ],
)
def test_an_opponent_that_is_better_or_unknown_stays(weakness: dict[str, Any], said: str) -> None:
    decision = decide(against(**weakness))
    assert decision.promotion == "refused"
    assert said in " ".join(decision.reasons), "a refusal says which clause, and by how much"


def test_an_opponent_that_may_have_learnt_the_locked_test_is_said_to() -> None:
    assert "learnt" not in " ".join(decide(STRONG).reasons)
    for gain_high, outcome in ((0.05, "won"), (-0.05, "refused")):
        decision = decide(against(gain_high=gain_high, perhaps_seen=12))
        assert decision.promotion == outcome
        assert "Of these videos, 12 were not locked when version 3" in decision.reasons[-1]


def test_the_first_clean_candidate_is_unopposed_whatever_it_scores() -> None:
    alone = replace(STRONG, opponent=None)
    assert decide(alone).promotion == "unopposed"
    weak = decide(replace(alone, roc_auc_low=0.1))
    assert (weak.promotion, weak.beats_probes) == ("unopposed", False)
    assert decide(replace(alone, leaks=1)).promotion == "refused"
    withdrawn = decide(replace(alone, withdrawn=True))
    assert withdrawn.promotion == "refused"
    assert "Without its tag 'fvc.withdrawn'" in " ".join(withdrawn.reasons), "there is a way back"


def test_a_decision_survives_json() -> None:
    decision = decide(STRONG)
    assert Decision.from_dict(decision.as_dict()) == decision


def test_the_champion_stays_and_its_weaker_evidence_is_said() -> None:
    won = decide(STRONG)
    now = stay(won, replace(STRONG, leaks=2, roc_auc_low=0.6))
    assert (now.promotion, now.beats_probes) == ("won", False)
    assert "found 2 leaks" in " ".join(now.reasons)
    assert "version 3" not in " ".join(now.reasons), "an opponent of another time"


def test_a_decision_is_bound_to_what_evaluation_found_alone() -> None:
    same = [
        replace(STRONG, opponent=None),
        replace(STRONG, withdrawn=True),
        against(gain_high=-1.0),
    ]
    assert {evidence.own_sha256 for evidence in same} == {STRONG.own_sha256}
    for change in ({"leaks": 1}, {"roc_auc_low": 0.81}, {"best_probe_roc_auc": 0.71}):
        other: dict[str, Any] = change
        assert replace(STRONG, **other).own_sha256 != STRONG.own_sha256
