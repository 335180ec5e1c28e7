"""ViViT, its first model: attention among all tokens of a clip, which are tubes in time."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fvc.config import ClipsConfig
from fvc.networks.transformers_video import (
    Family,
    Grid,
    library_architecture,
    library_model,
    stages_of_layers,
)

CHANNELS = 768
POSITIONS = "vivit.embeddings.position_embeddings"


class ViViT(nn.Module):
    """The library's network up to its last norm, with tokens in their places and no class token."""

    def __init__(self, family: Family, clips: ClipsConfig) -> None:
        super().__init__()
        self.grid = family.grid(clips.num_frames, clips.side_px)
        self.model: Any = library_model(family, clips.num_frames, clips.side_px)

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Features of each tube."""
        tokens = self.model.vivit(clips.transpose(1, 2)).last_hidden_state[:, 1:]
        return tokens.mT.unflatten(2, self.grid)


def _classes(library: Any) -> tuple[Any, Any]:
    return library.VivitConfig, library.VivitForVideoClassification


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    whole: Any = backbone
    base = whole.model.vivit
    return stages_of_layers(base.embeddings, base.layers, base.layernorm)


def _resize(state: Mapping[str, Tensor], given: Grid, wanted: Grid) -> Mapping[str, Tensor]:
    """Cubic over space, linear over time.

    The library's own option takes all tokens of a clip for one square picture, so it does not
    know time and gives too few positions.
    """
    class_token, places = state[POSITIONS][:, :1], state[POSITIONS][:, 1:]
    if given != wanted:
        # (1, t h w, C) to (t, C, h, w), then to (C, h w, t).
        pictures = places.reshape(*given, -1).permute(0, 3, 1, 2)
        pictures = interpolate(pictures, size=wanted[1:], mode="bicubic", align_corners=False)
        times = pictures.permute(1, 2, 3, 0).flatten(1, 2)
        times = interpolate(times, size=wanted[0], mode="linear", align_corners=False)
        places = times.permute(2, 1, 0).flatten(0, 1)[None]
    return {POSITIONS: torch.cat([class_token, places], dim=1)}


BASE = Family(
    classes=_classes,
    settings={
        "hidden_act": "gelu_fast",
        "hidden_size": CHANNELS,
        "intermediate_size": 4 * CHANNELS,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "qkv_bias": True,
        "tubelet_size": [2, 16, 16],
    },
    num_frames=32,
    side_px=224,
    frames_per_token=2,
    attention="sdpa",
    resize=_resize,
    hub="google/vivit-b-16x2-kinetics400",
    # Found in a cache of the hub; whether it has a model.safetensors is not known.
    revision="8a7171a57f79b9aaa58bc8d977c002a0ea0f0d42",
)

VIVIT_B = library_architecture(
    ViViT,
    BASE,
    # Pixels in [-1, 1]; the preprocessor_config.json that goes with the weights has not been read.
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    stages=_stages,
    # 12 layers of 7,087,872, 1,180,416 that make tokens of tubes, 3,137 positions and the class
    # token of 768 each, and 1,536 of the last norm. The paper's 88.9 M have the classifier of 400
    # classes, too; the library's VivitModel adds 590,592 of a pooling layer unless told not to.
    parameters=88_646_400,
    gmacs=455.2,
    paper="Arnab et al., arXiv:2103.15691",
)
"""The base size, with tubes of 16 x 16 pixels over 2 frames."""
