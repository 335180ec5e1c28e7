"""The networks of the package `transformers`: small ones of each family, and the whole ones."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from settings import clips_config
from small_transformers import (
    CLIPS,
    FAMILIES,
    NAMES,
    backbone_of,
    config,
    library_average,
    library_network,
    normal_clips,
    saved,
    small,
    take_small,
)
from source_tree import ROOT
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.networks import (
    ARCHITECTURES,
    ClipClassifier,
    build_network,
    load_network,
    save_network,
    videomae,
    vivit,
)
from fvc.networks.counting import gmacs, parameters
from fvc.networks.transformers_video import quiet_library
from fvc.serving.packaging import requirements_of
from fvc.training.fine_tuning import stages_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _small_networks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") or "published" in request.node.name:
        return
    take_small(monkeypatch)


PROGRAM = """
import logging, os, sys, warnings
from pathlib import Path
import fvc.networks, fvc.stages.train, fvc.serving.model
assert "transformers" not in sys.modules, "a start without it pays for its import"
import torch
from fvc.config import load_params
from fvc.networks import ARCHITECTURES
before = [*warnings.filters], [*logging.getLogger().handlers], dict(os.environ)
with torch.device("meta"):
    ARCHITECTURES["vivit_b"].build(load_params(Path("params.yaml")).clips)
