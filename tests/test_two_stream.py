"""Two streams: which sees what, and that stored flow is the flow that is served."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from mlflow.tracking import MlflowClient
from settings import clips_config, model_config
from source_tree import ROOT
from test_train import Corpus
from torch import Tensor
from torchvision.models import resnet18

from fvc.clip_files import save_clips
from fvc.config import load_params
from fvc.dataset import Augmentation, ClipDataset
from fvc.errors import FvcError
from fvc.files import write_json
from fvc.flow import clip_flow
from fvc.fold_videos import video_clips
from fvc.networks import ClipClassifier, build_network, load_network, save_network
from fvc.networks.two_stream import STACKED, both_streams, stacked
from fvc.predict import clip_logits
from fvc.stages import flow as stage_flow
from fvc.transforms import augmented_version

CLIPS = clips_config(1, 4, 32)
MODEL = replace(model_config(), network="two_stream", head="linear")


@pytest.fixture(scope="module")
def network() -> ClipClassifier:
    torch.manual_seed(0)
    return build_network(MODEL, CLIPS).eval()


def clips(number: int = 2) -> Tensor:
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.integers(0, 256, (number, 4, 3, 32, 32), dtype=np.uint8))


def test_stored_flow_scores_as_what_is_found_for_an_answer(network: ClipClassifier) -> None:
    pixels = clips()
    flow = torch.from_numpy(np.stack([clip_flow(clip) for clip in pixels.numpy()]))
    stored = network.normalise(torch.cat([pixels, flow], 2))
    assert torch.equal(network.normalise(pixels), stored)
    assert torch.equal(
        clip_logits(network, pixels), clip_logits(network, torch.cat([pixels, flow], 2))
    )


def test_each_stream_sees_its_own(network: ClipClassifier) -> None:
    given = network.normalise(clips(1))
    with torch.inference_mode():
        before = network.features(given)
        for channels, changed in ((slice(0, 3), slice(0, 512)), (slice(3, 5), slice(512, 1024))):
            other = given.clone()
            other[:, channels] += 1
            differs = (network.features(other) != before).any(dim=(0, 2, 3, 4))
            assert differs[changed].any()
            differs[changed] = False
            assert not differs.any(), "a stream sees what is the other's"


def test_the_last_layer_is_a_late_fusion_of_two(network: ClipClassifier) -> None:
    given = network.normalise(clips())
    with torch.inference_mode():
        pooled = network.features(given).mean((2, 3, 4))
        weight, bias = network.classifier.weight, network.classifier.bias
        apart = pooled[:, :512] @ weight[:, :512].T + pooled[:, 512:] @ weight[:, 512:].T + bias
        torch.testing.assert_close(network(given), apart, rtol=1e-4, atol=1e-5)


def test_flows_are_stacked_from_each_frame_on() -> None:
    flow = torch.arange(7.0)[None, None, :, None, None].expand(1, 2, 7, 1, 1)
    seen = stacked(flow)[0, :, :, 0, 0].reshape(STACKED, 2, 7)
    assert torch.equal(seen[:, 0], seen[:, 1])
    for frame in range(7):
        assert seen[:, 0, frame].tolist() == [min(frame + ahead, 6) for ahead in range(STACKED)]


def test_published_weights_fit_both_streams(network: ClipClassifier) -> None:
    torch.manual_seed(1)
    library = resnet18(weights=None)
    given = both_streams(library.state_dict())
    backbone = network.features.get_submodule("backbone")
    assert given.keys() == backbone.state_dict().keys()
    copy = build_network(MODEL, CLIPS).features.get_submodule("backbone").eval()
    copy.load_state_dict(given)
    frames = torch.randn(1, 3, 4, 32, 32)
    with torch.inference_mode():
        features = copy(torch.cat([frames, torch.zeros(1, 2, 4, 32, 32)], 1))
        library.eval().fc = torch.nn.Identity()
        for frame in range(4):
            torch.testing.assert_close(
                features[:, :512, frame].mean((2, 3)), library(frames[:, :, frame])
            )
    movement = given["stem.motion.0.weight"]
    assert movement.shape == (64, 2 * STACKED, 1, 7, 7)
    torch.testing.assert_close(movement[:, 3, 0], library.conv1.weight.mean(1))


def test_it_is_saved_and_loaded_without_the_flow_being_asked_for(
    network: ClipClassifier, tmp_path: Path
) -> None:
    save_network(network, tmp_path, MODEL, CLIPS)
    assert torch.equal(clip_logits(load_network(tmp_path), clips()), clip_logits(network, clips()))


VIDEOS = {"a": 0, "b": 1}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Clips, one version of each video, and the flow of both."""
    for number, name in enumerate(VIDEOS):
        generator = np.random.default_rng(number)
        own, version = (
            generator.integers(0, 256, (count, 4, 3, 32, 32), dtype=np.uint8) for count in (2, 1)
        )
        save_clips(tmp_path / f"clips/{name}.pt", own, "key")
        save_clips(tmp_path / f"versions/{name}.pt", version, "key")
        flow = np.stack([clip_flow(clip) for clip in (*own, *version)])
        save_clips(tmp_path / f"flow/{name}.pt", flow, "key")
    return tmp_path


