from dataclasses import replace
from pathlib import Path

import numpy as np
import outcomes
import pandas as pd
import polars as pl
import pytest
import torch
from settings import clips_config
from torch import nn

from fvc import serving
from fvc.clip_files import load_clips
from fvc.config import ClipsConfig, load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.networks import ClipClassifier
from fvc.predict import clip_logits, video_logit
from fvc.records import INDEX
from fvc.stages import clips as clips_stage

CLIPS = clips_config(3, 4, 32)
CALIBRATION = replace(outcomes.CALIBRATION, temperature=2.0)
SETTINGS = serving.Settings(clips=CLIPS, calibration=CALIBRATION, max_mib=1.0)


def made_for(config: ClipsConfig) -> ClipClassifier:
    torch.manual_seed(0)
    features = nn.Conv3d(3, 4, 3)
    return ClipClassifier(features, channels=4, dropout=0.5, clips=config)


@pytest.fixture
def network() -> ClipClassifier:
    return made_for(CLIPS)


def test_the_input_example_can_be_answered_by_any_kind_of_network() -> None:
    for config in (CLIPS, ROLLING):
        settings = replace(SETTINGS, clips=config)
        answered = serving.answer(made_for(config), settings, serving.example_video())
        assert answered["error"] is None
        assert answered["clips"]


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six seconds of noise, wider than high."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (60, 48, 80, 3), np.uint8)
    target = tmp_path / "videos" / "video.mp4"
    encode(target, frames, fps=10)
    return target


ROLLING = clips_config(4, 4, 32, views="rolling", window_s=2.0, stride_s=1.5, fit="native")


@pytest.mark.parametrize("config", [CLIPS, ROLLING], ids=["letterboxed spans", "native windows"])
def test_stored_and_served_pixels_are_the_same_bits(
    tmp_path: Path, video: Path, config: ClipsConfig
) -> None:
    network, settings = made_for(config), replace(SETTINGS, clips=config)
    row = dict.fromkeys(INDEX.columns) | {
        "video_id": "youtube_a",
        "path": video.name,
        "label": "fake",
        "cascade_ids": ["f0"],
        "sha256": sha256_of_file(video),
    }
    INDEX.write(tmp_path / "index.parquet", pl.DataFrame([row], schema=dict(INDEX.columns)))
    params = replace(load_params(Path("params.yaml")), clips=config)
    clips_stage.run(
        params,
        videos=video.parent,
        index=tmp_path / "index.parquet",
        clips=tmp_path / "clips",
        summary=tmp_path / "clips.json",
    )
    stored = load_clips(tmp_path / "clips" / "youtube_a.pt", "clips")
    served = serving.decode(video.read_bytes(), settings)
    assert torch.equal(stored, torch.from_numpy(served.pixels)), "training sees other pixels"
    expected = CALIBRATION.probability(video_logit(clip_logits(network, stored)))
    answer = serving.answer(network, settings, video.read_bytes())
    assert answer["probability_fake"] == expected, "training and serving disagree"
    assert len(answer["clips"]) == len(stored)
    if config is ROLLING:
        assert stored.shape[2:] == (3, 19, 32), "this video is wider than high"


def test_an_answer_says_which_part_scores_what(network: ClipClassifier, video: Path) -> None:
    answer = serving.answer(network, SETTINGS, video.read_bytes())
    assert answer["error"] is None
    spans = [(clip["start_s"], clip["end_s"]) for clip in answer["clips"]]
    assert spans == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert all(0 <= clip["probability_fake"] <= 1 for clip in answer["clips"])
    assert answer["verdict"] == CALIBRATION.verdict(answer["probability_fake"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not_a_video"),
        (bytes(2**20 + 1), "too_large: 1.0 MiB, above 1.0"),
    ],
)
def test_a_bad_video_costs_only_its_own_row(
    network: ClipClassifier, video: Path, content: bytes, said: str
) -> None:
    model = serving.VideoVerdict()
    model.network, model.settings = network, SETTINGS
    rows = pd.DataFrame({"video": [content, video.read_bytes()]})
    bad, good = model.predict(None, rows)
    assert bad["error"].startswith(said)
    assert (bad["probability_fake"], bad["verdict"], bad["clips"]) == (None, None, [])
    assert good["error"] is None


def test_settings_survive_the_registry(tmp_path: Path) -> None:
    SETTINGS.write(tmp_path)
    assert serving.Settings.read(tmp_path) == SETTINGS


@pytest.mark.usefixtures("store")
def test_a_model_that_is_not_registered_is_named() -> None:
    with pytest.raises(FvcError, match=r"models:/fvc@champion: cannot be loaded"):
        serving.load_model("models:/fvc@champion")
