import base64
import gc
import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import outcomes
import pandas as pd
import polars as pl
import psutil
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image
from settings import clips_config, serving_config
from torch import nn

from fvc.clip_files import load_clips
from fvc.config import ClipsConfig, load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.networks import ClipClassifier
from fvc.predict import clip_logits, video_logit
from fvc.records import INDEX
from fvc.serving.answering import Answerer, Wishes
from fvc.serving.model import SIGNATURE, VideoVerdict, version_in
from fvc.serving.packaging import example_video, load_model
from fvc.serving.settings import Settings
from fvc.stages import clips as clips_stage

CLIPS = clips_config(3, 4, 32)
ROLLING = clips_config(4, 4, 32, views="rolling", window_s=2.0, stride_s=1.5, fit="native")
CALIBRATION = replace(outcomes.CALIBRATION, temperature=2.0)
SETTINGS = Settings(clips=CLIPS, calibration=CALIBRATION, limits=serving_config())


def made_for(config: ClipsConfig) -> ClipClassifier:
    torch.manual_seed(0)
    features = nn.Conv3d(3, 4, 3)
    return ClipClassifier(features, channels=4, dropout=0.5, clips=config)


@pytest.fixture(scope="module")
def answerer() -> Iterator[Answerer]:
    made = Answerer(made_for(CLIPS), SETTINGS, "fvc/7", decoders=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model(answerer: Answerer) -> VideoVerdict:
    made = VideoVerdict()
    made.answerer = answerer
    return made


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of noise, wider than high."""
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (60, 48, 80, 3), np.uint8)
    target = tmp_path_factory.mktemp("videos") / "video.mp4"
    encode(target, frames, fps=10)
    return target


@pytest.mark.parametrize("config", [CLIPS, ROLLING], ids=["letterboxed spans", "native windows"])
def test_stored_and_served_pixels_are_the_same_bits(
    tmp_path: Path, video: Path, config: ClipsConfig
) -> None:
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
    network = made_for(config)
    expected = CALIBRATION.probability(video_logit(clip_logits(network, stored)))
    answerer = Answerer(network, replace(SETTINGS, clips=config), decoders=1)
    try:
        served = answerer.decoders.clips(video.read_bytes(), config)
        answer = answerer.answer(video.read_bytes(), Wishes())
    finally:
        answerer.close()
    assert torch.equal(stored, torch.from_numpy(served.pixels)), "training sees other pixels"
    assert answer["probability_fake"] == expected, "training and serving disagree"
    assert len(answer["clips"]) == len(stored)
    if config is ROLLING:
        assert stored.shape[2:] == (3, 19, 32), "this video is wider than high"


def test_an_answer_says_which_part_scores_what(answerer: Answerer, video: Path) -> None:
    answer = answerer.answer(video.read_bytes(), Wishes())
    assert answer["error"] is None
    spans = [(clip["start_s"], clip["end_s"]) for clip in answer["clips"]]
    assert spans == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert all(0 <= clip["probability_fake"] <= 1 for clip in answer["clips"])
    assert answer["verdict"] == CALIBRATION.verdict(answer["probability_fake"])
    assert answer["model_version"] == "fvc/7"
    assert answer["video_sha256"] == sha256_of_file(video)


def test_the_input_example_can_be_answered(answerer: Answerer) -> None:
    assert answerer.answer(example_video(), Wishes())["clips"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not_a_video"),
        (bytes(2**20 + 1), "too_large: 1.0 MiB, above 1"),
    ],
)
def test_a_bad_video_costs_only_its_own_row(
    model: VideoVerdict, video: Path, content: bytes, said: str
) -> None:
    rows = pd.DataFrame({"video": [content, video.read_bytes()], "name": ["bad", None]})
    bad, good = model.predict(None, rows)
    assert bad["error"].startswith(said)
    assert (bad["probability_fake"], bad["verdict"], bad["clips"]) == (None, None, [])
    assert good["error"] is None
    assert (bad["name"], good["name"]) == ("bad", None)


@pytest.mark.parametrize(
    ("content", "kind"), [("clip.mp4", "str"), (None, "NoneType"), (7, "int"), ([1, 300], "list")]
)
def test_a_row_without_bytes_costs_only_itself(
    model: VideoVerdict, video: Path, content: object, kind: str
) -> None:
    rows = pd.DataFrame({"video": pd.Series([content, video.read_bytes(), content], dtype=object)})
    first, good, last = model.predict(None, rows)
    assert good["error"] is None
    assert first == last
    assert first["error"] == f"not_bytes: {kind}, not the bytes of a file"
    assert (first["probability_fake"], first["video_sha256"]) == (None, None)


def test_rows_are_answered_in_their_order_as_each_alone(
    model: VideoVerdict, answerer: Answerer, video: Path
) -> None:
    contents = [b"", video.read_bytes(), example_video()] * 5
    together = model.predict(None, pd.DataFrame({"video": contents}))
    alone = [answerer.answer(content, Wishes()) for content in contents]
    for found, expected in zip(together, alone, strict=True):
        assert found["video_sha256"] == expected["video_sha256"]
        assert found["probability_fake"] == pytest.approx(expected["probability_fake"], abs=1e-6)


def test_every_answer_is_as_the_signature_says(model: VideoVerdict, video: Path) -> None:
    rows = pd.DataFrame({"video": [video.read_bytes(), b""], "name": ["a", "b"]})
    columns = {column.name: column for column in SIGNATURE.outputs.inputs}
    required = {name for name, column in columns.items() if column.required}
    for answer in model.predict(None, rows, {"explain": True}):
        assert required <= answer.keys() <= columns.keys()
        assert {name for name, value in answer.items() if value is None}.isdisjoint(required)


def test_a_request_may_ask_for_more_clips(model: VideoVerdict, video: Path) -> None:
    rows = pd.DataFrame({"video": [video.read_bytes()]})
    [answer] = model.predict(None, rows, {"clips": 5, "threshold": None, "explain": False})
    assert [clip["end_s"] for clip in answer["clips"]] == pytest.approx([1.2, 2.4, 3.6, 4.8, 6.0])


def test_a_request_may_name_its_threshold(model: VideoVerdict, video: Path) -> None:
    rows = pd.DataFrame({"video": [video.read_bytes()]})
    for threshold, verdict in ((0.0, "fake"), (1.0, "real")):
        [answer] = model.predict(None, rows, {"threshold": threshold})
        assert (answer["threshold"], answer["verdict"]) == (threshold, verdict)


def test_a_request_may_ask_where_the_network_looked(model: VideoVerdict, video: Path) -> None:
    rows = pd.DataFrame({"video": [video.read_bytes()]})
    [plain] = model.predict(None, rows)
    [answer] = model.predict(None, rows, {"explain": True})
    picture = Image.open(io.BytesIO(base64.b64decode(answer.pop("overlay_png"))))
    assert (picture.format, picture.size) == ("PNG", (4 * 32, 32))
    assert answer == plain, "to explain changes the answer"


@pytest.mark.parametrize("params", [{"clips": 0}, {"clips": 65}, {"threshold": 1.1}])
def test_a_wish_out_of_range_is_refused(model: VideoVerdict, params: dict[str, float]) -> None:
    with pytest.raises(MlflowException, match="not between") as refused:
        model.predict(None, pd.DataFrame({"video": [b""]}), params)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE", "a server says 400"


def test_requests_at_the_same_time_get_their_own_answers(answerer: Answerer) -> None:
    videos = []
    for level in range(0, 256, 16):
        file = io.BytesIO()
        encode(file, np.full((8, 32, 32, 3), level, np.uint8), fps=8)
        videos.append(file.getvalue())
    expected = [answerer.answer(video, Wishes())["probability_fake"] for video in videos]
    assert len({round(value, 4) for value in expected}) == len(expected), "they look alike"
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda video: answerer.answer(video, Wishes()), videos * 3))
    found = [answer["probability_fake"] for answer in answers]
    assert found == pytest.approx(expected * 3, abs=1e-6)


def test_what_nobody_refers_to_any_more_ends(video: Path) -> None:
    """MLflow loads a model to try it, and has no word for its end."""
    made = Answerer(made_for(CLIPS), SETTINGS, decoders=1)
    made.answers([video.read_bytes()] * 2, Wishes())
    [process_id], threads = made.decoders.process_ids, threading.active_count()
    del made
    gc.collect()
    assert not psutil.pid_exists(process_id)
    deadline = time.monotonic() + 10
    while threading.active_count() > threads - 2 - torch.get_num_threads():
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.01)


def test_settings_survive_the_registry(tmp_path: Path) -> None:
    SETTINGS.write(tmp_path)
    assert Settings.read(tmp_path) == SETTINGS


def test_a_model_knows_its_version_if_mlflow_has_said(tmp_path: Path) -> None:
    Model(model_id="m-1").save(str(tmp_path / "MLmodel"))
    assert version_in(tmp_path) == "m-1"
    (tmp_path / "registered_model_meta").write_text("model_name: null\nmodel_version: null\n")
    assert version_in(tmp_path) == "m-1", "it was loaded as runs:/..."
    (tmp_path / "registered_model_meta").write_text("model_name: fvc\nmodel_version: '3'\n")
    assert version_in(tmp_path) == "fvc/3"


@pytest.mark.usefixtures("store")
def test_a_model_that_is_not_registered_is_named() -> None:
    with pytest.raises(FvcError, match=r"models:/fvc@champion: cannot be loaded"):
        load_model("models:/fvc@champion")
