from collections import OrderedDict

import numpy as np
import pytest
import torch
from settings import clips_config, model_config
from small_networks import CLIPS, small_network
from torch import Tensor, nn

from fvc.evidence.explain import (
    MOST_ALIKE,
    Explained,
    HeatMap,
    Side,
    grad_cam,
    randomisation_check,
    randomised,
)
from fvc.networks import ClipClassifier, build_network
from fvc.networks.explained import explained_layers

SQUARE_PX = 8
SIDES: tuple[Side, Side] = ("real", "fake")


def noise(seed: int, frames: int = 8, height: int = 32, width: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, 3, height, width)
    return torch.randint(60, 160, shape, dtype=torch.uint8, generator=generator)


def with_square(seed: int) -> tuple[Tensor, int, int]:
    """Noise with a bright square in half of its frames, and where that is."""
    clip, generator = noise(seed), np.random.default_rng(seed)
    top, left = generator.integers(0, 32 - SQUARE_PX, 2).tolist()
    clip[:4, :, top : top + SQUARE_PX, left : left + SQUARE_PX] = 250
    return clip, top, left


def two_parts() -> ClipClassifier:
    """Like the networks in use: a backbone, and a head that changes its input in place."""
    backbone = nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(inplace=True), nn.MaxPool3d(2)
    )
    head = nn.Sequential(nn.ReLU(inplace=True), nn.Conv3d(8, 8, 3, padding=1), nn.ReLU())
    features = nn.Sequential(OrderedDict(backbone=backbone, head=head))
    return ClipClassifier(features, channels=8, dropout=0.2, clips=CLIPS)


@pytest.fixture(scope="module")
def trained() -> ClipClassifier:
    """It calls clips with a bright square fake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = two_parts()
        pixels = torch.stack([clip for n in range(16) for clip in (noise(n), with_square(n)[0])])
        wanted = torch.tensor([[0.0], [1.0]]).repeat(16, 1)
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(40):
            optimizer.zero_grad(set_to_none=True)
            logits = network(network.normalise(pixels))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return network.eval()


def logit_of(network: ClipClassifier, clip: Tensor) -> float:
    with torch.inference_mode():
        return float(network(network.normalise(clip[None])))


def test_the_map_points_at_what_the_network_learned_to_see(trained: ClipClassifier) -> None:
    """The pointing game (Zhang et al., arXiv:1608.00507): is the largest value on the thing?"""
    hits = {"backbone": 0, "head": 0}
    for seed in range(100, 120):
        clip, top, left = with_square(seed)
        assert logit_of(trained, clip) > 0 > logit_of(trained, noise(seed))
        for name, found in grad_cam(trained, clip, "fake").items():
            frame, row, column = np.unravel_index(found.values.argmax(), found.values.shape)
            # Half a cell of the layer beyond the square.
            near = all(
                start - 2 <= place < start + SQUARE_PX + 2
                for start, place in ((top, row), (left, column))
            )
            hits[name] += int(near and frame < 5)
    assert min(hits.values()) >= 18, f"of 20 squares the maps point at {hits}"


def explained(network: ClipClassifier, seeds: range) -> list[Explained]:
    return [
        Explained(clip=clip, side="fake", maps=grad_cam(network, clip, "fake"))
        for clip, _, _ in map(with_square, seeds)
    ]


def test_maps_of_a_trained_network_do_not_survive_its_weights(trained: ClipClassifier) -> None:
    found = randomisation_check(trained, explained(trained, range(4)), range(5))
    assert found.keys() == {"backbone", "head"}
    for name, value in found.items():
        assert value is not None
        assert value < MOST_ALIKE, f"{name}: the map is the same whatever the weights"


def edges(_network: ClipClassifier, clip: Tensor, _side: Side) -> dict[str, HeatMap]:
    """A map that looks convincing and knows nothing of the network."""
    grey = clip.float().mean(1)
    steps = grey.diff(dim=2, append=grey[:, :, -1:]).abs()
    return {"edges": HeatMap(values=(steps / steps.max()).numpy(), cells=(8, 32, 32))}


def test_a_map_that_ignores_the_weights_is_found_out(trained: ClipClassifier) -> None:
    clip = with_square(0)[0]
    one = Explained(clip=clip, side="fake", maps=edges(trained, clip, "fake"))
    found = randomisation_check(trained, [one], range(2), explain=edges)
    assert found["edges"] == pytest.approx(1.0)


def test_blank_maps_cannot_be_checked(trained: ClipClassifier) -> None:
    blank = HeatMap(values=np.zeros((8, 32, 32), np.float32), cells=(1, 1, 1))
    maps = {"backbone": blank, "head": blank}
    one = Explained(clip=noise(0), side="fake", maps=maps)
    assert randomisation_check(trained, [one], [0]) == {"backbone": None, "head": None}


def test_before_an_average_the_map_is_that_of_the_linear_layer() -> None:
    """There, Grad-CAM is CAM: the features, weighted by the classifier's weights (section 3)."""
    network = small_network().eval()
    clip = noise(3)
    with torch.no_grad():
        features = network.features(network.normalise(clip[None]))[0]
        weighed = torch.einsum("k,kthw->thw", network.classifier.weight[0], features)
    for side, sign in zip(SIDES, (-1, 1), strict=True):
        expected = (sign * weighed).relu()
        found = grad_cam(network, clip, side)["features"]
        assert found.cells == (8, 32, 32)
        np.testing.assert_allclose(found.values, expected / expected.max(), atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_maps_have_the_shape_of_the_clip_and_reach_from_0_to_1(side: Side) -> None:
    for name, found in grad_cam(two_parts(), noise(0), side).items():
        assert found.values.shape == (8, 32, 32), name
        assert found.values.dtype == np.float32
        assert found.values.min() >= 0
        assert found.is_blank or found.values.max() == 1
        assert found.cells == (4, 16, 16)


def test_where_nothing_speaks_for_a_side_its_map_is_blank() -> None:
    network = two_parts()
    with torch.no_grad():
        network.classifier.weight.fill_(1)
    found = grad_cam(network, noise(0), "real")["head"]
    assert found.is_blank
    assert not np.isnan(found.values).any()
    assert not grad_cam(network, noise(0), "fake")["head"].is_blank


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_nothing_is_left_behind(mode: type[torch.no_grad]) -> None:
    network = two_parts().train()
    network.features.backbone.eval()  # type: ignore[union-attr]
    network.classifier.requires_grad_(requires_grad=False)
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    clip, expected = noise(0), grad_cam(network, noise(0), "fake")["head"].values
    with mode():
        assert np.array_equal(grad_cam(network, clip, "fake")["head"].values, expected)
        enabled = torch.is_grad_enabled()
    assert enabled == (mode is torch.enable_grad)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), f"explaining moved {name}"


