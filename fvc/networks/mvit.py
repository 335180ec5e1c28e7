"""MViTv2-S, a transformer that pools its tokens as it goes: torchvision's mvit_v2_s."""

from collections.abc import Mapping
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.video import MViT_V2_S_Weights, mvit_v2_s

from fvc.config import ClipsConfig
from fvc.networks.pretrained import without
from fvc.networks.torchvision_networks import torchvision_architecture

CHANNELS = 768
POOLING = (0, 1, 3, 14, 16)
"""The blocks that begin a resolution, and the number of blocks."""


class MultiscaleTransformer(nn.Module):
    """torchvision's network up to its last normalisation, for clips of any size.

    Whatever the clips, its tables of relative positions are those of 16 frames
    of 224 x 224, for which weights are published; torchvision's attention
    interpolates them to the grid at hand, as the authors' does. The class token
    takes part in attention and is no part of the features.
    """

    def __init__(self) -> None:
        super().__init__()
        library = mvit_v2_s(weights=None)
        self.conv_proj = library.conv_proj
        self.pos_encoding = library.pos_encoding
        self.blocks = library.blocks
        self.norm = library.norm

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Give the tokens of the last block, in their grid."""
        patches = self.conv_proj(clips)
        grid = tuple(patches.shape[2:])
        tokens = self.pos_encoding(patches.flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens, grid = block(tokens, grid)
        return self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, grid)


def _backbone(clips: ClipsConfig) -> nn.Module:
    del clips
    return MultiscaleTransformer()


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    """The patches, and then one for each resolution."""
    assert isinstance(backbone, MultiscaleTransformer)
    blocks = backbone.blocks
    assert isinstance(blocks, nn.ModuleList)
    first, second, third, fourth = (blocks[start:end] for start, end in pairwise(POOLING))
    return {
        "stem": nn.ModuleList([backbone.conv_proj, backbone.pos_encoding]),
        "layer1": first,
        "layer2": second,
        "layer3": third,
        "layer4": nn.ModuleList([fourth, backbone.norm]),
    }


MVIT_V2_S = torchvision_architecture(
    _backbone,
    MViT_V2_S_Weights.KINETICS400_V1,
    without("head."),
    channels=CHANNELS,
    stages=_stages,
    num_frames=16,
    side_px=224,
    paper="Li et al., arXiv:2112.01526",
)
"""Attention from all tokens to a pooled few, at four resolutions."""
