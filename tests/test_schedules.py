import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from settings import train_config

from fvc.training.schedules import rate_factor

SCHEDULES = ["constant", "cosine", "step"]
SHAPES = st.fixed_dictionaries(
    {
        "schedule": st.sampled_from(SCHEDULES),
        "epochs": st.integers(1, 12),
        "warmup_epochs": st.floats(0, 0.99),
        "step_epochs": st.integers(1, 4),
        "step_factor": st.floats(0.05, 1),
    }
)


def factors(config_changes: dict[str, Any], steps_per_epoch: int) -> list[float]:
    config = train_config(**config_changes)
    steps = config.epochs * steps_per_epoch
    return [rate_factor(config, step, steps_per_epoch) for step in range(steps + 1)]


def torch_factors(make: Any, steps: int, **options: Any) -> list[float]:
    """What one of torch's schedulers makes of a learning rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def test_the_cosine_is_torch_s() -> None:
    found = factors({"schedule": "cosine", "epochs": 4}, 5)
    expected = torch_factors(torch.optim.lr_scheduler.CosineAnnealingLR, 21, T_max=20)
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_steps_are_torch_s() -> None:
    changes = {"schedule": "step", "step_epochs": 2, "step_factor": 0.3, "epochs": 7}
    expected = torch_factors(torch.optim.lr_scheduler.StepLR, 22, step_size=6, gamma=0.3)
    assert factors(changes, 3) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_warm_up_rises_to_one_in_equal_steps(schedule: str) -> None:
    found = factors({"schedule": schedule, "warmup_epochs": 2.0, "epochs": 6}, 4)
    assert found[:9] == pytest.approx([*(step / 8 for step in range(1, 9)), 1])


@settings(deadline=None)
@given(changes=SHAPES, steps_per_epoch=st.integers(1, 30))
def test_a_rate_rises_and_then_never_does(changes: dict[str, Any], steps_per_epoch: int) -> None:
    changes["warmup_epochs"] *= changes["epochs"]
    found = factors(changes, steps_per_epoch)
    assert all(0 < factor <= 1 for factor in found[:-1])
    peak = found.index(1.0)
    rising, falling = found[: peak + 1], found[peak:]
    assert all(before < after for before, after in itertools.pairwise(rising))
    assert all(before >= after for before, after in itertools.pairwise(falling))
    warmup = int(changes["warmup_epochs"] * steps_per_epoch)
    assert peak == max(warmup - 1, 0), "the warm-up is shorter or longer than it should be"
    if changes["schedule"] == "cosine":
        assert found[-1] == pytest.approx(0, abs=1e-12)
    if changes["schedule"] == "constant":
        assert set(falling) == {1.0}


@settings(deadline=None)
@given(warmup_epochs=st.floats(0, 3), steps_per_epoch=st.integers(1, 40))
def test_a_cosine_makes_no_leap(warmup_epochs: float, steps_per_epoch: int) -> None:
    changes = {"schedule": "cosine", "warmup_epochs": warmup_epochs, "epochs": 4}
    found = factors(changes, steps_per_epoch)
    warmup = int(warmup_epochs * steps_per_epoch)
    # Half a cosine is steepest in its middle: pi / 2 of the mean slope.
    steepest = max(1 / max(warmup, 1), torch.pi / 2 / (4 * steps_per_epoch - warmup))
    leaps = [abs(after - before) for before, after in itertools.pairwise(found)]
    assert max(leaps) <= steepest + 1e-9


def test_steps_fall_after_the_warm_up() -> None:
    changes = {"schedule": "step", "warmup_epochs": 0.5, "step_epochs": 1, "epochs": 3}
    found = factors(changes, 4)
    assert found[:2] == [0.5, 1.0]
    assert found[2:] == pytest.approx([1.0] * 4 + [0.1] * 4 + [0.01] * 3)


def test_a_schedule_depends_on_nothing_before() -> None:
    config = train_config(schedule="cosine", warmup_epochs=1.0)
    forward = [rate_factor(config, step, 3) for step in range(15)]
    assert [rate_factor(config, step, 3) for step in reversed(range(15))] == forward[::-1]


def test_past_the_last_epoch_a_cosine_stays_at_nothing() -> None:
    config = train_config(schedule="cosine", epochs=2)
    assert rate_factor(config, 1000, 5) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("step", "steps_per_epoch"), [(-1, 5), (0, 0)])
def test_steps_that_do_not_exist_are_refused(step: int, steps_per_epoch: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} of epochs of {steps_per_epoch} steps"):
        rate_factor(train_config(), step, steps_per_epoch)
