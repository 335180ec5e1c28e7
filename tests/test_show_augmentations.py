from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from augmentation import CHANGES, textured_clip

from fvc.__main__ import main
from fvc.clip_files import save_clips
from fvc.config import Chance, load_params
from fvc.report.contact_sheet import GAP_PX, HEAD_PX, LABEL_PX, contact_sheet
from fvc.report.plots import save
from fvc.stages import show_augmentations as stage
from fvc.transforms import augmented_version

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number, name in enumerate(("twitter_b", "twitter_a")):
        pixels = textured_clip(4, 60 + 20 * number, 90)
        save_clips(tmp_path / "clips" / f"{name}.pt", np.stack([pixels, pixels[::-1]]), "key")
    return tmp_path / "clips"


def test_every_change_has_a_row_in_which_it_alone_is_made() -> None:
    pixels = np.stack([textured_clip(8)])
    rows = list(stage.rows_of(pixels, "twitter_a", PARAMS))
    assert [name for name, _, _ in rows] == [
        "original",
        *CHANGES,
        *(f"version {version}" for version in range(stage.NUM_VERSIONS)),
    ]
    assert np.array_equal(rows[0][2], pixels[0])
    for name, _, shown in rows[1 : 1 + len(CHANGES)]:
        assert not np.array_equal(shown, pixels[0]), f"{name} shows nothing"
    mirrored = dict((name, shown) for name, _, shown in rows)["flip"]
    assert np.array_equal(mirrored, pixels[0][..., ::-1])


@pytest.mark.parametrize("name", CHANGES)
def test_alone_means_that_nothing_else_is_drawn(name: str) -> None:
    config = stage.alone(replace(PARAMS.augment, strength=0.5), name)
    chances = {
        field.name: section.probability
        for field in fields(config)
        if isinstance(section := getattr(config, field.name), Chance)
    }
    assert chances == {each: float(each == name) for each in CHANGES}
    assert config.rotation.max_deg == 0.5 * PARAMS.augment.rotation.max_deg


def test_versions_are_those_of_training() -> None:
    pixels = np.stack([textured_clip(), textured_clip()[:, :, ::-1]])
    shown = {name: clip for name, _, clip in stage.rows_of(pixels, "twitter_a", PARAMS)}
    for version in range(stage.NUM_VERSIONS):
        made = augmented_version(pixels, "twitter_a", version, PARAMS.augment, PARAMS.seed)
        assert np.array_equal(shown[f"version {version}"], made)


def test_the_sheet_shows_every_pixel_in_its_place(tmp_path: Path) -> None:
    clips = [np.random.default_rng(row).integers(0, 256, (3, 3, 130, 140)) for row in range(2)]
    rows = [("name", "remark", clip.astype(np.uint8)) for clip in clips]
    save(contact_sheet("title", rows), tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None
    image = image[..., ::-1]
    for row, clip in enumerate(clips):
        for place, frame in enumerate(clip):
            top, left = HEAD_PX + row * (130 + GAP_PX), LABEL_PX + place * (140 + GAP_PX)
            seen = image[top : top + 130, left : left + 140]
            assert np.array_equal(seen.transpose(2, 0, 1), frame)
    labels = image[HEAD_PX : HEAD_PX + 130, :LABEL_PX]
    assert (labels < 128).any(), "the row has no label"


def test_small_frames_are_enlarged_and_long_clips_thinned(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (33, 3, 64, 40)).astype(np.uint8)
    save(contact_sheet("title", [("name", "", clip)]), tmp_path / "sheet.png")
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None
    strip = image[HEAD_PX : HEAD_PX + 128, LABEL_PX:-GAP_PX, ::-1]
    frames = strip.reshape(128, 8, 80 + GAP_PX, 3)[::2, :, :80:2].transpose(1, 3, 0, 2)
    assert np.array_equal(frames[[0, -1]], clip[[0, -1]])


@pytest.mark.parametrize("flags", [[], ["--video", "twitter_b"]], ids=["first", "named"])
def test_the_command_draws_the_video_that_is_asked_for(
    clips: Path, tmp_path: Path, flags: list[str]
) -> None:
    sheet = tmp_path / "pictures" / "sheet.png"
    words = ["--params", str(ROOT / "params.yaml"), "--clips", str(clips), "--sheet", str(sheet)]
    assert main(["show-augmentations", *words, *flags]) == 0
    image = cv2.imread(str(sheet))
    assert image is not None
    height = 120 if flags else 160
    rows = 1 + len(CHANGES) + stage.NUM_VERSIONS
    assert image.shape[0] == HEAD_PX + rows * (height + GAP_PX)
    assert [file.name for file in sheet.parent.iterdir()] == ["sheet.png"]


def test_a_video_without_clips_is_named(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--params", str(ROOT / "params.yaml"), "--sheet", str(tmp_path / "sheet.png")]
    assert main(["show-augmentations", *words, "--clips", str(clips), "--video", "nobody"]) == 1
    assert main(["show-augmentations", *words, "--clips", str(tmp_path / "nowhere")]) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert "nobody" in first
    assert "twitter_a" in first
    assert "dvc repro clips" in second
    assert not (tmp_path / "sheet.png").exists()
