from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from settings import clips_config, model_config
from torch import Tensor, nn

from fvc.errors import FvcError
from fvc.networks import ClipClassifier, build_network, load_network, save_network
from fvc.networks.counting import gmacs, parameters
from fvc.networks.slowfast import (
    CLASSIFIER,
    SLOWFAST_R50,
    Bottleneck,
    SlowFast,
    from_pytorchvideo,
    slow_frames,
)
from fvc.precision import make_bf16_safe

CPU = torch.device("cpu")
MODEL = replace(model_config(), network="slowfast_r50")
CLIPS = clips_config(1, 8, 32)
NATIVE = clips_config(1, 8, 32, fit="native")


def as_trained(network: nn.Module) -> None:
    """What begins at zero is zero no more, and what begins equal differs."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.3, 0.7)
            nn.init.normal_(layer.bias, 0.1, 0.2)


@pytest.fixture(scope="module")
def backbone() -> SlowFast:
    torch.manual_seed(0)
    network = SlowFast().eval()
    as_trained(network)
    return network


def random_clips(num_frames: int = 8, side_px: int = 32, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, num_frames, side_px, side_px, generator=generator)


def spoken_of(network: SlowFast, clips: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What each stage gives, by its name: the slow and the fast pathway."""
    given: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, result, name=name: given.update({name: result}))
        for name, stage in network.named_children()
    ]
    network(clips)
    for hook in hooks:
        hook.remove()
    return given


