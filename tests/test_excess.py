from collections.abc import Mapping

import numpy as np
import pytest
from jaxtyping import Bool, Int

from fvc.evidence import excess
from fvc.evidence.excess import MIN_GROUPS, Excess, excesses, holm

Flags = Bool[np.ndarray, "V"]
Codes = Int[np.ndarray, "V"]


def world(
    seed: int, *, num_groups: int = 120, error: float = 0.25, lift: float = 0.0
) -> tuple[Flags, Flags, Codes]:
    """Groups of one to eight videos that err alike; every third group is the set.

    Returns:
        What is wrong (more often by `lift` within the set), the set, and the groups.
    """
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(num_groups), generator.integers(1, 9, num_groups))
    rates = generator.beta(2 * error, 2 * (1 - error), num_groups)
    inside = codes % 3 == 0
    return generator.random(len(codes)) < rates[codes] + lift * inside, inside, codes


def compared(wrong: Flags, *inside: Flags, codes: Codes, seed: int = 0) -> list[Excess]:
    generator = np.random.default_rng(seed)
    return excesses(wrong, np.stack(inside), codes, level=0.05, generator=generator)


def test_a_set_that_is_worse_is_found_and_its_rest_is_not() -> None:
    wrong, inside, codes = world(0, lift=0.4)
    worse, better = compared(wrong, inside, ~inside, codes=codes)
    assert worse.worse
    assert worse.error == pytest.approx(wrong[inside].mean() - wrong[~inside].mean())
    assert worse.error is not None
    assert better.error == pytest.approx(-worse.error)
    assert not better.worse, "what is better than the rest was called worse"
    assert better.p_value == pytest.approx(worse.p_value, abs=1e-3)


@pytest.mark.parametrize("error", [0.2, 0.4])
def test_chance_is_seldom_taken_for_a_difference(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excess, "RESAMPLES", 499)
    found = 0
    for seed in range(200):
        wrong, inside, codes = world(seed, num_groups=200, error=error)
        [tested] = compared(wrong, inside, codes=codes, seed=seed)
        assert tested.reason is None
        found += tested.worse
    assert found <= 12, f"{found} of 200 sets that are like the rest were called worse"


def test_a_cascade_counts_once_however_many_copies_it_has() -> None:
    wrong, inside, codes = world(3, lift=0.18)
    [alone] = compared(wrong, inside, codes=codes)
    [copied] = compared(np.tile(wrong, 5), np.tile(inside, 5), codes=np.tile(codes, 5))
    assert alone.p_value == pytest.approx(copied.p_value, abs=1e-3), "copies were taken for proof"
    independent = np.arange(5 * len(codes))
    [taken] = compared(np.tile(wrong, 5), np.tile(inside, 5), codes=independent)
    assert taken.p_value is not None
    assert copied.p_value is not None
    assert taken.p_value < copied.p_value / 5


def slow_p_value(wrong: Flags, inside: Flags, codes: Codes) -> float:
    """The test in its own words, group by group."""
    generator = np.random.default_rng(99)
    names = np.unique(codes)

    def studentised(values: Mapping[int, np.ndarray]) -> float:
        sides = [
            np.concatenate([values[name][inside[codes == name] == side] for name in names])
            for side in (True, False)
        ]
        means = [side.mean() for side in sides]
        influences = []
        for name in names:
            own = inside[codes == name]
            influences.append(
                (values[name][own] - means[0]).sum() / len(sides[0])
                - (values[name][~own] - means[1]).sum() / len(sides[1])
            )
        return float((means[0] - means[1]) / np.sqrt(np.sum(np.square(influences))))

    seen = studentised({name: wrong[codes == name].astype(float) for name in names})
    residual = wrong - wrong.mean()
    reached = 0
    for _ in range(1000):
        signs = generator.choice([-1.0, 1.0], len(names))
        drawn = {
            name: sign * residual[codes == name] for name, sign in zip(names, signs, strict=True)
        }
        reached += abs(studentised(drawn)) >= abs(seen)
    return reached / 1000


@pytest.mark.parametrize("seed", range(3))
def test_the_fast_test_is_the_slow_one(seed: int) -> None:
    wrong, _, codes = world(seed, num_groups=60, error=0.5)
    inside = np.random.default_rng(seed).random(len(codes)) < 0.4
    [found] = compared(wrong, inside, codes=codes)
    assert found.p_value == pytest.approx(slow_p_value(wrong, inside, codes), abs=0.05)


def test_what_cannot_be_tested_says_why_and_counts_as_no_test() -> None:
    wrong, inside, codes = world(0, lift=0.4)
    few = codes < MIN_GROUPS - 1
    everything = np.ones_like(few)
    alone = compared(wrong, inside, codes=codes)
    found = compared(wrong, few, everything, inside, ~few, codes=codes)
    assert found[0].reason == "9 cascades here, fewer than 10"
    assert found[1].reason == "there are no others"
    assert found[1].error is None
    assert found[3].reason == "9 cascades elsewhere, fewer than 10"
    assert found[2].corrected == found[2].p_value == alone[0].p_value
    assert found[0].as_dict()["reason"] == found[0].reason
    assert "reason" not in found[2].as_dict()
    assert not found[0].worse


def test_where_hardly_any_call_is_wrong_or_right_nothing_is_tested() -> None:
    _, inside, codes = world(0)
    for wrong in (np.zeros_like(inside), codes < 3, codes >= 3, np.ones_like(inside)):
        [found] = compared(wrong, inside, codes=codes)
        assert found.reason is not None
        assert "call to be expected" in found.reason


def test_holm_is_holms() -> None:
    """Sorted, worked by hand: 6 x 0.005, 5 x 0.01, 4 x 0.03, 3 x 0.04 (no less than before), 1."""
    p_values = [0.01, 0.04, 0.03, 0.005, 0.5, 0.9]
    assert holm(p_values) == pytest.approx([0.05, 0.12, 0.12, 0.03, 1.0, 1.0])
    assert holm([]) == []
