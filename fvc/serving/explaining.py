"""Where the network looked in the clip that spoke loudest, as one small picture."""

import base64
from io import BytesIO
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fvc.evidence.explainers import explainer_of
from fvc.networks.ensemble import Ensemble, Network
from fvc.overlay import overlay
from fvc.predict import video_logit

SHOWN = 4
"""Frames of the clip, from its beginning to its end."""


def overlay_png(
    network: Network, pixels: UInt8[Tensor, "N T C H W"], logits: Float[Tensor, "N"]
) -> str:
    """Lay the network's map, of its last explained layer, over frames of one clip, side by side.

    The clip is the one that speaks most for what the video was called. Of an ensemble it is the
    mean of its members' maps.

    Returns:
        A PNG, in base64.
    """
    side: Literal["real", "fake"] = "fake" if video_logit(logits) >= 0 else "real"
    clip = pixels[int((logits if side == "fake" else -logits).argmax())]
    members = network.parts if isinstance(network, Ensemble) else [network]
    maps = [list(explainer_of(each)(each, clip, side).values())[-1].values for each in members]
    seen = np.mean(maps, axis=0)
    shown = np.linspace(0, len(clip) - 1, min(SHOWN, len(clip))).round().astype(int)
    frames = overlay(clip.numpy()[shown], seen[shown])
    strip = np.concatenate(list(frames.transpose(0, 2, 3, 1)), axis=1)
    file = BytesIO()
    Image.fromarray(strip).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
