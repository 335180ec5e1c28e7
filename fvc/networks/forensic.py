"""Hand-made features of noise, compression and blur, and boosted trees: no network at all.

It shows what a lab had before networks, on the same folds, and it is what a network has to beat.
"""

from collections.abc import Mapping
from typing import NoReturn

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.networks.architecture import Architecture
from fvc.networks.trees import BoostedTrees
from fvc.residuals import FEATURES, residual_features


class ResidualFeatures(nn.Module):
    """What `residual_features` measures, as features of a single position."""

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float32[Tensor, "N F 1 1 1"]:
        """Measure clips on the CPU, wherever they are.

        Args:
            clips: Levels from 0 to 255, whole but for rounding. Padding is 0, so
                it is no part of the picture.
        """
        shape = (len(clips), len(FEATURES), 1, 1, 1)
        if clips.is_meta:
            return clips.new_empty(shape, dtype=torch.float32)
        pixels = clips.detach().round().to(torch.uint8).movedim(1, 2).cpu().numpy()
        measured = np.stack([residual_features(clip) for clip in pixels])
        return torch.from_numpy(measured).to(clips.device).reshape(shape)


def _build(clips: ClipsConfig) -> nn.Module:
    del clips
    return ResidualFeatures()


def _no_weights(pretrained: str, clips: ClipsConfig) -> NoReturn:
    del clips
    where = f"model.pretrained: {pretrained}"
    raise FvcError(where, "nobody has published trees", "Set model.pretrained to none")


def _no_stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    del backbone
    return {}


FORENSIC = Architecture(
    build=_build,
    channels=len(FEATURES),
    # Levels as they are stored.
    mean=(0.0, 0.0, 0.0),
    std=(1 / 255, 1 / 255, 1 / 255),
    stages=_no_stages,
    weights=_no_weights,
    published=None,
    classifier=BoostedTrees,
)
