import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from fvc.training.diagnostics import MEASURED_SERIES, SERIES, STAGE_SERIES
from fvc.training.tally import UPDATE_EVERY, Tally

NO_STAGES: dict[str, Tensor] = {}


def by_hand(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logits) - targets * logits


def tally_of(norms: list[float]) -> Tally:
    tally = Tally()
    labels = torch.tensor([1.0, 0.0])
    tally.add_batch(torch.tensor([0.5, 1.5]), torch.tensor([2.0, 2.0]), labels, labels)
    label = torch.tensor([0.0])
    tally.add_batch(torch.tensor([1.0]), torch.tensor([-1.0]), label, label)
    for norm in norms:
        tally.add_step({"head": torch.tensor(norm / 2)}, torch.tensor(norm))
    return tally


def series_of(tally: Tally, *, skips_overflow: bool = False) -> dict[str, float]:
    """Without what depends on the clock."""
    series = tally.series(by_hand=by_hand, skips_overflow=skips_overflow)
    return {name: value for name, value in series.items() if name not in MEASURED_SERIES}


def add_random_steps(tally: Tally, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(10, generator=generator)
    for _ in range(count):
        logits, losses = torch.randn(2, 5, generator=generator)
        labels = (torch.rand(5, generator=generator) < 0.5).float()
        tally.add_batch(losses, logits, 0.9 * labels + 0.05, labels)
        tally.add_wait(0.25)
        norms = dict(zip(("stem", "head"), torch.rand(2, generator=generator), strict=True))
        with tally.watching_update([weights]):
            weights += 0.01 * torch.randn(10, generator=generator)
        tally.add_step(norms, torch.rand((), generator=generator))


def test_the_series_of_an_epoch() -> None:
    assert series_of(tally_of([3.0, 1.0])) == {
        "train/loss": 1.0,
        "train/loss_by_hand": pytest.approx(log_loss([1, 0, 0], 1 / (1 + np.exp([-2, -2, 1])))),
        "train/accuracy": pytest.approx(2 / 3),
        "train/roc_auc": pytest.approx(roc_auc_score([1, 0, 0], [2, 2, -1])),
        "train/called_fake": pytest.approx(2 / 3),
        "train/grad_norm": 2.0,
        "train/logit_min": -1.0,
        "train/logit_max": 2.0,
        "train/logit_mean": 1.0,
        "train/logit_std": pytest.approx(math.sqrt(2)),
        "train/logit_unique": 2.0,
        "train/stage_grad_norm/head": 1.0,
    }


def test_the_series_have_the_order_in_which_they_are_shown() -> None:
    tally = Tally()
    add_random_steps(tally, 1, seed=0)
    names = list(tally.series(by_hand=by_hand, skips_overflow=False))
    known = [name for name in SERIES if name in names]
    assert names == [*known, STAGE_SERIES + "stem", STAGE_SERIES + "head"]
    assert known[:3] == ["train/loss", "train/loss_by_hand", "train/accuracy"]


def test_an_infinite_gradient_shows_unless_its_step_was_skipped() -> None:
    tally = tally_of([3.0, math.inf])
    assert series_of(tally)["train/grad_norm"] == math.inf
    skipped = series_of(tally, skips_overflow=True)
    assert (skipped["train/grad_norm"], skipped["train/stage_grad_norm/head"]) == (3, 1.5)
    names = series_of(tally_of([math.inf]), skips_overflow=True).keys()
    assert not {name for name in names if "grad_norm" in name}


def test_clips_of_one_class_have_no_ranking() -> None:
    tally = Tally()
    label = torch.tensor([1.0])
    tally.add_batch(torch.tensor([1.0]), torch.tensor([-1.0]), label, label)
    tally.add_step(NO_STAGES, torch.tensor(1.0))
    assert "train/roc_auc" not in series_of(tally)


def test_an_epoch_without_batches_or_steps_is_refused() -> None:
    for tally in (Tally(), tally_of([])):
        with pytest.raises(ValueError, match="without a batch and a step"):
            series_of(tally)


def test_stages_that_change_within_an_epoch_are_refused() -> None:
    tally = tally_of([1.0])
    with pytest.raises(ValueError, match="'stem'"):
        tally.add_step({"stem": torch.tensor(1.0)}, torch.tensor(1.0))


def test_what_was_noted_stays_when_its_memory_is_used_again() -> None:
    tally, clips = Tally(), torch.tensor([1.0, -1.0])
    tally.add_batch(clips, clips, clips, clips)
    clips.fill_(7)
    tally.add_step(NO_STAGES, torch.tensor(1.0))
    assert series_of(tally)["train/logit_max"] == 1


@pytest.mark.parametrize("done", [0, 1, 15, 16, 63, 64, 65, 150])
def test_saved_and_loaded_in_the_middle_it_gives_the_same_numbers(done: int) -> None:
    whole, first = Tally(), Tally()
    for seed, count in enumerate((done, 150 - done)):
        add_random_steps(whole, count, seed)
    add_random_steps(first, done, seed=0)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Tally()
    second.load_state_dict(torch.load(file, weights_only=True))
    add_random_steps(second, 150 - done, seed=1)
    assert series_of(second) == series_of(whole), "a resumed epoch would have other numbers"


def test_a_state_does_not_change_as_the_epoch_goes_on() -> None:
    tally = Tally()
    add_random_steps(tally, 3, seed=0)
    state = tally.state_dict()
    add_random_steps(tally, 3, seed=1)
    assert (state["clips"].shape, state["steps"].shape) == ((4, 15), (4, 3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as its only member."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_the_clock_counts_the_time_of_training_alone(clock: list[float]) -> None:
    first = Tally()
    add_random_steps(first, 4, seed=0)
    clock[0] += 6
    state = first.state_dict()
    clock[0] += 1000
    second = Tally()
    second.load_state_dict(state)
    add_random_steps(second, 4, seed=0)
    clock[0] += 4
    series = second.series(by_hand=by_hand, skips_overflow=False)
    assert series["train/clips_per_s"] == 40 / 10
    assert series["train/data_wait_share"] == 8 * 0.25 / 10


@pytest.mark.parametrize("resumed", [False, True])
def test_a_stretch_is_what_came_since_the_last_one(resumed: bool) -> None:
    whole, parts = Tally(), [Tally(), Tally()]
    add_random_steps(whole, 70, seed=0)
    if resumed:
        state = whole.state_dict()
        whole = Tally()
        whole.load_state_dict(state)
    else:
        assert whole.stretch().num_steps == 70
    for seed, part in enumerate(parts):
        for tally in (whole, part):
            add_random_steps(tally, 40, seed + 1)
        stretch = whole.stretch()
        assert stretch.num_steps == 40
        # Of updates other steps are measured.
        given, wanted = (
            {name: value for name, value in series_of(tally).items() if "update" not in name}
            for tally in (stretch, part)
        )
        assert given == wanted


def test_few_tensors_are_held_however_many_were_added() -> None:
    def held(state: dict[str, Any]) -> int:
        bundles = (state["_clips"], state["_steps"])
        return sum(len(bundle._joined) + len(bundle._new) for bundle in bundles)

    tally = Tally()
    for norm in range(20_000):
        tally.add_step({"head": torch.tensor(1.0)}, torch.tensor(float(norm)))
    assert held(vars(tally)) < 20_000 / 50
    assert tally.state_dict()["steps"].shape == (3, 20_000)


def test_the_update_is_a_share_of_the_weights() -> None:
    tally, weights = tally_of([]), [torch.full((4,), 3.0), torch.full((5,), 0.0)]
    for step in range(2 * UPDATE_EVERY):
        with tally.watching_update(weights):
            if step == UPDATE_EVERY:
                weights[1] += 1
        tally.add_step(NO_STAGES, torch.tensor(1.0))
    # Once nothing changed, and once by the square root of 5, of the square root of 41.
    assert series_of(tally)["train/update_ratio"] == pytest.approx(math.sqrt(5 / 41) / 2)


def test_an_update_that_was_not_watched_is_left_out() -> None:
    assert "train/update_ratio" not in series_of(tally_of([1.0]))


def test_processes_are_put_together() -> None:
    tallies = [Tally(), Tally()]
    for seed, tally in enumerate(tallies):
        add_random_steps(tally, 3, seed)
    states = [tally.state_dict() for tally in tallies]
    together = series_of(Tally.gathered(states))
    alone = [series_of(tally) for tally in tallies]
    assert together["train/loss"] == pytest.approx(np.mean([one["train/loss"] for one in alone]))
    assert together["train/logit_max"] == max(one["train/logit_max"] for one in alone)
    assert together["train/grad_norm"] == alone[0]["train/grad_norm"]


def test_before_the_first_step_nothing_is_put_together() -> None:
    state = Tally.gathered([Tally().state_dict()] * 2).state_dict()
    assert (state["clips"], state["steps"], state["num_steps"]) == (None, None, 0)


def test_processes_that_went_on_from_the_tally_of_all_give_the_same_numbers() -> None:
    whole = [Tally(), Tally()]
    for seed, tally in enumerate(whole):
        add_random_steps(tally, 5, seed)
    stopped = [Tally(), Tally()]
    for seed, tally in enumerate(stopped):
        add_random_steps(tally, 5, seed)
    saved = Tally.gathered([tally.state_dict() for tally in stopped]).state_dict()
    resumed = [Tally(), Tally()]
    resumed[0].load_state_dict(saved)
    for group in (whole, resumed):
        for seed, tally in enumerate(group):
            add_random_steps(tally, 5, seed + 2)
    first, second = (
        series_of(Tally.gathered([tally.state_dict() for tally in group]))
        for group in (whole, resumed)
    )
    assert second == pytest.approx(first, rel=1e-12)
