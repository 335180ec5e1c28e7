import math

import pytest
import torch

from fvc.training.diagnostics import (
    MEASURED_SERIES,
    SERIES,
    STAGE_SERIES,
    Diverged,
    EpochRow,
    gradient_norms,
    repeatable_series,
    require_finite,
)


def test_gradient_norms_by_stage_make_up_the_whole() -> None:
    stages = {"stem": [torch.zeros(3), torch.zeros(2)], "head": [torch.zeros(4)]}
    for number, weight in enumerate([*stages["stem"], *stages["head"]]):
        weight.grad = torch.full_like(weight, number + 1.0)
    norms, total = gradient_norms(stages)
    assert norms["stem"].item() == pytest.approx(math.sqrt(3 * 1 + 2 * 4))
    assert norms["head"].item() == pytest.approx(math.sqrt(4 * 9))
    assert total.item() == pytest.approx(math.sqrt(3 + 8 + 36))
    stages["head"][0].grad = None
    assert gradient_norms(stages)[0]["head"].item() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_ends_training(value: float) -> None:
    require_finite({"train/loss": 1.0}, epoch=3)
    with pytest.raises(Diverged, match="epoch 4: train/loss is"):
        require_finite({"train/loss": value}, epoch=3)


def test_what_is_measured_is_in_no_output() -> None:
    assert set(SERIES) > MEASURED_SERIES
    rows: list[EpochRow] = [
        {"epoch": 0, "train/clips_per_s": 3.0, STAGE_SERIES + "stem": 1.0},
        {"epoch": 1, "train/loss": 1.0, STAGE_SERIES + "head": 1.0},
    ]
    names = repeatable_series(rows)
    assert set(names) == set(SERIES) - MEASURED_SERIES | {
        STAGE_SERIES + "head",
        STAGE_SERIES + "stem",
    }
    turned = [dict(reversed(row.items())) for row in reversed(rows)]
    assert repeatable_series(turned) == names, "equal runs would have other columns"
