"""S3D, an Inception network whose convolutions are split into space and time: torchvision's s3d."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial

from torch import nn
from torchvision.models.video import S3D_Weights, s3d

from fvc.config import ClipsConfig
from fvc.networks.pretrained import without
from fvc.networks.torchvision_networks import torchvision_architecture

CHANNELS = 1024

# torchvision's momentum is 0.001, with which statistics take thousands of steps to follow: a
# training of a few hundred would be scored with those of random weights.
NORMALISATION = partial(nn.BatchNorm3d, eps=0.001, momentum=0.1)


def _backbone(clips: ClipsConfig) -> nn.Module:
    """All before torchvision's pooling, whose window of 2 x 7 x 7 positions asks for 224 px."""
    del clips
    library = s3d(weights=None, norm_layer=NORMALISATION)
    return nn.Sequential(OrderedDict(features=library.features))


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    """One for each resolution: a pooling ends all but the last."""
    layers = backbone.get_submodule("features")
    assert isinstance(layers, nn.Sequential)
    ends = [at + 1 for at, layer in enumerate(layers) if isinstance(layer, nn.MaxPool3d)]
    borders = zip([0, *ends], [*ends, len(layers)], strict=True)
    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    return {name: layers[start:end] for name, (start, end) in zip(names, borders, strict=True)}


S3D = torchvision_architecture(
    _backbone,
    S3D_Weights.KINETICS400_V1,
    without("classifier."),
    channels=CHANNELS,
    stages=_stages,
    # Found by counting: its table does not say so, and names 14 as the fewest frames.
    num_frames=16,
    side_px=224,
    paper="Xie et al., arXiv:1712.04851",
)
"""Inception blocks of separated convolutions, with two poolings over time."""
