from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fvc.seeding import generator_for, seed_for

PARTS = st.one_of(
    st.integers(), st.text(st.characters(codec="utf-8", exclude_characters="\x1f"), max_size=5)
)


@given(seed=st.integers(0, 2**31), purposes=st.sets(st.tuples(PARTS, PARTS), max_size=8))
def test_purposes_get_seeds_of_their_own(
    seed: int, purposes: set[tuple[str | int, str | int]]
) -> None:
    texts = {tuple(map(str, purpose)) for purpose in purposes}
    seeds = [seed_for(seed, *purpose) for purpose in texts]
    assert all(0 <= value < 2**63 for value in seeds)
    assert all(first != second for first, second in combinations(seeds, 2))
    assert seeds == [seed_for(seed, *purpose) for purpose in texts]


def test_a_generator_is_a_function_of_its_purpose() -> None:
    assert generator_for(0, "a", "b").random() == generator_for(0, "a", "b").random()
    assert generator_for(0, "a", "b").random() != generator_for(0, "ab").random()
    assert seed_for(0, "split") == 6812300375708456965, "every result made so far would change"
