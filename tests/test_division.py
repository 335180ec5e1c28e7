from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.division import SIZES, Profile, draw, parts, profiles, take

PLATFORMS = ("facebook", "twitter", "youtube")


def corpus(seed: int, num_groups: int = 200, largest: int = 40) -> pl.DataFrame:
    """Groups of very different sizes; most hold one label and several platforms."""
    generator = np.random.default_rng(seed)
    rows = []
    for group in range(num_groups):
        fakes = generator.choice([0.0, 0.05, 1.0])
        lean = generator.dirichlet([1.0, 0.2, 2.0])
        for copy in range(min(int(generator.pareto(1.2)) + 1, largest)):
            label = "fake" if generator.random() < fakes else "real"
            platform = generator.choice(PLATFORMS, p=lean)
            rows.append((f"v{group}_{copy}", f"g{group}", label, str(platform)))
    names = ["video_id", "group", "label", "platform"]
    return pl.DataFrame(rows, schema=names, orient="row").sort("video_id")


def shares(videos: pl.DataFrame, columns: list[str]) -> dict[object, float]:
    counts = Counter(videos.select(columns).rows())
    return {key: count / videos.height for key, count in counts.items()}


def unlike(part: pl.DataFrame, whole: pl.DataFrame, columns: list[str]) -> float:
    """Total variation between the shares of two sets of videos."""
    one, other = shares(part, columns), shares(whole, columns)
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in one | other) / 2


def of_groups(videos: pl.DataFrame, groups: set[str]) -> pl.DataFrame:
    return videos.filter(pl.col("group").is_in(groups))


def test_a_group_is_described_by_most_of_its_videos() -> None:
    rows = [("a", "fake", "youtube"), ("a", "real", "twitter"), ("a", "real", "youtube")]
    rows += [("b", "real", "youtube"), ("b", "fake", "facebook")]
    videos = pl.DataFrame(rows, schema=["group", "label", "platform"], orient="row")
    assert profiles(videos) == {
        "a": Profile("real", "youtube", 0),
        "b": Profile("fake", "facebook", 0),
    }


@pytest.mark.parametrize("size", [1, *SIZES, *(size + 1 for size in SIZES)])
def test_a_class_of_size_ends_where_it_says(size: int) -> None:
    videos = pl.DataFrame({"group": ["g"] * size, "label": "real", "platform": "twitter"})
    assert profiles(videos)["g"].size == sum(size > end for end in SIZES)


@pytest.mark.parametrize("seed", range(5))
def test_a_draw_is_a_share_of_each_label_and_each_profile(seed: int) -> None:
    groups = profiles(corpus(seed))
    chosen = draw(groups, 0.15, seed)
    for label in ("fake", "real"):
        members = [group for group, profile in groups.items() if profile.label == label]
        assert len(chosen & set(members)) == round(0.15 * len(members))
    by_profile = Counter(groups.values())
    taken = Counter(groups[group] for group in chosen)
    for profile, count in by_profile.items():
        assert abs(taken[profile] - 0.15 * count) < 1, profile


def test_a_draw_takes_one_group_of_each_label_at_least() -> None:
    groups = {"a": Profile("fake", "youtube", 0), "b": Profile("real", "twitter", 1)}
    assert draw(groups, 0.01, 0) == {"a", "b"}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 20),
    st.builds(
        Profile, st.sampled_from(["fake", "real"]), st.sampled_from(PLATFORMS), st.integers(0, 4)
    ),
)
def test_one_more_group_moves_at_most_two_others(seed: int, profile: Profile) -> None:
    groups = profiles(corpus(seed % 3))
    before = draw(groups, 0.15, seed)
    after = draw({**groups, "new": profile}, 0.15, seed)
    assert len((before ^ after) - {"new"}) <= 2, "new videos reshuffle the locked test"


def dealt(videos: pl.DataFrame, part_of: dict[str, int]) -> list[pl.DataFrame]:
    assert part_of.keys() == set(videos["group"])
    return [
        of_groups(videos, {group for group, own in part_of.items() if own == part})
        for part in sorted(set(part_of.values()))
    ]


@pytest.mark.parametrize("largest", [6, 40])
@pytest.mark.parametrize("seed", range(5))
def test_parts_are_alike_in_size_and_label(seed: int, largest: int) -> None:
    videos = corpus(seed, largest=largest)
    for part in dealt(videos, parts(videos, 5, seed)):
        assert part.height == pytest.approx(videos.height / 5, rel=0.05)
        assert unlike(part, videos, ["label"]) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_more_alike_in_platform_than_if_it_were_not_looked_at(seed: int) -> None:
    videos = corpus(seed, largest=6)
    blind = parts(videos.with_columns(platform=pl.lit("any")), 5, seed)
    seeing, blinded = (
        np.mean([unlike(part, videos, ["platform"]) for part in dealt(videos, part_of)])
        for part_of in (parts(videos, 5, seed), blind)
    )
    assert seeing < 0.05
    assert seeing < 0.7 * blinded


def test_a_group_too_large_for_its_platform_does_not_unbalance_the_labels() -> None:
    videos = corpus(0, largest=6)
    rows = [(f"v{row}", "huge", "fake", "twitter") for row in range(40)]
    videos = pl.concat([videos, pl.DataFrame(rows, schema=videos.schema, orient="row")])
    for part in dealt(videos, parts(videos, 5, 0)):
        assert part.height == pytest.approx(videos.height / 5, rel=0.05)
        assert unlike(part, videos, ["label"]) < 0.02


@pytest.mark.parametrize("share", [0.05, 0.15, 0.2, 0.33, 0.45])
def test_what_is_taken_is_that_share_of_the_videos_of_each_label(share: float) -> None:
    videos = corpus(1)
    part = of_groups(videos, take(videos, share, 3))
    for label in ("fake", "real"):
        wanted = share * videos.filter(label=label).height
        assert part.filter(label=label).height == pytest.approx(wanted, rel=0.1, abs=2)


def test_the_seed_chooses_what_is_taken() -> None:
    videos = corpus(0)
    choices = [frozenset(take(videos, 0.2, seed)) for seed in range(12)]
    assert len(set(choices)) > 6
    largest = videos["group"].mode()[0]
    holders = sum(largest in choice for choice in choices)
    assert 0 < holders < len(choices), "the largest group is always, or never, taken"


@pytest.mark.parametrize("share", [0.01, 0.15, 0.2])
@pytest.mark.parametrize("num_groups", [2, 3, 4, 7])
def test_of_few_groups_some_of_each_label_are_taken(share: float, num_groups: int) -> None:
    rows = [
        (f"{label}{group}", label, PLATFORMS[group % 3])
        for label in ("fake", "real")
        for group in range(num_groups)
    ]
    videos = pl.DataFrame(rows, schema=["group", "label", "platform"], orient="row")
    for seed in range(5):
        taken = of_groups(videos, take(videos, share, seed))
        assert set(taken["label"]) == {"fake", "real"}
        assert taken.height < videos.height


def test_rare_platforms_neither_warn_nor_fail() -> None:
    rows = [(f"g{row}", ("fake", "real")[row % 2], f"platform {row}") for row in range(20)]
    videos = pl.DataFrame(rows, schema=["group", "label", "platform"], orient="row")
    found = parts(videos, 5, 0)
    held = Counter((found[group], label) for group, label, _ in rows)
    assert set(held.values()) == {2}, "each part has two videos of each label"