@pytest.mark.parametrize(
    ("num_frames", "side_px", "side"),
    [(4, 32, 1), (8, 32, 1), (8, 33, 2), (8, 64, 2), (12, 65, 3), (32, 224, 7)],
)
def test_features_have_a_position_for_each_slow_frame(
    num_frames: int, side_px: int, side: int
) -> None:
    with torch.device("meta"):
        features = SlowFast()(torch.empty(2, 3, num_frames, side_px, side_px))
    assert features.shape == (2, SLOWFAST_R50.channels, num_frames // 4, side, side)


@pytest.mark.parametrize(
    ("num_frames", "side_px", "message"),
    [
        (6, 32, "num_frames 6: it takes 4 and more, in multiples of 4"),
        (2, 32, "num_frames 2: it takes 4 and more, in multiples of 4"),
        (8, 31, "side_px 31: it takes 32 and more"),
    ],
)
def test_other_clips_are_refused(num_frames: int, side_px: int, message: str) -> None:
    with pytest.raises(FvcError, match=message):
        build_network(MODEL, clips_config(1, num_frames, side_px))


@pytest.mark.parametrize("num_frames", range(4, 132, 4))
def test_slow_frames_are_those_of_pytorchvideo(num_frames: int) -> None:
    """PackPathway of its tutorials; the weights are made for them."""
    chosen = slow_frames(num_frames, CPU)
    assert torch.equal(chosen, torch.linspace(0, num_frames - 1, num_frames // 4).long())
    assert (chosen // 4).tolist() == list(range(num_frames // 4)), "four frames have none or two"


def test_both_frame_rates_are_cut_from_the_same_clip(backbone: SlowFast) -> None:
    clips, seen = random_clips(), {}

    def remember(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.update({name: given[0]})

    hooks = [
        backbone.get_submodule(f"stem.{name}").register_forward_pre_hook(remember(name))
        for name in ("slow", "fast")
    ]
    with torch.inference_mode():
        backbone(clips)
    for hook in hooks:
        hook.remove()
    assert torch.equal(seen["fast"], clips)
    assert torch.equal(seen["slow"], clips[:, :, [0, 7]])


def test_the_mean_over_positions_is_that_of_each_pathway(backbone: SlowFast) -> None:
    clips = random_clips(side_px=64)
    with torch.inference_mode():
        slow, fast = spoken_of(backbone, clips)["res5"]
        features = backbone(clips)
    assert (slow.shape[1:3], fast.shape[1:3]) == ((2048, 2), (256, 8))
    expected = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], dim=1)
    torch.testing.assert_close(features.mean((2, 3, 4)), expected)
    # Position by position: a window of four fast frames for each slow one.
    torch.testing.assert_close(features[:, 2048:, 1], fast[:, :, 4:].mean(2))


def test_the_fast_pathway_tells_the_slow_one_and_hears_nothing(backbone: SlowFast) -> None:
    before = spoken_of(backbone, random_clips())
    stages = list(before)
    for stage in stages[:-1]:
        following = stages[stages.index(stage) + 1]
        lateral = backbone.get_parameter(f"{stage}.lateral.conv.weight")
        backbone.zero_grad()
        torch.autograd.backward(before[following][0].sum(), retain_graph=True)
        assert lateral.grad is not None, f"what {stage} tells does not reach {following}"
        assert lateral.grad.abs().sum() > 0
        source = backbone.get_submodule(f"{stage}.fast")
        assert all(each.grad is not None for each in source.parameters())
    backbone.zero_grad()
    torch.autograd.backward(before["res5"][1].sum())
    heard = {name for name, each in backbone.named_parameters() if each.grad is not None}
    assert heard
    assert all(".fast." in name for name in heard)
    backbone.zero_grad()


def test_what_happens_between_slow_frames_is_seen(backbone: SlowFast) -> None:
    clips = random_clips(num_frames=16)
    between = sorted(set(range(16)) - set(slow_frames(16, CPU).tolist()))
    changed = clips.clone()
    changed[:, :, between] = 0
    with torch.inference_mode():
        first, second = spoken_of(backbone, clips), spoken_of(backbone, changed)
    assert torch.equal(first["stem"][0][:, :64], second["stem"][0][:, :64])
    assert not torch.equal(first["res5"][0], second["res5"][0])


def test_it_is_as_large_and_as_costly_as_published() -> None:
    with torch.device("meta"):
        network = SlowFast()
    published = SLOWFAST_R50.published
    assert published is not None
    assert parameters(network) == published.parameters
    # Of pytorchvideo's table: M parameters with the classification layer, G FLOPs at 256 pixels.
    assert round((parameters(network) + CLASSIFIER) / 1e6, 2) == 34.57
    assert gmacs(network, published.num_frames, published.side_px) == pytest.approx(65.71, rel=1e-3)


def test_a_block_begins_as_its_shortcut_and_learns_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    network = SlowFast()
    for block in network.modules():
        if isinstance(block, Bottleneck):
            assert not block.residual.get_parameter("c.norm.weight").any()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    clips, noise = random_clips(), torch.randn(2, 2304, 2, 1, 1)
    still = []
    for _ in range(2):
        optimizer.zero_grad()
        (network(clips) * noise).sum().backward()
        gradients = {name: each.grad for name, each in network.named_parameters()}
        still.append({name for name, each in gradients.items() if each is None or not each.any()})
        assert not any(each is None for each in gradients.values())
        optimizer.step()
    assert still[0]
    assert all(".residual." in name for name in still[0])
    assert not still[1], "these train at no time"


def test_convolutions_begin_as_by_he_et_al() -> None:
    torch.manual_seed(0)
    weight = SlowFast().get_parameter("res5.slow.2.residual.b.conv.weight")
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_a_saved_network_scores_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(MODEL, CLIPS).eval()
    as_trained(network)
    save_network(network, tmp_path, MODEL, CLIPS)
    with torch.inference_mode():
        assert torch.equal(load_network(tmp_path)(random_clips()), network(random_clips()))


def test_a_padded_clip_scores_as_it_does_alone(backbone: SlowFast) -> None:
    features = nn.Sequential()
    features.add_module("backbone", backbone)
    scored = ClipClassifier(features, channels=2304, dropout=0.5, clips=NATIVE).eval()
    sizes = [(32, 18), (9, 32), (32, 32), (32, 1)]
    pixels = torch.randint(0, 256, (4, 8, 3, 32, 32), dtype=torch.uint8)
    mask = torch.zeros(4, 32, 32, dtype=torch.bool)
    for own, (height, width) in zip(mask, sizes, strict=True):
        own[:height, :width] = True
    with torch.inference_mode():
        together = scored(scored.normalise(pixels, mask), mask)
        unaware = scored(scored.normalise(pixels))
        for row, (height, width) in enumerate(sizes):
            alone = scored(scored.normalise(pixels[row : row + 1, ..., :height, :width]))
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
            if height * width < 32 * 32:
                assert (unaware[row] - alone).abs() > 1e-3, "this network does not see the padding"


def gradients_of(network: SlowFast, clips: Tensor, mixed: bool) -> dict[str, Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        features = network(clips)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    (features.float() * noise).sum().backward()
    given = {name: each.grad for name, each in network.named_parameters()}
    assert all(each is not None for each in given.values())
    return {name: each for name, each in given.items() if each is not None}


@pytest.mark.parametrize("num_frames", [4, 8])
def test_gradients_in_bfloat16_are_near_those_of_float32(
    backbone: SlowFast, num_frames: int
) -> None:
    network, clips = deepcopy(backbone), random_clips(num_frames)
    make_bf16_safe(network)
    exact = gradients_of(network, clips, mixed=False)
    rough = gradients_of(network, clips, mixed=True)
    errors = {
        name: float((rough[name] - each).norm() / each.norm()) for name, each in exact.items()
    }
    # Rounding adds up over fifty layers; what oneDNN gets wrong is off by its own size or more.
    wrong = {name: error for name, error in errors.items() if not error < 0.4}
    assert not wrong, f"bfloat16 trains these layers with wrong gradients: {wrong}"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.0.multipathway_blocks.0.conv.weight", "stem.slow.conv.weight"),
        ("blocks.0.multipathway_fusion.norm.bias", "stem.lateral.norm.bias"),
        ("blocks.1.multipathway_fusion.conv_fast_to_slow.weight", "res2.lateral.conv.weight"),
        (
            "blocks.4.multipathway_blocks.1.res_blocks.2.branch2.norm_c.running_var",
            "res5.fast.2.residual.c.norm.running_var",
        ),
        (
            "blocks.3.multipathway_blocks.0.res_blocks.0.branch1_conv.weight",
            "res4.slow.0.shortcut.conv.weight",
        ),
    ],
)
def test_names_of_pytorchvideo_become_ours(theirs: str, ours: str, backbone: SlowFast) -> None:
    weights = {theirs: torch.ones(1), "blocks.6.proj.weight": torch.zeros(1)}
    assert from_pytorchvideo(weights) == {ours: torch.ones(1)}
    assert ours in backbone.state_dict()


def test_weights_in_a_checkpoint_are_loaded(backbone: SlowFast, tmp_path: Path) -> None:
    """As pytorchvideo offers them: with more around them, and with a classification layer."""
    weights = {**backbone.state_dict(), "blocks.6.proj.bias": torch.zeros(400)}
    torch.save({"epoch": 196, "model_state": weights}, tmp_path / "weights.pyth")
    model = replace(MODEL, pretrained=str(tmp_path / "weights.pyth"))
    loaded = build_network(model, CLIPS).features.get_submodule("backbone").state_dict()
    assert loaded.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in loaded.items())
