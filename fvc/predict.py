"""Clips to logits to a probability: the one way by which every stage and the server score."""

import math
from collections.abc import Iterable
from contextlib import nullcontext

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from fvc.memory import fitting
from fvc.networks.ensemble import Network
from fvc.networks.onednn import OneDnnConvolutions

CLIPS_AT_ONCE = 8
"""Where memory runs out, half as many are tried, and so on."""


def clip_logits(network: Network, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N"]:
    """Score clips, in float32, on the device that holds the network.

    The network is left in evaluation mode. Clips that pass together move each
    other's logits by rounding at most; `video_logits` never scores two videos
    together, so that what a video is given does not depend on the others.

    Returns:
        One logit per clip, on the CPU; positive means fake.

    Raises:
        ValueError: The clips are not of the shape that the network is made for.
        FvcError: Not even one clip at a time fits into memory.
    """
    return _fitting_logits(network, pixels, CLIPS_AT_ONCE)[0]


@torch.inference_mode()
def _fitting_logits(
    network: Network, pixels: UInt8[Tensor, "N T C H W"], clips_at_once: int
) -> tuple[Float[Tensor, "N"], int]:
    """The logits, and how many clips at once to score the next video with."""

    def score(at_once: int) -> Float[Tensor, "N"]:
        parts = torch.split(pixels, at_once)
        with OneDnnConvolutions() if onednn else nullcontext():
            logits = [network.score(part.to(device)) for part in parts]
        return torch.cat(logits).squeeze(1).cpu()

    network.eval()
    device = network.device
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # Half of more clips than there are may be all of them again.
    tried = min(clips_at_once, len(pixels))
    logits, fitted = fitting(score, tried)
    return logits, clips_at_once if fitted == tried else fitted


def video_logit(logits: Float[Tensor, "N"]) -> float:
    """The logit of a video: the mean of its clips'."""
    return logits.double().mean().item()


def video_logits(
    network: Network, videos: Iterable[UInt8[Tensor, "_N T C _H _W"]]
) -> Float64[np.ndarray, "V"]:
    """Score videos one after another; `videos` may load each when it is asked for.

    They may differ in their number of clips and, where the network takes
    native clips, in height and width. Where memory runs out in one, the videos
    after it are scored with fewer clips at once from the start.

    Raises:
        FvcError: Not even one clip at a time fits into memory.
    """
    scored: list[float] = []
    clips_at_once = CLIPS_AT_ONCE
    for pixels in videos:
        logits, clips_at_once = _fitting_logits(network, pixels, clips_at_once)
        scored.append(video_logit(logits))
    return np.array(scored, np.float64)


def probability_fake(logit: float) -> float:
    """The logistic function, which no finite logit overflows."""
    return 0.5 * (1 + math.tanh(0.5 * logit))