def test_a_failure_leaves_nothing_behind_either() -> None:
    network = two_parts().train()
    with pytest.raises(ValueError, match=r"not \(N, 3, 8, 32, 32\)"):
        grad_cam(network, noise(0, frames=4), "fake")
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_a_frozen_network_and_one_under_autocast_are_explained_alike() -> None:
    network, clip = two_parts(), noise(1)
    expected = grad_cam(network, clip, "fake")["backbone"].values
    network.requires_grad_(requires_grad=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(grad_cam(network, clip, "fake")["backbone"].values, expected)


def test_clips_without_a_letterbox_have_maps_of_their_own_shape() -> None:
    network = two_parts()
    network.clips = clips_config(1, 8, 32, fit="native")
    assert grad_cam(network, noise(0, height=20), "fake")["head"].values.shape == (8, 20, 32)


def test_what_is_no_clip_is_refused() -> None:
    for wrong in (noise(0)[None], noise(0)[0], noise(0).float()):
        with pytest.raises(ValueError, match=r"not \(T, C, H, W\) of uint8"):
            grad_cam(two_parts(), wrong, "fake")


def test_a_layer_without_positions_is_named() -> None:
    features = nn.Sequential(nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(2))
    network = ClipClassifier(features, channels=4, dropout=0.0, clips=CLIPS)
    with pytest.raises(ValueError, match=r"layer features gives \(1, 4, 1\)"):
        grad_cam(network, noise(0), "fake")


def test_random_weights_are_new_reproducible_and_nobody_elses() -> None:
    network = two_parts()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (randomised(network, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected), "the global random state moved"
    for name, value in first.named_parameters():
        assert torch.equal(value, again.get_parameter(name))
        if value.ndim > 1:
            assert not torch.equal(value, before[name]), f"{name} still knows what was learned"
            assert not torch.equal(value, other.get_parameter(name))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_no_layer_can_draw_anew_is_put_in_a_random_order() -> None:
    network = two_parts()
    learned = torch.randn(5, 7)
    network.features.register_parameter("positions", nn.Parameter(learned.clone()))
    first, again, other = (
        randomised(network, seed).features.get_parameter("positions") for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert torch.equal(first.flatten().sort().values, learned.flatten().sort().values)
    for values in (learned, other):
        assert (first == values).float().mean() < 0.5, "it still knows what was learned"
    assert torch.equal(network.features.get_parameter("positions"), learned)


def test_the_networks_in_use_say_which_layers_explain_them() -> None:
    network = build_network(model_config(), clips_config(1, 8, 16))
    assert list(explained_layers(network)) == ["backbone", "head"]
    found = grad_cam(network, noise(0, height=16, width=16), "fake")
    assert {name: one.cells for name, one in found.items()} == dict.fromkeys(found, (1, 1, 1))
