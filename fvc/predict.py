"""Clips to logits to a probability: the one way by which every stage and the server score."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from fvc.networks import ClipClassifier

CLIPS_AT_ONCE = 8


@torch.inference_mode()
def clip_logits(network: ClipClassifier, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N"]:
    """Score the clips of one video, in float32, on the device that holds the network.

    The network is left in evaluation mode. A video is never scored together
    with another one, so its logits do not depend on its neighbours.

    Returns:
        One logit per clip, on the CPU; positive means fake.

    Raises:
        ValueError: The clips are not of the shape that the network is made for.
    """
    network.eval()
    device = network.mean.device
    parts = torch.split(pixels, CLIPS_AT_ONCE)
    logits = [network(network.normalise(part.to(device))) for part in parts]
    return torch.cat(logits).squeeze(1).cpu()


def video_logit(logits: Float[Tensor, "N"]) -> float:
    """The logit of a video: the mean of its clips'."""
    return logits.double().mean().item()


def video_logits(
    network: ClipClassifier, videos: Iterable[UInt8[Tensor, "_N T C _H _W"]]
) -> Float64[np.ndarray, "V"]:
    """Score videos one after another; `videos` may load each when it is asked for.

    They may differ in their number of clips and, where the network takes
    native clips, in height and width.
    """
    return np.array([video_logit(clip_logits(network, pixels)) for pixels in videos], np.float64)


def probability_fake(logit: float) -> float:
    """The logistic function, which no finite logit overflows."""
    return 0.5 * (1 + math.tanh(0.5 * logit))
