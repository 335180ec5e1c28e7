"""Weights for the networks of the package `transformers`: which are taken, fitted and refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from settings import clips_config
from small_transformers import (
    CLIPS,
    FAMILIES,
    backbone_of,
    config,
    library_average,
    library_network,
    normal_clips,
    saved,
    take_small,
)
from source_tree import ROOT
from torch import Tensor

from fvc.config import load_params
from fvc.errors import FvcError
from fvc.networks import build_network, vivit
from fvc.networks.transformers_video import published_folder
from fvc.tracking import Identity
from fvc.training.binding import binding_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    take_small(monkeypatch)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_of_the_same_size_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    made = library_network(name)
    network = build_network(config(name, saved(made, tmp_path)), CLIPS)
    given = {key: value for key, value in made.state_dict().items() if "classifier" not in key}
    own = backbone_of(network).model.state_dict()
    assert own.keys() == given.keys()
    for key, value in given.items():
        assert torch.equal(own[key], value), f"{key} was changed"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("num_frames", "side_px"), [(8, 96), (16, 64), (4, 32)])
def test_weights_of_another_size_are_fitted(
    name: str, num_frames: int, side_px: int, tmp_path: Path
) -> None:
    made = library_network(name)
    wanted = clips_config(1, num_frames, side_px)
    network = build_network(config(name, saved(made, tmp_path)), wanted).eval()
    clips = normal_clips(num_frames, side_px)
    with torch.inference_mode():
        features = backbone_of(network)(clips)
    assert features.isfinite().all()
    if name == "timesformer":
        # It fits them itself, where it is given other clips.
        made.config.num_frames, made.config.image_size = num_frames, side_px
    elif name == "videomae_s":
        # Its positions are computed for the size that it is built for.
        other = library_network(name, num_frames, side_px)
        other.load_state_dict(made.state_dict())
        made = other
    else:
        return
    average = library_average(made, clips)
    torch.testing.assert_close(features.mean((2, 3, 4)), average, rtol=1e-4, atol=1e-4)


def old_names(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As the published files have them, which are older than the library."""
    changes = {
        "vivit_b": [
            ("vivit.layers.", "vivit.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ],
        "videomae_s": [
            ("attention.query.bias", "attention.q_bias"),
            ("attention.value.bias", "attention.v_bias"),
        ],
        "timesformer": [],
    }
    renamed = {}
    for key, value in weights.items():
        for new, old in changes[name]:
            key = key.replace(new, old)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_with_the_names_of_their_time_are_read(name: str, tmp_path: Path) -> None:
    made = library_network(name)
    folder = saved(made, tmp_path)
    file = folder / "model.safetensors"
    save_file(old_names(name, load_file(file)), file, {"format": "pt"})
    network = build_network(config(name, folder), CLIPS)
    for key, value in backbone_of(network).model.state_dict().items():
        assert torch.equal(value, made.state_dict()[key]), f"{key} was not taken over"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_weights_needs_no_configuration(name: str, tmp_path: Path) -> None:
    made = library_network(name)
    (saved(made, tmp_path) / "model.safetensors").rename(tmp_path / "mine.safetensors")
    network = build_network(config(name, tmp_path / "mine.safetensors"), CLIPS)
    for key, value in backbone_of(network).model.state_dict().items():
        assert torch.equal(value, made.state_dict()[key]), f"{key} was not taken over"


def change_config(folder: Path, **changes: Any) -> None:
    source = folder / "config.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | changes))


def change_weights(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


NORM = "vivit.layernorm.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / "config.json").unlink(), r"config\.json: is missing"),
        (lambda at: (at / "model.safetensors").unlink(), r"model\.safetensors: is missing"),
        (lambda at: (at / "config.json").write_text("{"), "holds no weights"),
        (lambda at: (at / "model.safetensors").write_text("x"), "holds no weights"),
        (lambda at: change_config(at, num_hidden_layers=5), "num_hidden_layers is 5, not 4"),
        (lambda at: change_config(at, tubelet_size=[4, 16, 16]), r"tubelet_size is \[4, 16, 16\]"),
        (lambda at: change_config(at, hidden_act="relu"), "hidden_act is relu, not gelu_fast"),
        (lambda at: change_config(at, image_size=[64, 32]), r"image_size is \[64, 32\]"),
        (lambda at: change_config(at, num_frames=16), "other shapes of .*position_embeddings"),
        (lambda at: change_weights(at, lambda each: each.pop(NORM)), f"lacks {NORM}"),
        (
            lambda at: change_weights(at, lambda each: each.update(more=torch.zeros(1))),
            "has unknown more",
        ),
    ],
)
def test_a_folder_of_another_network_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    folder = saved(library_network("vivit_b"), tmp_path)
    damage(folder)
    with pytest.raises(FvcError, match=message) as caught:
        build_network(config("vivit_b", folder), CLIPS)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path: Path) -> None:
    torch.save(library_network("vivit_b").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FvcError, match=r"only \.safetensors are read"):
        build_network(config("vivit_b", tmp_path / "pytorch_model.bin"), CLIPS)
    with pytest.raises(FvcError, match=r"absent\.safetensors: is missing"):
        build_network(config("vivit_b", tmp_path / "absent.safetensors"), CLIPS)


def test_weights_of_the_hub_that_cannot_be_had_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FvcError) as caught:
        build_network(config("vivit_b", "published"), CLIPS)
    message = str(caught.value)
    assert "\n" not in message
    folder = tmp_path / "checkpoints" / "google--vivit-b-16x2-kinetics400"
    for part in (f"{folder}/model.safetensors: ", vivit.BASE.hub, vivit.BASE.revision, "<path>"):
        assert part in message
    made = library_network("vivit_b")
    assert saved(made, folder) == published_folder(vivit.BASE)
    network = build_network(config("vivit_b", "published"), CLIPS)
    own = backbone_of(network).model.vivit.layernorm.weight
    assert torch.equal(own, made.vivit.layernorm.weight)


def test_weights_in_a_folder_are_bound_to_the_training(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    params = replace(params, model=replace(params.model, pretrained=str(tmp_path)))
    identity = Identity(params=params, data_sha256="", folds_sha256="")

    def binding() -> str:
        return binding_of(identity, {"train": {}}, fold=0, clips=tmp_path, augmented=tmp_path)

    found = {binding()}
    for file, content in (("config.json", "1"), ("model.safetensors", "2"), ("config.json", "3")):
        (tmp_path / file).write_text(content)
        found.add(binding())
    assert len(found) == 4, "a training would go on with other weights than it began with"
