from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import outcomes
import polars as pl
import pytest

from fvc.evidence.perturbations import version_names
from fvc.evidence.rescoring import Rescored
from fvc.evidence.robustness import Robustness, choose_videos, tracked, weigh_robustness
from fvc.files import write_json
from fvc.report import plots
from fvc.report.robustness import TITLES, robustness_figure, robustness_section

CONFIG = replace(outcomes.CONFIG, robustness_videos=8)
CALIBRATION = replace(outcomes.CALIBRATION, temperature=2.0)


def videos_of(num_videos: int, *, per_group: int = 3, fold: int = 0) -> pl.DataFrame:
    """Groups of one label each, whose scores tell them apart."""
    numbers = np.arange(num_videos)
    is_fake = numbers // per_group % 2 == 0
    return pl.DataFrame(
        {
            "video_id": [f"v{fold}{number:03}" for number in numbers],
            "group": [f"g{fold}{number // per_group:03}" for number in numbers],
            "is_fake": is_fake,
            "fold": np.full(num_videos, fold),
            "logit": np.where(is_fake, 2.0, -2.0) + numbers / 100,
        }
    )


def as_stored(videos: pl.DataFrame) -> dict[str, Rescored]:
    """Nothing changes any score."""
    return {
        video_id: Rescored(dict.fromkeys(version_names(), logit))
        for video_id, logit in videos.select("video_id", "logit").rows()
    }


def weigh(videos: pl.DataFrame, rescored: Mapping[str, Rescored]) -> Robustness:
    calibrations = dict.fromkeys((0, 1), CALIBRATION)
    return weigh_robustness(videos, rescored, calibrations, config=CONFIG, seed=0)


