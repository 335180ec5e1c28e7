"""What the networks of torchvision share: how its tables state them."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torchvision.models import WeightsEnum

from fvc.config import ClipsConfig
from fvc.networks.architecture import Architecture, Published, Stages
from fvc.networks.pretrained import torchvision_weights


def torchvision_architecture(
    build: Callable[[ClipsConfig], nn.Module],
    weights: WeightsEnum,
    adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    *,
    channels: int,
    stages: Stages,
    num_frames: int,
    side_px: int,
    paper: str,
) -> Architecture:
    """A backbone as torchvision states the whole network, less its classification layer.

    Args:
        build: Makes the backbone, with random weights.
        weights: Those that torchvision offers, with the pixels that they are for.
        adapt: From their names to the backbone's, without the classification layer.
        channels: Of the features.
        stages: For gradual unfreezing.
        num_frames: Of the clip that the stated multiply-adds are of.
        side_px: Height and width of that clip.
        paper: Its authors and number.
    """
    preset, table = weights.transforms(), weights.meta
    return Architecture(
        build=build,
        channels=channels,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        stages=stages,
        weights=torchvision_weights(weights, adapt),
        published=Published(
            parameters=table["num_params"] - (channels + 1) * len(table["categories"]),
            gmacs=table["_ops"],
            num_frames=num_frames,
            side_px=side_px,
            source=f"torchvision; {paper}",
        ),
    )
