"""A map of where a network looked, laid over the clip."""

import matplotlib
import numpy as np
from jaxtyping import Float32, UInt8

COLOURS = "inferno"
"""From dark to bright, also in grey print and for any kind of colour vision."""
PICTURE_SHARE = 0.6
"""How bright the picture, without its colours, remains where the map is laid over it."""
MOST_COVERING = 0.7
"""How much of the picture the map's largest value covers."""


def overlay(
    clip: UInt8[np.ndarray, "T C H W"], values: Float32[np.ndarray, "T H W"]
) -> UInt8[np.ndarray, "T C H W"]:
    """Lay a map in [0, 1] over a clip in grey: where it is larger, it is brighter and denser."""
    grey = clip.mean(axis=1, keepdims=True) * PICTURE_SHARE
    colours = matplotlib.colormaps[COLOURS](values)[..., :3] * 255
    share = MOST_COVERING * values[:, None]
    mixed = (1 - share) * grey + share * colours.transpose(0, 3, 1, 2)
    return mixed.round().astype(np.uint8)
