"""A network that sees no motion: torchvision's ResNet-18 over each frame by itself."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from fvc.config import ClipsConfig
from fvc.networks.pretrained import without
from fvc.networks.torchvision_networks import torchvision_architecture

CHANNELS = 512


def _backbone(clips: ClipsConfig) -> nn.Module:
    del clips
    layers = OrderedDict(resnet18(weights=None).named_children())
    del layers["avgpool"], layers["fc"]
    backbone = nn.Sequential(layers)
    over_frames(backbone)
    return backbone


def over_frames(module: nn.Module) -> None:
    """Give every layer a third dimension in which it neither looks nor steps.

    The results are those of the frames one by one. As layers of clips they are
    in reach of all that is done to these: masks, memory formats, safe bfloat16.
    """
    for name, layer in module.named_children():
        if isinstance(layer, nn.Conv2d):
            module.register_module(name, _convolution(layer))
        elif isinstance(layer, nn.BatchNorm2d):
            module.register_module(name, nn.BatchNorm3d(layer.num_features))
        elif isinstance(layer, nn.MaxPool2d):
            sizes: list[Any] = [layer.kernel_size, layer.stride, layer.padding]
            kernel, stride, padding = sizes
            pooling = nn.MaxPool3d((1, kernel, kernel), (1, stride, stride), (0, padding, padding))
            module.register_module(name, pooling)
        else:
            over_frames(layer)


def _convolution(layer: nn.Conv2d) -> nn.Conv3d:
    sizes: list[Any] = [layer.kernel_size, layer.stride, layer.padding]
    kernel, stride, padding = sizes
    made = nn.Conv3d(
        *(layer.in_channels, layer.out_channels, (1, *kernel)),
        stride=(1, *stride),
        padding=(0, *padding),
        bias=False,
    )
    made.weight = nn.Parameter(layer.weight.detach().unsqueeze(2))
    return made


def over_frames_weights(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of a ResNet of pictures for what `over_frames` made of it."""
    kept = without("fc.")(weights)
    return {name: value.unsqueeze(2) if value.ndim == 4 else value for name, value in kept.items()}


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    layers = dict(backbone.named_children())
    stem = nn.ModuleList([layers.pop("conv1"), layers.pop("bn1")])
    named = {name: layer for name, layer in layers.items() if name.startswith("layer")}
    return {"stem": stem, **named}


FRAME_R18 = torchvision_architecture(
    _backbone,
    ResNet18_Weights.IMAGENET1K_V1,
    over_frames_weights,
    channels=CHANNELS,
    stages=_stages,
    num_frames=1,
    side_px=224,
    paper="He et al., arXiv:1512.03385",
)
"""The baseline for what motion adds; with another head than `linear`, that would see motion."""
