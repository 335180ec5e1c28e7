"""The backbones that are torchvision's compute what torchvision computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from settings import clips_config, model_config
from torch import Tensor, nn
from torchvision.models import resnet18, video
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.networks import ARCHITECTURES, build_features, build_network
from fvc.networks.swin3d import WindowAttention

pytestmark = pytest.mark.usefixtures("one_thread")

CASES: dict[str, tuple[Callable[[], nn.Module], str, ClipsConfig]] = {
    "mc3_18": (video.mc3_18, "layer4", clips_config(1, 4, 32)),
    "r2plus1d_18": (video.r2plus1d_18, "layer4", clips_config(1, 4, 32)),
    "s3d": (video.s3d, "features", clips_config(1, 13, 209)),
    "mvit_v2_s": (video.mvit_v2_s, "norm", clips_config(1, 16, 224)),
    # Windows of 7 x 7 positions fit into the last grid only here.
    "swin3d_t": (video.swin3d_t, "norm", clips_config(1, 2, 224)),
    "frame_r18": (resnet18, "layer4", clips_config(1, 3, 64)),
}
"""torchvision's network, its last layer before what a backbone lacks, and clips that it takes."""

SLOW = {"s3d", "mvit_v2_s"}


def outputs_of(library: nn.Module, layer: str, clips: Tensor) -> Tensor:
    """What a layer of torchvision's network gives, in the order that features have."""
    found: list[Tensor] = []
    hook = library.get_submodule(layer).register_forward_hook(
        lambda _layer, _given, output: found.append(output)
    )
    if isinstance(library, video.MViT):
        library(clips)
        # Without the class token, in the grid of 16 frames of 224 x 224.
        features = found[0][:, 1:].reshape(len(clips), 8, 7, 7, -1).movedim(-1, 1)
    elif isinstance(library, video.SwinTransformer3d):
        library(clips)
        features = found[0].movedim(-1, 1)
    elif isinstance(library, video.VideoResNet | video.S3D):
        library(clips)
        features = found[0]
    else:
        for frame in range(clips.shape[2]):
            library(clips[:, :, frame])
        features = torch.stack(found, dim=2)
    hook.remove()
    return features


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in CASES]
)
def test_published_weights_compute_what_they_do_in_torchvision(name: str, tmp_path: Path) -> None:
    make, layer, clips = CASES[name]
    torch.manual_seed(0)
    library = make().eval()
    for key, value in library.named_buffers():
        if "running" in key:
            value.uniform_(0.5, 1.5)
    torch.save(library.state_dict(), tmp_path / "weights.pth")
    # The file has the names of the one that is published.
    model = replace(model_config(str(tmp_path / "weights.pth")), network=name, head="linear")
    backbone = build_features(model, clips).get_submodule("backbone").eval()
    given = torch.randn(1, 3, clips.num_frames, clips.side_px, clips.side_px)
    with torch.inference_mode():
        expected = outputs_of(library, layer, given)
        torch.testing.assert_close(backbone(given), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_weights_of_another_network_are_refused_by_name(name: str, tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(1)}, tmp_path / "weights.pth")
    model = replace(model_config(str(tmp_path / "weights.pth")), network=name)
    with torch.device("meta"), pytest.raises(FvcError, match=r"lacks .* and has unknown other\.w"):
        build_network(model, replace(CASES[name][2], num_frames=16, side_px=224))


@pytest.mark.parametrize("name", CASES)
def test_the_mean_and_deviation_are_those_of_the_weights(name: str) -> None:
    stated = {
        "mc3_18": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "r2plus1d_18": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "s3d": ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        "mvit_v2_s": ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
        "swin3d_t": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "frame_r18": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    }
    assert (ARCHITECTURES[name].mean, ARCHITECTURES[name].std) == stated[name]


def frames_in_another_order(name: str, head: str) -> tuple[Tensor, Tensor]:
    """The logits of a clip, and of the same with its frames in another order."""
    torch.manual_seed(0)
    clips = clips_config(1, 6, 32)
    values: dict[str, Any] = {"network": name, "head": head}
    network = build_network(replace(model_config(), **values), clips).eval()
    given = torch.randn(1, 3, 6, 32, 32)
    with torch.inference_mode():
        return network(given), network(given[:, :, [3, 1, 5, 0, 2, 4]])


def test_frame_r18_sees_no_motion() -> None:
    torch.testing.assert_close(*frames_in_another_order("frame_r18", "linear"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "head"), [("frame_r18", "inception"), ("r3d_18", "linear")])
def test_others_see_motion(name: str, head: str) -> None:
    first, second = frames_in_another_order(name, head)
    assert (first - second).abs() > 1e-5


def window_attention(kind: type[ShiftedWindowAttention3d]) -> ShiftedWindowAttention3d:
    torch.manual_seed(0)
    return kind(12, window_size=[8, 7, 7], shift_size=[0, 0, 0], num_heads=3)


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_windows_as_large_as_torchvision_means_them_are_torchvisions(frames: int) -> None:
    own, library = (
        window_attention(kind).get_relative_position_bias([frames, 7, 7])
        for kind in (WindowAttention, ShiftedWindowAttention3d)
    )
    assert torch.equal(own, library)


def test_a_smaller_window_has_the_positions_of_a_part_of_the_whole() -> None:
    own, library = (window_attention(kind) for kind in (WindowAttention, ShiftedWindowAttention3d))
    whole = library.get_relative_position_bias([8, 7, 7]).view(3, 8, 7, 7, 8, 7, 7)
    part = whole[:, :2, :2, :3, :2, :2, :3].reshape(1, 3, 12, 12)
    assert torch.equal(own.get_relative_position_bias([2, 2, 3]), part)
    assert not torch.equal(library.get_relative_position_bias([2, 2, 3]), part), (
        "torchvision has mended it: its own class will do"
    )


def test_the_class_token_takes_part_in_attention() -> None:
    torch.manual_seed(0)
    backbone = ARCHITECTURES["mvit_v2_s"].build(clips_config(1, 16, 32)).eval()
    given = torch.randn(1, 3, 16, 32, 32)
    with torch.inference_mode():
        before = backbone(given)
        backbone.get_parameter("pos_encoding.class_token").normal_()
        assert (backbone(given) - before).abs().max() > 1e-3