assert "transformers" in sys.modules
assert before == ([*warnings.filters], [*logging.getLogger().handlers], dict(os.environ))
"""


@pytest.mark.slow
def test_the_library_is_imported_when_asked_for_and_leaves_no_trace() -> None:
    command = (sys.executable, "-c", PROGRAM)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", FAMILIES)
def test_features_are_the_tokens_of_the_library(name: str, tmp_path: Path) -> None:
    made = library_network(name)
    network = build_network(config(name, saved(made, tmp_path)), CLIPS).eval()
    clips = normal_clips()
    with torch.inference_mode():
        features = backbone_of(network)(clips)
    assert features.shape[:2] == (2, 24)
    average = library_average(made, clips)
    torch.testing.assert_close(features.mean((2, 3, 4)), average, rtol=1e-4, atol=1e-4)
    assert average.std() > 0.1, "these networks see nothing"


def test_the_average_of_videomae_is_what_the_library_classifies(tmp_path: Path) -> None:
    made = library_network("videomae_s")
    network = build_network(config("videomae_s", saved(made, tmp_path)), CLIPS).eval()
    clips = normal_clips()
    with torch.inference_mode():
        logits = made.classifier(backbone_of(network)(clips).mean((2, 3, 4)))
        expected = made(clips.transpose(1, 2)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_token_is_where_its_patch_is(name: str) -> None:
    backbone, _ = FAMILIES[name]
    # Without layers, no token knows of another.
    features = backbone(small(name, num_hidden_layers=0), CLIPS).eval()
    for value in features.parameters():
        nn.init.normal_(value, std=0.2)
    clips = normal_clips()
    changed = clips.clone()
    changed[:, :, 5, 16:32, 48:] += 1
    with torch.inference_mode():
        # What VideoMAE normalises with is common to all: compare what goes into it.
        if name == "videomae_s":
            features.model.fc_norm.eps = 1e12
        moved = (features(changed) - features(clips)).abs().amax((0, 1))
    frame = 5 // (8 // moved.shape[0])
    assert moved.shape[1:] == (4, 4)
    others = moved.clone()
    others[frame, 1, 3] = 0
    assert moved[frame, 1, 3] > 10 * others.max()


def test_positions_of_vivit_are_fitted_over_time_and_space() -> None:
    times = torch.arange(4.0)[:, None, None].expand(4, 4, 4)
    columns = torch.arange(4.0).expand(4, 4, 4)
    places = torch.stack([times, columns, torch.full((4, 4, 4), 7.0)], dim=-1)
    table = torch.cat([torch.tensor([[[1.0, 2.0, 3.0]]]), places.reshape(1, 64, 3)], dim=1)
    resize = vivit.BASE.resize
    [fitted] = resize({vivit.POSITIONS: table}, (4, 4, 4), (8, 8, 8)).values()
    assert torch.equal(fitted[:, :1], table[:, :1]), "the class token has no place"
    grid = fitted[0, 1:].reshape(8, 8, 8, 3)
    # Each place in the middle of its half: 0.25 before and after, but not beyond the ends.
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    torch.testing.assert_close(grid[:, 3, 5, 0], expected)
    assert (grid[0, 0, 1:, 1] > grid[0, 0, :-1, 1]).all()
    torch.testing.assert_close(grid[2, 6, 2:6, 1], expected[2:6], atol=0.1, rtol=0)
    torch.testing.assert_close(grid[..., 2], torch.full((8, 8, 8), 7.0))


@pytest.mark.parametrize("width", [24, 384])
def test_positions_of_videomae_are_those_of_the_library(width: int) -> None:
    made = library_network("videomae_s", hidden_size=width)
    theirs = made.videomae.embeddings.position_embeddings
    torch.testing.assert_close(videomae.positions(64, width), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_published_counts_are_those_of_the_network(name: str) -> None:
    architecture = ARCHITECTURES[name]
    stated = architecture.published
    assert stated is not None
    clips = clips_config(1, stated.num_frames, stated.side_px)
    with torch.device("meta"):
        backbone = architecture.build(clips)
    assert parameters(backbone) == stated.parameters
    counted = gmacs(backbone, stated.num_frames, stated.side_px)
    assert counted == pytest.approx(stated.gmacs, rel=0.02)
    # With the classifier of Kinetics-400, what the papers round.
    millions = {"timesformer": 121.4, "vivit_b": 88.9, "videomae_b": 87, "videomae_s": 22}[name]
    whole = stated.parameters + 400 * (architecture.channels + 1)
    assert whole / 1e6 == pytest.approx(millions, rel=0.01)


def test_published_size_of_vivit_is_the_sum_of_these_parts_of_the_library() -> None:
    with quiet_library() as library, torch.device("meta"):
        whole = library.VivitModel(library.VivitConfig())
    sizes: Counter[str] = Counter()
    for name, value in whole.named_parameters():
        part, inner = name.split(".")[:2]
        sizes[inner if part == "embeddings" else part] += value.numel()
    pooler = sizes.pop("pooler")
    assert sizes == {
        "patch_embeddings": 1_180_416,
        "cls_token": 768,
        "position_embeddings": 3_137 * 768,
        "layers": 12 * 7_087_872,
        "layernorm": 1_536,
    }
    stated = ARCHITECTURES["vivit_b"].published
    assert stated is not None
    assert stated.parameters == sizes.total()
    assert parameters(whole) == sizes.total() + pooler, "a part is missing"


@pytest.mark.parametrize("name", NAMES)
def test_stages_of_published_networks_are_groups_of_layers(name: str) -> None:
    with torch.device("meta"):
        network = build_network(config(name), CLIPS)
    stages = dict(stages_of(network))
    assert [*stages] == ["embeddings", "layers1", "layers2", "layers3", "layers4", "head"]
    staged = [id(each) for stage in stages.values() for each in stage.parameters()]
    assert len(staged) == len(set(staged))
    assert set(staged) == {id(each) for each in network.parameters()}


@pytest.mark.parametrize(
    ("name", "clips", "cause"),
    [
        ("timesformer", clips_config(1, 8, 72), "side_px 72: it takes 16 and more, in multiples"),
        ("vivit_b", clips_config(1, 7, 64), "num_frames 7: it takes 2 and more, in multiples of 2"),
        ("videomae_s", clips_config(1, 8, 64, fit="native"), "fit native"),
    ],
)
def test_clips_that_patches_do_not_fill_are_refused(
    name: str, clips: ClipsConfig, cause: str
) -> None:
    with pytest.raises(FvcError, match=cause):
        build_network(config(name), clips)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_frames", [2, 8])
def test_the_smallest_clips_are_taken(name: str, num_frames: int) -> None:
    network = build_network(config(name), clips_config(1, num_frames, 16)).eval()
    with torch.inference_mode():
        assert network(normal_clips(num_frames, 16)).isfinite().all()


def gradients(network: ClipClassifier, clips: Tensor, *, low: bool) -> dict[str, Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        logits = network(clips)
    (logits[0] - 2 * logits[1]).sum().backward()
    found = {name: each.grad for name, each in network.named_parameters()}
    missing = [name for name, gradient in found.items() if gradient is None]
    assert not missing, "several processes would wait for these for ever"
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def check_gradients(name: str, clips: ClipsConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config(name), clips).train()
    batch = normal_clips(clips.num_frames, clips.side_px)
    full, low = (gradients(network, batch, low=each) for each in (False, True))
    for key, gradient in full.items():
        # The same for every key, so softmax takes it away: rounding is all there is.
        if key.endswith("k_proj.bias"):
            continue
        assert gradient.any(), f"{key} does not train"
        error = (low[key] - gradient).norm() / gradient.norm()
        assert error < 0.05, f"{key} is {error:.2f} off in bfloat16"


def check_files(name: str, folder: Path) -> None:
    networks = []
    for run in ("first", "second"):
        torch.manual_seed(0)
        networks.append(build_network(config(name), CLIPS).eval())
        save_network(networks[-1], folder / run, config(name), CLIPS)
    for file in ("weights.safetensors", "network.json"):
        first, second = ((folder / run / file).read_bytes() for run in ("first", "second"))
        assert first == second, f"{file} differs, so DVC would see a change where there is none"
    clips = normal_clips()
    with torch.inference_mode():
        assert torch.equal(load_network(folder / "first")(clips), networks[0](clips))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_trains_in_bfloat16(name: str) -> None:
    check_gradients(name, CLIPS)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_network_scores_as_before(name: str, tmp_path: Path) -> None:
    check_files(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_frames", "side_px"), [(8, 64), (2, 32), (4, 32)])
def test_every_layer_of_the_whole_network_trains_in_bfloat16(
    name: str, num_frames: int, side_px: int
) -> None:
    check_gradients(name, clips_config(1, num_frames, side_px))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_saved_network_scores_as_before(name: str, tmp_path: Path) -> None:
    check_files(name, tmp_path)


def test_a_registered_model_installs_what_its_network_needs(tmp_path: Path) -> None:
    for name in ("r3d_18", "vivit_b"):
        (tmp_path / name).mkdir()
        network = ClipClassifier(nn.Identity(), channels=3, dropout=0.0, clips=CLIPS)
        save_network(network, tmp_path / name, config(name), CLIPS)
    plain, own = (requirements_of(tmp_path / name) for name in ("r3d_18", "vivit_b"))
    [more] = [line for line in own if line not in plain]
    assert more.startswith("transformers==5.")
    assert own == [*plain, more]
