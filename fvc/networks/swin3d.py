"""Video Swin Transformer, with attention inside of windows: torchvision's swin3d_t."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video import Swin3D_T_Weights, swin3d_t
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from fvc.config import ClipsConfig
from fvc.networks.pretrained import without
from fvc.networks.torchvision_networks import torchvision_architecture

CHANNELS = 768


class WindowAttention(ShiftedWindowAttention3d):  # type: ignore[misc]
    """torchvision's attention, with right positions where the picture is smaller than a window.

    There the window shrinks to the picture. torchvision then takes the first
    rows and columns of the whole window's index, which are right where it
    shrinks in time alone; in a window of 2 x 2, the second row would count as
    the right end of the first.
    """

    def get_relative_position_bias(self, window_size: list[int]) -> Float[Tensor, "1 heads n n"]:
        """What is added to the attention between two positions of a window of this size."""
        frames, height, width = window_size
        whole = self.relative_position_index.view(*self.window_size, *self.window_size)
        index = whole[:frames, :height, :width, :frames, :height, :width]
        volume = frames * height * width
        bias = self.relative_position_bias_table[index.reshape(-1)]
        return bias.view(volume, volume, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


def _block(*arguments: Any, **named: Any) -> nn.Module:
    return SwinTransformerBlock(*arguments, **named | {"attn_layer": WindowAttention})


class WindowTransformer(nn.Module):
    """torchvision's network up to its last normalisation."""

    def __init__(self) -> None:
        super().__init__()
        library = swin3d_t(weights=None, block=_block)
        self.patch_embed = library.patch_embed
        self.features = library.features
        self.norm = library.norm

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Give the last block's output, channels first again."""
        return self.norm(self.features(self.patch_embed(clips))).movedim(-1, 1)


def _backbone(clips: ClipsConfig) -> nn.Module:
    del clips
    return WindowTransformer()


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    """The patches, and then one for each resolution, with the merging before it."""
    assert isinstance(backbone, WindowTransformer)
    layers = backbone.features
    assert isinstance(layers, nn.Sequential)
    return {
        "stem": backbone.patch_embed,
        "layer1": layers[:1],
        "layer2": layers[1:3],
        "layer3": layers[3:5],
        "layer4": nn.ModuleList([layers[5:], backbone.norm]),
    }


SWIN3D_T = torchvision_architecture(
    _backbone,
    Swin3D_T_Weights.KINETICS400_V1,
    without("head."),
    channels=CHANNELS,
    stages=_stages,
    # Found by counting: the weights were trained with 32 frames, of twice the cost.
    num_frames=16,
    side_px=224,
    paper="Liu et al., arXiv:2106.13230",
)
"""Attention inside of windows that move from block to block, at four resolutions."""
