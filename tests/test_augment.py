import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from augmentation import CHANGES, only
from running_here import watched

from fvc.clip_files import load_clips, save_clips
from fvc.config import AugmentConfig, Params, load_params
from fvc.errors import FvcError
from fvc.records import FOLDS
from fvc.seeding import generator_for
from fvc.stages import augment as stage
from fvc.transforms import augment_clip, augmented_version

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml")
PARAMS = replace(COMMITTED, augment=replace(COMMITTED.augment, versions=3))
PARTS = {"facebook_1": "fold", "twitter_2": "locked", "youtube_a": "fold", "youtube_b": "fold"}
TRAINING = ["facebook_1", "youtube_a", "youtube_b"]


class Workspace:
    """Clips of some videos with their folds, and where the stage writes."""

    def __init__(self, root: Path) -> None:
        self.clips, self.folds = root / "clips", root / "folds.parquet"
        self.augmented = root / "augmented"
        for number, video_id in enumerate(PARTS):
            self.write_clips(video_id, seed=number)
        self.write_folds()

    def write_clips(self, video_id: str, seed: int) -> None:
        shape = (2, 4, 3, 32, 32)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        save_clips(self.clips / f"{video_id}.pt", pixels, f"key of seed {seed}")

    def write_folds(self, parts: dict[str, str] = PARTS) -> None:
        rows: list[dict[str, object]] = [
            {
                "video_id": video_id,
                "group": f"g{number}",
                "label": "real",
                "part": part,
                "fold": None if part == "locked" else 0,
                "validates": [],
            }
            for number, (video_id, part) in enumerate(parts.items())
        ]
        # Fold 1 tests it and fold 0 validates with it, so no fold trains on it.
        other = {"video_id": "twitter_9", "group": "g9", "label": "fake", "part": "fold"}
        rows.append({**other, "fold": 1, "validates": [0]})
        FOLDS.write(self.folds, FOLDS.frame(rows))

    def run(self, params: Params = PARAMS) -> None:
        stage.run(params, clips=self.clips, folds=self.folds, augmented=self.augmented)

    def contents(self) -> dict[str, bytes]:
        return {file.stem: file.read_bytes() for file in sorted(self.augmented.iterdir())}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the videos that were augmented, one after the other in this process."""
    return watched(monkeypatch, stage)


def test_training_videos_alone_get_versions_of_their_clips(workspace: Workspace) -> None:
    workspace.run()
    assert list(workspace.contents()) == TRAINING, "a locked video is augmented"
    for video_id in TRAINING:
        clips = load_clips(workspace.clips / f"{video_id}.pt", "clips").numpy()
        versions = load_clips(workspace.augmented / f"{video_id}.pt", "augment").numpy()
        assert versions.shape == (3, *clips.shape[1:])
        for version, result in enumerate(versions):
            generator = generator_for(PARAMS.seed, "augment", video_id, version)
            expected = augment_clip(clips[version % 2], PARAMS.augment, generator)
            assert np.array_equal(result, expected)


def test_workers_make_the_same_bytes_with_every_change(workspace: Workspace) -> None:
    params = replace(PARAMS, augment=replace(only(*CHANGES), versions=2))
    workspace.run(params)
    for video_id in TRAINING:
        clips = load_clips(workspace.clips / f"{video_id}.pt", "clips").numpy()
        versions = load_clips(workspace.augmented / f"{video_id}.pt", "augment").numpy()
        for version, result in enumerate(versions):
            again = augmented_version(clips, video_id, version, params.augment, params.seed)
            assert np.array_equal(result, again), "another process gives other pixels"


@pytest.mark.parametrize("null", [False, True], ids=["folds", "single"])
def test_what_no_fold_trains_on_gets_no_versions(null: bool) -> None:
    places = {"tests": (0, []), "validates": (None if null else 1, [0]), "locked": (None, [])}
    places |= {"trains": (None if null else 1, [])}
    rows: list[dict[str, object]] = [
        {
            **{"video_id": name, "group": name, "label": "real"},
            **{"part": "locked" if name == "locked" else "fold"},
            **{"fold": fold, "validates": validates},
        }
        for name, (fold, validates) in places.items()
    ]
    # With two folds, fold 1 trains on what fold 0 tests.
    trained = ["trains"] if null else ["tests", "trains"]
    assert stage.training_videos(FOLDS.frame(rows)) == trained


def test_versions_do_not_depend_on_workers_or_other_videos(
    tmp_path: Path, workspace: Workspace, made: list[str]
) -> None:
    workspace.run()
    alone = Workspace(tmp_path / "alone")
    alone.write_folds({"youtube_a": "fold"})
    alone.run()
    assert made == [*TRAINING, "youtube_a"]
    assert alone.contents()["youtube_a"] == workspace.contents()["youtube_a"]


def test_a_second_run_makes_nothing(workspace: Workspace, made: list[str]) -> None:
    workspace.run()
    before = workspace.contents()
    made.clear()
    workspace.run()
    assert made == []
    assert workspace.contents() == before


def test_only_what_changed_is_made_again(workspace: Workspace, made: list[str]) -> None:
    workspace.run()
    before = workspace.contents()
    made.clear()
    workspace.write_clips("youtube_a", seed=99)
    os.truncate(workspace.augmented / "youtube_b.pt", 50)
    workspace.run()
    assert made == ["youtube_a", "youtube_b"]
    after = workspace.contents()
    changed = {video_id for video_id in before if before[video_id] != after[video_id]}
    assert changed == {"youtube_a"}


def other_blur(config: AugmentConfig) -> AugmentConfig:
    return replace(config, blur=replace(config.blur, max_sigma_px=9.0))


@pytest.mark.parametrize(
    "params",
    [
        replace(PARAMS, seed=1),
        replace(PARAMS, augment=replace(PARAMS.augment, versions=2)),
        replace(PARAMS, augment=other_blur(PARAMS.augment)),
    ],
    ids=["seed", "versions", "parameter"],
)
def test_seed_and_parameters_make_all_anew(
    workspace: Workspace, made: list[str], params: Params
) -> None:
    workspace.run()
    workspace.run(params)
    assert made == 2 * TRAINING


def test_versions_of_videos_that_are_locked_now_are_removed(
    workspace: Workspace, made: list[str]
) -> None:
    workspace.run()
    made.clear()
    workspace.write_folds(PARTS | {"youtube_a": "locked"})
    workspace.run()
    assert list(workspace.contents()) == ["facebook_1", "youtube_b"]
    assert made == []


def test_no_versions_give_an_empty_folder(workspace: Workspace, made: list[str]) -> None:
    workspace.run()
    workspace.run(replace(PARAMS, augment=replace(PARAMS.augment, versions=0)))
    assert workspace.contents() == {}
    assert made == TRAINING


def test_on_the_fly_stores_nothing_and_removes_what_was_stored(
    workspace: Workspace, made: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.run()
    capsys.readouterr()
    workspace.run(replace(PARAMS, augment=replace(PARAMS.augment, mode="on_the_fly")))
    assert workspace.contents() == {}
    assert made == TRAINING
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "on_the_fly" in said[0]


def test_missing_clips_are_named(workspace: Workspace) -> None:
    (workspace.clips / "youtube_a.pt").unlink()
    with pytest.raises(FvcError, match=r"youtube_a\.pt: is missing.*dvc repro clips"):
        workspace.run()


def test_clips_damaged_inside_are_named(workspace: Workspace) -> None:
    path = workspace.clips / "youtube_a.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(FvcError, match=r"youtube_a\.pt: is damaged"):
        workspace.run()


def test_the_command_line_runs_the_stage(workspace: Workspace, made: list[str]) -> None:
    flags = {"clips": workspace.clips, "folds": workspace.folds, "augmented": workspace.augmented}
    params = Path(__file__).parents[1] / "params.yaml"
    words = [word for name, path in flags.items() for word in (f"--{name}", str(path))]
    stage.main(["--params", str(params), *words])
    assert made == TRAINING
