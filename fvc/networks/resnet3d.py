"""Three-dimensional ResNets of 18 layers: torchvision's r3d_18, mc3_18 and r2plus1d_18."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models.video import (
    MC3_18_Weights,
    R2Plus1D_18_Weights,
    R3D_18_Weights,
    VideoResNet,
    mc3_18,
    r2plus1d_18,
    r3d_18,
)

from fvc.config import ClipsConfig
from fvc.networks.architecture import Architecture, children
from fvc.networks.pretrained import without
from fvc.networks.torchvision_networks import torchvision_architecture

CHANNELS = 512


def _backbone(library: Callable[..., VideoResNet], clips: ClipsConfig) -> nn.Module:
    """One of them without its pooling and its classifier."""
    del clips
    layers = OrderedDict(library(weights=None).named_children())
    del layers["avgpool"], layers["fc"]
    return nn.Sequential(layers)


def _architecture(library: Callable[..., VideoResNet], weights: WeightsEnum) -> Architecture:
    return torchvision_architecture(
        partial(_backbone, library),
        weights,
        without("fc."),
        channels=CHANNELS,
        stages=children,
        num_frames=16,
        side_px=112,
        paper="Tran et al., arXiv:1711.11248",
    )


R3D_18 = _architecture(r3d_18, R3D_18_Weights.KINETICS400_V1)
"""Convolutions over space and time in every layer."""

MC3_18 = _architecture(mc3_18, MC3_18_Weights.KINETICS400_V1)
"""Convolutions over time in the first layers alone."""

R2PLUS1D_18 = _architecture(r2plus1d_18, R2Plus1D_18_Weights.KINETICS400_V1)
"""Every convolution in two: over space, then over time."""
