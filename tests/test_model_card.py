from dataclasses import replace
from typing import Any

import pytest
from settings import clips_config

from fvc.evidence.promotion import Decision
from fvc.report.model_card import Facts, Measured, model_card

SCORES: dict[str, dict[str, Any]] = {
    "roc_auc": {"value": 0.81, "low": 0.7, "high": 0.9},
    "macro_f1": {"value": None, "low": None, "high": None, "reason": "all videos are fake"},
    "coverage": {"value": 0.875, "low": None, "high": None},
}
FACTS = Facts(
    decision=Decision(
        promotion="unopposed", beats_probes=False, reasons=("The leakage audit is clean.",)
    ),
    out_of_fold=Measured(num_videos=200, num_groups=60, measures=SCORES),
    locked=Measured(num_videos=40, num_groups=12, measures=SCORES),
    readings=1,
    slices=[],
    clips=clips_config(4, 8, 112),
    num_training=120,
    num_validation=33,
    fold=2,
    confidence=0.95,
    identity={"fvc.network": "r3d_18", "fvc.dvc_lock": "none"},
)
WORSE = {
    "by": "cascade_size",
    "name": "2 to 3",
    "videos": 17,
    "roc_auc": {"value": 0.4, "low": 0.3, "high": 0.5},
    "excess_error": {"error": 0.25, "p_value": 0.001, "corrected": 0.01, "worse": True},
}


def test_the_card_opens_with_what_to_beware_of() -> None:
    opening = model_card(FACTS).split("##")[0]
    assert "because none was in service" in opening
    assert "does **not** beat the best probe" in opening
    assert "- The leakage audit is clean." in opening


@pytest.mark.parametrize(
    "said",
    [
        "| videos (groups) |&emsp;200 (60) |&emsp;40 (12) |",
        "| ROC-AUC |&emsp;0.810 (0.700 to 0.900) |&emsp;0.810 (0.700 to 0.900) |",
        "| macro-F1 |&emsp;unknown: all videos are fake |&emsp;unknown: all videos are fake |",
        "| share answered `real` or `fake` |&emsp;0.875 |&emsp;0.875 |",
        "has been read **once** so far",
        "the network of fold 2",
        "Intervals of 95%",
        "4 clips of 8 frames of 112 pixels a video",
        "come from 33 validation videos",
        "trained on 120 videos, and 33 others chose when to stop. 200 videos in 60 groups are",
        "| fvc.network |&emsp;`r3d_18` |",
        "**Do not use it** to remove",
        "pixels cannot see that",
    ],
)
def test_the_card_says(said: str) -> None:
    assert said in model_card(FACTS)


def test_wear_of_the_locked_test_is_said() -> None:
    assert "read **7 times** so far" in model_card(replace(FACTS, readings=7))


def test_a_card_fits_into_a_server_s_tables_however_many_slices_are_worse() -> None:
    card = model_card(replace(FACTS, slices=[WORSE] * 40))
    assert "- and 35 more, which the report has" in card
    # Reasons and identities are longer in life.
    assert len(card) < 4200, "of 5,000"


def test_only_slices_that_are_shown_to_be_worse_are_called_worse() -> None:
    other = {**WORSE, "name": "1", "excess_error": {"error": 0.3, "corrected": 1, "worse": False}}
    untested = {**other, "excess_error": {"error": 0.3, "corrected": None, "worse": False}}
    assert "No slice could be tested" in model_card(replace(FACTS, slices=[untested]))
    card = model_card(replace(FACTS, slices=[other, untested]))
    assert "No slice is shown to be worse than the rest; 1 of 2 could be tested." in card
    card = model_card(replace(FACTS, slices=[other, WORSE]))
    assert (
        "- cascade size 2 to 3: its share of wrong calls is 0.250 above the others', "
        "ROC-AUC 0.400 (0.300 to 0.500), 17 videos" in card
    )
    assert "cascade size 1:" not in card


def test_windows_that_roll_are_at_most_so_many() -> None:
    rolling = replace(FACTS, clips=clips_config(8, 4, 32, views="rolling"))
    assert "at most 8 clips of 4 frames" in model_card(rolling)
    assert "one clip of 4 frames" in model_card(replace(FACTS, clips=clips_config(1, 4, 32)))


def test_only_tables_and_lists_break_lines() -> None:
    card = model_card(replace(FACTS, slices=[WORSE]))
    assert "fvc.dvc_lock" not in card
    for block in card.strip().split("\n\n"):
        lines = block.split("\n")
        assert len(lines) == 1 or {line[0] for line in lines} in ({"|"}, {"-"}), block
