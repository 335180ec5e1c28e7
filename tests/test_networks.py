import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from settings import clips_config, model_config
from shelf import TRAINED
from small_networks import CLIPS, small_network
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fvc.config import TAKES
from fvc.networks import (
    ClipClassifier,
    build_network,
    load_network,
    save_network,
)
from fvc.networks.inception import InceptionBlock
from fvc.networks.padding import masked_mean
from fvc.precision import make_bf16_safe


@pytest.fixture(scope="module")
def network() -> ClipClassifier:
    torch.manual_seed(0)
    return build_network(model_config(), CLIPS).eval()


def test_a_clip_becomes_one_logit(network: ClipClassifier) -> None:
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, 8, 32, 32))
    assert logits.shape == (2, 1)
    assert logits.isfinite().all()


def test_the_head_has_the_four_branches_of_the_inception_block() -> None:
    block = InceptionBlock(8, 16)
    kernels = {
        name: [layer.kernel_size[0] for layer in branch.modules() if isinstance(layer, nn.Conv3d)]
        for name, branch in block.named_children()
    }
    assert kernels == {
        "point": [1],
        "small": [1, 3],
        "large": [1, 3, 3],
        "pooled": [1],
        "normalisation": [],
    }


@pytest.mark.parametrize(("branch", "reach"), [("point", 0), ("small", 1), ("large", 2)])
def test_a_branch_sees_as_far_as_it_should(branch: str, reach: int) -> None:
    block = InceptionBlock(1, 4).eval()
    features = torch.zeros(1, 1, 9, 9, 9)
    moved = features.clone()
    moved[0, 0, 4, 4, 4] = 1
    layer = block.get_submodule(branch)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    changed = (layer(moved) != layer(features)).any(dim=1).nonzero()[:, 1:]
    assert (changed - 4).abs().max() == reach


def test_the_block_gives_normalised_positive_features() -> None:
    block = InceptionBlock(8, 16).train()
    result = block(torch.randn(4, 8, 2, 6, 6))
    assert result.shape == (4, 16, 2, 6, 6)
    assert result.min() == 0, "the last layer is no ReLU"


def test_pixels_are_normalised_by_the_kinetics_statistics() -> None:
    pixels = torch.randint(0, 256, (2, 8, 3, 32, 32), dtype=torch.uint8)
    # The numbers of torchvision's documentation of R3D_18_Weights.KINETICS400_V1.
    mean = torch.tensor([0.43216, 0.394666, 0.37645])
    std = torch.tensor([0.22803, 0.22145, 0.216989])
    expected = (pixels.double() / 255 - mean[:, None, None]) / std[:, None, None]
    given = small_network().normalise(pixels)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.movedim(2, 1).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "clips",
    [
        torch.zeros(2, 8, 3, 32, 32),
        torch.zeros(3, 8, 32, 32),
        torch.zeros(2, 3, 16, 32, 32),
        torch.zeros(2, 3, 8, 32, 32, dtype=torch.uint8),
    ],
    ids=["frames before channels", "no batch", "more frames", "pixels"],
)
def test_other_input_is_refused(clips: Tensor) -> None:
    with pytest.raises(ValueError, match=r"not \(N, 3, 8, 32, 32\) of floating point"):
        small_network()(clips)


NATIVE = clips_config(1, 8, 32, fit="native")


def native_network(features: nn.Module, channels: int = 4) -> ClipClassifier:
    return ClipClassifier(features, channels=channels, dropout=0.5, clips=NATIVE).eval()


