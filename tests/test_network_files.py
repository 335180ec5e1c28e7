"""Networks in files: pretrained weights, saved networks, and what damage is called."""

import json
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from settings import model_config
from small_networks import CLIPS, small_network
from torch import Tensor
from torchvision.models.video import R3D_18_Weights, r3d_18

from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.networks import (
    ClipClassifier,
    build_network,
    load_network,
    read_description,
    save_network,
)
from fvc.networks.pretrained import downloaded_weights, published_path, without
from fvc.networks.slowfast import URL as SLOWFAST_URL

KINETICS = R3D_18_Weights.KINETICS400_V1


@pytest.fixture(scope="module")
def network() -> ClipClassifier:
    torch.manual_seed(0)
    return build_network(model_config(), CLIPS).eval()


@pytest.fixture(scope="module")
def pretrained_weights() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return r3d_18(weights=None).state_dict()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's folder is empty, and every download fails."""

    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    return tmp_path


def test_the_backbone_computes_what_torchvision_computes(
    pretrained_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(pretrained_weights, tmp_path / "weights.pth")
    network = build_network(model_config(str(tmp_path / "weights.pth")), CLIPS).eval()
    reference = r3d_18(weights=None).eval()
    reference.load_state_dict(pretrained_weights)
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        features = network.features.get_submodule("backbone")(clips)
        assert torch.equal(reference.fc(features.mean((2, 3, 4))), reference(clips))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pretrained_weights_are_read_from_a_file(
    suffix: str, pretrained_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    source = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(pretrained_weights, source)
    else:
        save_file(pretrained_weights, source)
    network = build_network(model_config(str(source)), CLIPS)
    backbone = network.features.get_submodule("backbone").state_dict()
    assert backbone.keys() == {key for key in pretrained_weights if not key.startswith("fc.")}
    for name, value in backbone.items():
        assert torch.equal(value, pretrained_weights[name]), f"{name} was not taken over"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("stem.0.weight"), "lacks stem.0.weight"),
        (lambda weights: weights.update(extra=torch.zeros(1)), "has unknown extra"),
        (
            lambda weights: weights.update({"stem.0.weight": torch.zeros(64, 3, 1, 7, 7)}),
            "has other shapes of stem.0.weight",
        ),
        (lambda weights: weights.clear(), "lacks .* and 117 more"),
    ],
)
def test_weights_of_another_network_are_refused(
    change: Any, message: str, pretrained_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    weights = dict(pretrained_weights)
    change(weights)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(FvcError, match=message):
        build_network(model_config(str(tmp_path / "weights.pth")), CLIPS)


@pytest.mark.parametrize("name", ["absent.pth", "text.pth", "text.safetensors", "empty.pt"])
def test_a_file_without_weights_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(FvcError, match=name):
        build_network(model_config(str(tmp_path / name)), CLIPS)


def test_a_file_that_holds_no_state_dict_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(FvcError, match="holds a list"):
        build_network(model_config(str(tmp_path / "list.pth")), CLIPS)


@pytest.mark.parametrize(
    ("name", "url", "file"),
    [
        ("r3d_18", KINETICS.url, "r3d_18-b3b3357e.pth"),
        ("slowfast_r50", SLOWFAST_URL, "SLOWFAST_8x8_R50.pyth"),
    ],
)
def test_kinetics_weights_that_cannot_be_had_are_an_error(
    name: str, url: str, file: str, no_network: Path
) -> None:
    expected = no_network / "checkpoints" / file
    with pytest.raises(FvcError) as caught:
        build_network(replace(model_config("published"), network=name), CLIPS)
    message = str(caught.value)
    assert "\n" not in message
    for part in (url, str(expected), "no route to host", "model.pretrained: <path>"):
        assert part in message


def test_kinetics_weights_put_there_by_hand_are_used(
    no_network: Path, pretrained_weights: dict[str, Tensor]
) -> None:
    target = published_path(KINETICS.url)
    assert target.is_relative_to(no_network)
    target.parent.mkdir(parents=True)
    torch.save(pretrained_weights, target)
    network = build_network(model_config("published"), CLIPS)
    stem = network.features.get_submodule("backbone.stem.0").weight
    assert torch.equal(stem, pretrained_weights["stem.0.weight"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hashed", "taken"),
    [("", True), ("-{}", True), ("-00000000", False)],
    ids=["none", "its", "no"],
)
def test_a_download_has_the_hash_that_its_name_states(
    hashed: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    monkeypatch.setattr("torch.hub._hub_dir", str(hub))
    torch.save({"weight": torch.ones(1)}, tmp_path / "made")
    offered = tmp_path / f"made{hashed.format(sha256_of_file(tmp_path / 'made')[:8])}.pth"
    (tmp_path / "made").rename(offered)
    weights = downloaded_weights(offered.as_uri(), without("fc."))
    if taken:
        assert weights("published", CLIPS) == {"weight": torch.ones(1)}
        offered.unlink()
        assert weights("published", CLIPS) == {"weight": torch.ones(1)}, "it is fetched every time"
    else:
        with pytest.raises(FvcError, match="invalid hash value"):
            weights("published", CLIPS)
        assert not list(hub.rglob("*.*")), "what is damaged would be taken the next time"


def test_a_saved_network_scores_as_before(network: ClipClassifier, tmp_path: Path) -> None:
    save_network(network, tmp_path, model_config(), CLIPS)
    state = torch.get_rng_state()
    loaded = load_network(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading drew random numbers"
    assert not loaded.training
    clips = torch.randn(1, 3, 8, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(clips), network(clips))
    assert read_description(tmp_path) == (model_config(), CLIPS)


def test_equal_networks_give_equal_files(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_network(small_network(), tmp_path / name, model_config(), CLIPS)
    reordered = small_network()
    reordered.to(memory_format=torch.channels_last_3d)
    save_network(reordered, tmp_path / "third", model_config(), CLIPS)
    for file in ("weights.safetensors", "network.json"):
        contents = {(tmp_path / name / file).read_bytes() for name in ("first", "second", "third")}
        assert len(contents) == 1, f"{file} differs, so DVC would see a change where there is none"


def test_loading_never_fetches_pretrained_weights(
    network: ClipClassifier, tmp_path: Path, no_network: Path
) -> None:
    save_network(network, tmp_path, model_config("published"), CLIPS)
    load_network(tmp_path)
    assert not (no_network / "checkpoints").exists()


def damage_json(folder: Path) -> None:
    content = json.loads((folder / "network.json").read_text())
    del content["model"]["dropout"]
    (folder / "network.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "network.json").unlink(), r"network\.json: is missing"),
        (damage_json, r"network\.json: describes no network"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "safetensors: is missing"),
        (lambda folder: (folder / "weights.safetensors").write_text("x"), "holds no weights"),
        (lambda folder: save_file({}, folder / "weights.safetensors"), "holds no weights"),
    ],
)
def test_a_damaged_network_is_named(
    network: ClipClassifier, tmp_path: Path, damage: Any, message: str
) -> None:
    save_network(network, tmp_path, model_config(), CLIPS)
    damage(tmp_path)
    with pytest.raises(FvcError, match=message):
        load_network(tmp_path)