def changed(videos: pl.DataFrame, name: str, factor: float) -> dict[str, Rescored]:
    """In one version the logits are multiplied."""
    return {
        video_id: Rescored({**each.logits, name: factor * each.logits[name]})
        for video_id, each in as_stored(videos).items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_balanced_and_groups_are_taken_in_turn(seed: int) -> None:
    tested = videos_of(60)
    chosen = choose_videos(tested, 8, seed)
    assert chosen["is_fake"].sum() == 4
    assert chosen["group"].n_unique() == 8
    more = choose_videos(tested, 30, seed)
    assert set(Counter(more["group"]).values()) <= {1, 2}
    assert set(chosen["video_id"]) <= set(more["video_id"])


def test_the_choice_depends_on_the_seed_and_hardly_on_the_others() -> None:
    tested = videos_of(60)
    chosen = set(choose_videos(tested, 8, 0)["video_id"])
    assert chosen == set(choose_videos(tested.reverse(), 8, 0)["video_id"])
    assert chosen != set(choose_videos(tested, 8, 1)["video_id"])
    fewer = tested.filter(pl.col("video_id") != min(chosen))
    assert len(chosen & set(choose_videos(fewer, 8, 0)["video_id"])) == 7


def test_few_videos_are_all_taken_and_none_where_none_is_wanted() -> None:
    assert choose_videos(videos_of(5), 8, 0).height == 5
    assert choose_videos(videos_of(9, per_group=9), 4, 0)["is_fake"].all()
    assert choose_videos(videos_of(9), 0, 0).height == 0


def test_what_changes_nothing_has_no_effect() -> None:
    videos = pl.concat([videos_of(12), videos_of(12, fold=1)])
    found = weigh(videos, as_stored(videos))
    assert [effect.name for effect in found.effects] == ["stored", *version_names()]
    assert (found.num_videos, found.num_groups, found.num_fake) == (24, 8, 12)
    for effect in found.effects:
        assert effect.roc_auc.value == 1
        assert (effect.gain.value, effect.gain.low, effect.gain.high) == (0, 0, 0)
        assert (effect.probability_change, effect.num_changed, effect.share_changed) == (0, 0, 0)


def test_what_turns_all_scores_around_shows_in_its_version_alone() -> None:
    videos = videos_of(12)
    found = weigh(videos, changed(videos, "downscale_4", -1.0))
    worst = found.of("downscale")[-1]
    assert worst.roc_auc.value == 0
    assert worst.gain.value == -1
    assert (worst.num_changed, worst.share_changed) == (12, 1)
    probability = CALIBRATION.probabilities(videos["logit"].to_numpy())
    assert worst.probability_change == pytest.approx(np.abs(1 - 2 * probability).mean())
    others = [effect for effect in found.effects if effect is not worst]
    assert {effect.num_changed for effect in others} == {0}


def test_a_verdict_that_becomes_uncertain_has_changed() -> None:
    videos = videos_of(12)
    found = weigh(videos, changed(videos, "mirror_1", 0.05))
    [mirrored] = found.of("mirror")
    assert mirrored.num_changed == 12
    assert mirrored.roc_auc.value == 1


def test_what_encoding_alone_does_is_not_blamed_on_perturbations() -> None:
    videos = videos_of(12)
    rescored = {
        video_id: Rescored({name: -logit for name, logit in each.logits.items()})
        for video_id, each in as_stored(videos).items()
    }
    found = weigh(videos, rescored)
    assert found.stored.roc_auc.value == 1
    assert found.reencoded.gain.value == -1
    assert found.reencoded.num_changed == 12
    assert {effect.gain.value for effect in found.effects[2:]} == {0}


def test_a_video_that_fails_counts_in_no_version() -> None:
    videos = videos_of(12)
    rescored = as_stored(videos) | {"v0003": Rescored({}, "undecodable (why)")}
    found = weigh(videos, rescored)
    assert (found.num_chosen, found.num_videos) == (12, 11)
    assert found.failures == {"v0003": "undecodable (why)"}
    assert found.effects == weigh(videos.filter(pl.col("video_id") != "v0003"), rescored).effects


@pytest.mark.parametrize("num_videos", [0, 3])
def test_nothing_is_measured_of_nothing(num_videos: int) -> None:
    videos = videos_of(num_videos)
    found = weigh(videos, dict.fromkeys(videos["video_id"], Rescored({}, "timeout")))
    assert (found.num_videos, found.num_groups, found.num_fake) == (0, 0, 0)
    assert found.effects == ()
    assert found.points().height == 0
    assert tracked(found.as_dict()) == {}
    text = " ".join(robustness_section(found, []).text)
    assert ("Not measured" if num_videos == 0 else "3 of 3 chosen videos could not") in text


def test_one_class_has_verdicts_and_no_roc_auc(tmp_path: Path) -> None:
    videos = videos_of(6, per_group=6)
    found = weigh(videos, as_stored(videos))
    assert found.stored.roc_auc.reason == "all videos are fake"
    assert tracked(found.as_dict()) == {}
    assert found.points()["roc_auc"].null_count() == 1 + len(version_names())
    plots.save(robustness_figure(found), tmp_path / "robustness.png")
    section = robustness_section(found, [])
    assert "0 of 6 verdicts change" in section.text[0]
    assert section.grids[0].rows[0][1] == "unknown: all videos are fake"


def test_files_and_runs_name_every_version(tmp_path: Path) -> None:
    videos = videos_of(12)
    found = weigh(videos, changed(videos, "recompression_42", -1.0))
    write_json(tmp_path / "robustness.json", found.as_dict())
    names = [f"robustness/{name}_roc_auc" for name in ("stored", *version_names())]
    shown = tracked(found.as_dict())
    assert list(shown) == names
    assert shown["robustness/recompression_42_roc_auc"] == 0
    assert found.points()["version"].to_list() == ["stored", *version_names()]


def test_the_section_says_in_words_what_changes() -> None:
    videos = videos_of(12)
    found = weigh(videos, changed(videos, "recompression_42", -1.0))
    section = robustness_section(found, [])
    assert section.text[0].startswith(
        "After strong re-compression (CRF 42), 12 of 12 verdicts change; after down-scaling to 1/4"
    )
    [grid] = section.grids
    assert grid.caption == "12 videos of 4 cascades, 6 fake"
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["re-compressed at CRF 42"][1].startswith("-1.000")
    assert rows["re-compressed at CRF 42"][3] == "12 of 12 (100%)"
    assert rows["the files as they are"][1:] == ("", "", "")


def test_failures_are_told() -> None:
    videos = videos_of(12)
    rescored = as_stored(videos) | {"v0003": Rescored({}, "timeout: took longer than 9 s")}
    text = " ".join(robustness_section(weigh(videos, rescored), []).text)
    assert "1 of 12 chosen videos could not be scored" in text
    assert "v0003 (timeout: took longer than 9 s)" in text


def test_every_perturbation_has_its_panel_with_its_levels(tmp_path: Path) -> None:
    videos = videos_of(12)
    figure = robustness_figure(weigh(videos, as_stored(videos)))
    assert [axes.get_title("left") for axes in figure.axes] == list(TITLES.values())
    first = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert first == ["none", "28", "35", "42"]
    plots.save(figure, tmp_path / "first")
    plots.save(robustness_figure(weigh(videos, as_stored(videos))), tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