def padded_batch(sizes: list[tuple[int, int]], filling: int = 0) -> tuple[Tensor, Tensor]:
    """Clips of these sizes in 32 x 32, and the mask of their pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.full((len(sizes), 8, 3, 32, 32), filling, dtype=torch.uint8)
    mask = torch.zeros(len(sizes), 32, 32, dtype=torch.bool)
    for clip, own, (height, width) in zip(pixels, mask, sizes, strict=True):
        shape = (8, 3, height, width)
        clip[..., :height, :width] = torch.randint(0, 256, shape, generator=generator)
        own[:height, :width] = True
    return pixels, mask


@pytest.mark.parametrize("size", [(32, 32), (32, 1), (1, 32), (18, 32), (32, 31)])
def test_native_clips_have_any_size_with_one_longest_edge(size: tuple[int, int]) -> None:
    assert native_network(nn.Conv3d(3, 4, 1))(torch.randn(2, 3, 8, *size)).shape == (2, 1)


@pytest.mark.parametrize("size", [(16, 16), (33, 32), (32, 64), (31, 1), (64,), (32, 32, 32)])
def test_native_clips_with_another_longest_edge_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"not \(N, 3, 8, H, W with max\(H, W\) = 32\)"):
        native_network(nn.Conv3d(3, 4, 1))(torch.randn(2, 3, 8, *size))


@pytest.mark.parametrize("size", [(32, 16), (16, 32), (16, 16)])
def test_letterboxed_clips_stay_square(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"not \(N, 3, 8, 32, 32\) of floating point"):
        small_network()(torch.zeros(2, 3, 8, *size))


SIZES = [(32, 18), (9, 32), (32, 32), (32, 1)]


def test_what_padding_holds_has_no_influence(network: ClipClassifier) -> None:
    scored = ClipClassifier(network.features, channels=16, dropout=0.5, clips=NATIVE).eval()
    results = []
    for filling in (0, 255):
        pixels, mask = padded_batch(SIZES, filling)
        clips = scored.normalise(pixels, mask)
        assert not clips[~mask[:, None, None].expand_as(clips)].any(), "padding is not zero"
        with torch.inference_mode():
            results.append(scored(clips, mask))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", [name for name in TRAINED if TAKES[name].native])
def test_a_padded_clip_scores_as_it_does_alone(name: str) -> None:
    torch.manual_seed(0)
    scored = build_network(replace(model_config(), network=name), NATIVE)
    pixels, mask = padded_batch(SIZES)
    for layer in scored.modules():
        if isinstance(layer, nn.BatchNorm3d) and not layer.weight.any():
            # Residuals that begin as nothing have grown.
            nn.init.ones_(layer.weight)
    # As after training: values of every layer are of a size that the next ones can tell, and what
    # was zero before a normalisation is not zero after it.
    update_bn([scored.normalise(pixels)], scored)
    scored.eval()
    for layer in scored.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.normal_(layer.bias, 0.2, 0.3)
    with torch.inference_mode():
        together = scored(scored.normalise(pixels, mask), mask)
        unaware = scored(scored.normalise(pixels))
        for row, (height, width) in enumerate(SIZES):
            alone = scored(scored.normalise(pixels[row : row + 1, ..., :height, :width]))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            if height * width < 32 * 32:
                assert (unaware[row] - alone).abs() > 1e-3, "this network does not see the padding"


def test_a_layer_that_does_not_keep_the_size_is_refused() -> None:
    network = native_network(nn.Conv3d(3, 4, 3))
    pixels, mask = padded_batch(SIZES)
    with pytest.raises(ValueError, match=r"takes \(32, 32\) to \(30, 30\), so padding"):
        network(network.normalise(pixels, mask), mask)


def test_no_trace_of_the_mask_is_left_in_the_network(network: ClipClassifier) -> None:
    scored = ClipClassifier(network.features, channels=16, dropout=0.5, clips=NATIVE).eval()
    pixels, mask = padded_batch(SIZES)
    clips = scored.normalise(pixels)
    with torch.inference_mode():
        before = scored(clips)
        scored(scored.normalise(pixels, mask), mask)
        assert torch.equal(scored(clips), before)


def test_clips_that_fill_the_batch_score_as_without_a_mask(network: ClipClassifier) -> None:
    pixels, mask = padded_batch([(32, 32)] * 2)
    with torch.inference_mode():
        clips = network.normalise(pixels)
        assert torch.equal(network.normalise(pixels, mask), clips)
        torch.testing.assert_close(network(clips, mask), network(clips))


def test_the_masked_mean_is_that_of_the_part() -> None:
    features = torch.randn(3, 2, 4, 5, 6)
    mask = torch.zeros(3, 5, 6, dtype=torch.bool)
    sizes = [(5, 6), (1, 6), (3, 1)]
    for own, (height, width) in zip(mask, sizes, strict=True):
        own[:height, :width] = True
    pooled = masked_mean(features, mask)
    for row, (height, width) in enumerate(sizes):
        expected = features[row, :, :, :height, :width].mean((1, 2, 3))
        torch.testing.assert_close(pooled[row], expected)
    constant = torch.full((3, 2, 4, 5, 6), 0.75)
    assert torch.equal(masked_mean(constant, mask), torch.full((3, 2), 0.75))


def test_gradients_flow_through_the_mask_and_not_from_the_padding() -> None:
    features = nn.Conv3d(3, 4, 1)
    network = native_network(features)
    pixels, mask = padded_batch(SIZES)
    # Values as they are in the middle of a network, where padding is not zero any more.
    clips = network.normalise(pixels).requires_grad_()
    network(clips, mask).sum().backward()
    assert clips.grad is not None
    given = clips.grad.abs().sum((1, 2))
    assert (given[mask] > 0).all()
    assert not given[~mask].any()
    assert features.weight.grad is not None
    assert features.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("size", [(64, 4), (4, 64), (64, 1)])
def test_long_thin_clips_are_trained_on(size: tuple[int, int]) -> None:
    config = clips_config(1, 8, 64, fit="native")
    torch.manual_seed(0)
    network = build_network(model_config(), config)
    make_bf16_safe(network)
    pixels = torch.randint(0, 256, (2, 8, 3, *size), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(network.normalise(pixels))
    (logits[0] - logits[1]).sum().backward()
    assert logits.isfinite().all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), f"{name} has no usable gradient"


def test_a_native_network_is_described_as_one(tmp_path: Path) -> None:
    network = ClipClassifier(
        build_network(model_config(), NATIVE).features, channels=16, dropout=0.5, clips=NATIVE
    )
    save_network(network, tmp_path, model_config(), NATIVE)
    assert json.loads((tmp_path / "network.json").read_text())["clips"]["fit"] == "native"
    with torch.inference_mode():
        assert load_network(tmp_path)(torch.zeros(1, 3, 8, 32, 8)).shape == (1, 1)


def test_logits_are_exact_under_autocast() -> None:
    network = small_network().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.randn(2, 3, 8, 32, 32)).dtype == torch.float32
