from dataclasses import replace

import pytest

from fvc.evidence.promotion import Decision, Evidence, decide, model_card

STRONG = Evidence(
    leaks=0,
    roc_auc_low=0.8,
    best_probe="container",
    best_probe_roc_auc=0.7,
    opponent="version 3",
    gain_high=0.05,
)


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
        ({"roc_auc_low": 0.65}, "0.050 below the best probe, 'container' (0.700)"),
        ({"roc_auc_low": 0.7}, "starts at 0.700, at the best probe, 'container' (0.700)"),
        ({"roc_auc_low": None}, "undefined"),
        ({"best_probe": None, "best_probe_roc_auc": None}, "undefined"),
        ({"gain_high": -0.01}, "worse than version 3: the interval of the difference ends at -0.0"),
        ({"gain_high": None}, "difference to version 3 on the locked test is undefined"),
    ],
)
def test_any_clause_alone_refuses(weakness: dict[str, object], said: str) -> None:
    decision = decide(replace(STRONG, **weakness))  # type: ignore[arg-type]
    assert decision.promotion == "refused"
    assert said in " ".join(decision.reasons), "a refusal says which clause, and by how much"


def test_the_first_clean_candidate_is_unopposed_whatever_it_scores() -> None:
    alone = replace(STRONG, opponent=None, gain_high=None)
    assert decide(alone).promotion == "unopposed"
    weak = decide(replace(alone, roc_auc_low=0.1))
    assert (weak.promotion, weak.beats_probes) == ("unopposed", False)
    assert decide(replace(alone, leaks=1)).promotion == "refused"


def test_a_decision_survives_json() -> None:
    decision = decide(STRONG)
    assert Decision.from_dict(decision.as_dict()) == decision


def test_the_card_opens_with_what_to_beware_of() -> None:
    decision = decide(replace(STRONG, opponent=None, gain_high=None, roc_auc_low=0.4))
    card = model_card(decision, headline="ROC-AUC 0.5", locked="ROC-AUC 0.6", data={"network": "x"})
    opening = card.split("##")[0]
    assert "because none was in service" in opening
    assert "does **not** beat" in opening
    assert "pixels\ncannot see that" in card
    assert "| network | `x` |" in card
