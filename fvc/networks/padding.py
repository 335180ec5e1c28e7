"""Clips of several sizes in one batch: each has the features that it would have alone."""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

SIZED = (nn.Conv3d, nn.MaxPool3d)
"""Layers that look at neighbours or take larger steps; others work position by position."""


def padded_features(
    network: nn.Module, clips: Float[Tensor, "N 3 T H W"], mask: Bool[Tensor, "N H W"]
) -> tuple[Float[Tensor, "N C t h w"], Bool[Tensor, "N h w"]]:
    """Compute features of padded clips as if each clip were alone.

    A layer that looks at neighbours is given zeros beyond a clip's own part,
    which is what it pads with at the edge of a picture. A layer that pads with
    something else must be given nothing negative, as max pooling after a ReLU.

    Args:
        network: Made of `SIZED` layers that keep the size, divided by their
            stride and rounded up, and of others that work position by position.
        clips: Padded at the bottom and right.
        mask: Where pixels are a clip's own: a rectangle from the top left.

    Returns:
        The features, and where they are a clip's own.

    Raises:
        ValueError: A layer gives another size than it should.
    """
    own = {clips.shape[3:]: mask}

    def clear(_: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
        [values] = given
        return values.masked_fill(~own[values.shape[3:]][:, None, None], 0)

    def follow(layer: Any, given: tuple[Tensor, ...], result: Tensor) -> None:
        steps = layer.stride if isinstance(layer.stride, tuple) else (layer.stride,) * 3
        mine = own[given[0].shape[3:]][:, :: steps[1], :: steps[2]]
        if mine.shape[1:] != result.shape[3:]:
            sizes = f"{tuple(given[0].shape[3:])} to {tuple(result.shape[3:])}"
            raise ValueError(f"{layer} takes {sizes}, so padding cannot be told from the picture")
        own[result.shape[3:]] = mine

    with ExitStack() as hooks:
        for layer in network.modules():
            if isinstance(layer, SIZED):
                hooks.enter_context(layer.register_forward_pre_hook(clear))
                hooks.enter_context(layer.register_forward_hook(follow))
        features = network(clips)
    return features, own[features.shape[3:]]


def masked_mean(
    features: Float[Tensor, "N C t h w"], mask: Bool[Tensor, "N h w"]
) -> Float[Tensor, "N C"]:
    """Average features over time and over the masked positions, in float32."""
    with torch.autocast(features.device.type, enabled=False):
        own = features.float().mean(2).masked_fill(~mask[:, None], 0)
        return own.sum((2, 3)) / mask.sum((1, 2))[:, None]
