import math
from collections.abc import Sequence

import pytest

from fvc.training.conditions import (
    CHECKS,
    TOLD_WITHIN,
    Condition,
    conditions_of,
    conditions_within,
    diverged,
)
from fvc.training.diagnostics import Diverged, EpochRow, require_finite

HEALTHY: dict[str, float] = {
    "train/loss": 0.69,
    "train/loss_by_hand": 0.69,
    "train/roc_auc": 0.6,
    "train/called_fake": 0.5,
    "train/grad_norm": 1.0,
    "train/stage_grad_norm/stem": 0.2,
    "train/stage_grad_norm/head": 0.9,
    "train/logit_std": 0.3,
    "train/logit_unique": 40.0,
    "train/batch_size": 8.0,
    "train/micro_batch_size": 8.0,
    "train/data_wait_share": 0.05,
    "validation/loss": 0.69,
    "validation/roc_auc": 0.55,
    "validation/macro_f1": 0.5,
    "validation/called_fake": 0.4,
    "validation/logit_std": 0.2,
}


def curves(**changed: Sequence[float]) -> list[EpochRow]:
    """Epochs of a training that goes well, but for some series; `_` stands for `/`."""
    names = {name.replace("/", "_"): name for name in HEALTHY}
    length = max(len(values) for values in changed.values())
    rows: list[EpochRow] = [{"epoch": epoch, **HEALTHY} for epoch in range(length)]
    for name, values in changed.items():
        for row, value in zip(rows, values, strict=True):
            row[names[name]] = value
            if name == "train_loss" and "train_loss_by_hand" not in changed:
                row["train/loss_by_hand"] = value
    return rows


def found(rows: Sequence[EpochRow]) -> dict[str, int]:
    """The first epoch of every condition."""
    return {condition.name: condition.epoch for condition in conditions_of(rows)}


RAISED: dict[str, tuple[list[EpochRow], dict[str, int]]] = {
    "one logit in training": (curves(train_logit_unique=[40, 1]), {"collapsed_logits": 1}),
    "one logit in validation": (
        curves(validation_logit_std=[0.1, 0.01, 1e-5]),
        {"collapsed_logits": 2},
    ),
    "a loss of zero with equal logits": (
        curves(train_loss=[0.0] * 3, train_logit_std=[0.0] * 3, train_grad_norm=[0.0] * 3),
        {"collapsed_logits": 0, "dead_gradients": 0},
    ),
    "a dead stage": (curves(train_stage_grad_norm_stem=[0.2, 0.0]), {"dead_gradients": 1}),
    "a stage lost in rounding": (
        curves(train_stage_grad_norm_stem=[1e-8], train_grad_norm=[1.0]),
        {"dead_gradients": 0},
    ),
    "a loss that explodes": (curves(train_loss=[0.69, 0.5, 1.6]), {"exploding_loss": 2}),
    "a loss that was never sane": (curves(train_loss=[47.0, 20.0]), {"exploding_loss": 0}),
    "all called real": (
        curves(validation_called_fake=[0.4, 0, 0, 0]),
        {"single_class": 3},
    ),
    "all clips called fake": (curves(train_called_fake=[1, 1, 1]), {"single_class": 2}),
    "learnt by heart": (
        curves(train_roc_auc=[0.6, 0.9, 0.99, 1], validation_roc_auc=[0.55, 0.6, 0.58, 0.57]),
        {"validation_gap": 3},
    ),
    "a batch in halves": (curves(train_micro_batch_size=[8, 4, 4]), {"out_of_memory": 1}),
    "a mean over batches, the last one short": (
        curves(train_loss=[0.69, 0.5], train_loss_by_hand=[0.69, 0.503]),
        {"loss_by_hand": 1},
    ),
    "a loader that is too slow": (
        curves(train_data_wait_share=[0.1, 0.5, 0.4]),
        {"data_wait": 2},
    ),
}


@pytest.mark.parametrize("case", RAISED)
def test_what_is_wrong_is_named_with_its_first_epoch(case: str) -> None:
    rows, expected = RAISED[case]
    assert found(rows) == expected


def test_every_condition_is_raised_by_some_case() -> None:
    assert {name for _, expected in RAISED.values() for name in expected} == CHECKS.keys()


SOON = {
    "one logit in training": {"collapsed_logits"},
    "a loss of zero with equal logits": {"collapsed_logits", "dead_gradients"},
    "a dead stage": {"dead_gradients"},
    "a stage lost in rounding": {"dead_gradients"},
    "a loss that explodes": {"exploding_loss"},
    "a loss that was never sane": {"exploding_loss"},
    "a mean over batches, the last one short": {"loss_by_hand"},
}
"""What the last row of a case shows where it is a stretch of steps, without a validation."""