def assert_has_its_flow(clip: Tensor) -> None:
    assert clip.shape == (4, 5, 32, 32)
    assert np.array_equal(clip[:, 3:].numpy(), clip_flow(clip[:, :3].numpy()))


@pytest.mark.parametrize("held", [False, True])
def test_examples_have_the_flow_of_their_own_pixels(stored: Path, held: bool) -> None:
    dataset = ClipDataset(VIDEOS, stored / "clips", stored / "versions", stored / "flow")
    if held:
        dataset.hold(lambda tensors: [tensor.clone() for tensor in tensors])
    assert len(dataset) == 6
    for number in range(6):
        assert_has_its_flow(dataset[0, number][0])


def test_versions_made_on_the_fly_have_their_flow(stored: Path) -> None:
    config = replace(load_params(ROOT / "params.yaml").augment, versions=1)
    live = Augmentation(config=config, seed=0)
    dataset = ClipDataset(VIDEOS, stored / "clips", live, stored / "flow")
    made, _ = dataset[3, 2]
    assert_has_its_flow(made)
    own = video_clips(["a"], stored / "clips")
    [pixels] = [clip.numpy() for clip in own]
    assert np.array_equal(made[:, :3].numpy(), augmented_version(pixels, "a", 3, config, 0))


def test_scored_videos_have_the_flow_of_their_clips_alone(stored: Path) -> None:
    for pixels in video_clips(VIDEOS, stored / "clips", stored / "flow"):
        assert len(pixels) == 2
        for clip in pixels:
            assert_has_its_flow(clip)


def test_flow_that_was_stored_for_another_network_is_told_with_what_stores_it(
    tmp_path: Path, store: MlflowClient
) -> None:
    del store
    corpus = Corpus(tmp_path)
    clips = replace(corpus.params.clips, side_px=32)
    corpus.params = replace(corpus.params, clips=clips, model=replace(MODEL, dropout=0.0))
    corpus.write_clips(sizes=[(32, 32)])
    (tmp_path / "flow").mkdir()
    write_json(tmp_path / "flow" / "summary.json", {"videos": 0})
    with pytest.raises(FvcError, match=r"flow: is empty.*dvc exp run -S model=two_stream"):
        corpus.train(0)


@pytest.mark.slow
def test_a_fold_is_trained_on_stored_flow_and_scored_alike_without(
    tmp_path: Path, store: MlflowClient
) -> None:
    del store
    corpus = Corpus(tmp_path)
    corpus.params = replace(
        corpus.params,
        clips=replace(corpus.params.clips, side_px=32),
        model=replace(MODEL, dropout=0.0),
        train=replace(corpus.params.train, epochs=1),
    )
    corpus.write_clips(sizes=[(32, 32)])
    flow = tmp_path / "flow"
    stage_flow.run(
        corpus.params,
        clips=tmp_path / "clips",
        folds=tmp_path / "folds.parquet",
        augmented=tmp_path / "augmented",
        flow=flow,
    )
    assert len(list(flow.glob("*.pt"))) == 16
    model = corpus.train(0)
    network = load_network(model)
    scored = pl.read_parquet(model / "predictions.parquet")
    for row in scored.filter(part="test").rows(named=True):
        [pixels] = video_clips([row["video_id"]], tmp_path / "clips")
        assert clip_logits(network, pixels).mean().item() == pytest.approx(row["logit"], abs=1e-5)
    (flow / "youtube_03.pt").unlink()
    with pytest.raises(FvcError, match=r"youtube_03\.pt: is missing.*dvc repro flow"):
        corpus.train(1, "models/1")