@pytest.mark.parametrize("case", RAISED)
def test_what_some_steps_can_show_is_told_before_the_epoch_ends(case: str) -> None:
    rows = RAISED[case][0]
    within = [
        {name: value for name, value in row.items() if not name.startswith("validation/")}
        for row in rows
    ]
    told = conditions_within(within, step=33)
    assert {condition.name for condition in told} == SOON.get(case, set())
    for condition in told:
        assert str(condition).startswith(f"epoch {len(rows)}, step 33: ")


def test_everything_told_before_the_epoch_ends_is_raised_by_some_case() -> None:
    assert set().union(*SOON.values()) == set(TOLD_WITHIN)


UNTROUBLED = {
    "a short training": curves(
        train_loss=[0.72, 0.69, 0.66, 0.6, 0.55],
        train_roc_auc=[0.48, 0.55, 0.63, 0.72, 0.8],
        validation_roc_auc=[0.5, 0.44, 0.6, 0.56, 0.68],
        # It calls all videos alike at first.
        validation_called_fake=[1, 1, 0.2, 0.5, 0.4],
        validation_logit_std=[0.006, 0.02, 0.1, 0.2, 0.3],
        # The workers of the loader start in the first epoch.
        train_data_wait_share=[0.7, 0.1, 0.1, 0.3, 0.1],
    ),
    # As seen: two steps an epoch, every pair in the right order, the threshold not reached yet.
    "a few steps in all": curves(
        validation_loss=[0.682, 0.648, 0.601, 0.542, 0.472],
        validation_roc_auc=[1, 1, 1, 1, 1],
        validation_called_fake=[0, 0, 0, 0.5, 0.5],
        train_loss=[0.708, 0.638, 0.632, 0.572, 0.476],
        train_called_fake=[0, 0, 0.1, 0.4, 0.4],
    ),
    "eight clips learnt by heart": curves(
        train_loss=[0.7, 0.3, 0.05, 0.008, 0.02, 0.001],
        train_grad_norm=[2.0, 1.0, 0.3, 1e-3, 1e-2, 1e-5],
        train_stage_grad_norm_stem=[0.2, 0.1, 0.01, 1e-5, 1e-3, 1e-7],
        train_stage_grad_norm_head=[1.9, 0.9, 0.3, 1e-3, 1e-2, 1e-5],
        train_roc_auc=[0.5, 0.9, 1, 1, 1, 1],
        validation_roc_auc=[0.5, 0.8, 0.8, 0.9, 0.9, 0.9],
    ),
    "a loss near nothing that wavers": curves(train_loss=[0.01, 0.002, 0.014]),
    "a large step at the end of the warm-up": curves(train_loss=[0.7, 0.5, 0.9, 0.6]),
    "luck with a small validation set": curves(
        train_roc_auc=[0.8, 0.9, 0.9], validation_roc_auc=[0.4, 0.8, 0.5]
    ),
    "rounding": curves(train_loss=[0.500001, 1e-6], train_loss_by_hand=[0.5, 0.0]),
}


@pytest.mark.parametrize("case", UNTROUBLED)
def test_a_healthy_training_is_left_in_peace(case: str) -> None:
    assert found(UNTROUBLED[case]) == {}
    for number in range(len(UNTROUBLED[case])):
        assert conditions_within(UNTROUBLED[case][: number + 1], step=33) == []


def test_labels_of_one_class_are_called_alike_rightly() -> None:
    rows = curves(validation_called_fake=[1, 1, 1])
    for row in rows:
        del row["validation/roc_auc"], row["validation/macro_f1"]
    assert found(rows) == {}


def test_rows_without_a_series_are_read() -> None:
    assert conditions_of([]) == []
    assert conditions_of([{"epoch": epoch} for epoch in range(4)]) == []


@pytest.mark.parametrize("case", RAISED)
def test_a_resumed_training_has_the_same_conditions(case: str) -> None:
    rows, _ = RAISED[case]
    # A condition that is over stays in the list: it was there.
    longer = [*rows, {"epoch": len(rows), **HEALTHY}]
    told = {str(condition) for condition in conditions_of(rows)}
    assert told <= {str(condition) for condition in conditions_of(longer)}


def test_a_condition_says_when_what_and_what_to_do() -> None:
    [condition] = conditions_of(RAISED["a dead stage"][0])
    assert str(condition).startswith(
        "epoch 2: no gradient arrives at stem, of 1 in all. Set train."
    )
    assert str(condition).endswith(".")
    assert not str(condition).endswith("..")


def test_a_training_that_diverged_says_where_and_why() -> None:
    with pytest.raises(Diverged) as caught:
        require_finite({"train/loss": math.nan}, epoch=4)
    condition = diverged(caught.value, 4)
    assert isinstance(condition, Condition)
    assert str(condition).startswith("epoch 5: train/loss is nan, training diverged. Lower train.")
