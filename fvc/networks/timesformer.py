"""TimeSformer: attention over time, then over space, in every layer."""

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
POSITIONS = "timesformer.embeddings.position_embeddings"
TIMES = "timesformer.embeddings.time_embeddings"


class TimeSformer(nn.Module):
    """The library's network up to its last norm, with tokens in their places and no class token."""

    def __init__(self, family: Family, clips: ClipsConfig) -> None:
        super().__init__()
        self.grid = family.grid(clips.num_frames, clips.side_px)
        self.model: Any = library_model(family, clips.num_frames, clips.side_px)

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Features of each patch of each frame."""
        tokens = self.model.timesformer(clips.transpose(1, 2)).last_hidden_state[:, 1:]
        frames, height, width = self.grid
        # The library keeps what is in one place together.
        return tokens.unflatten(1, (height, width, frames)).permute(0, 4, 3, 1, 2)


def _classes(library: Any) -> tuple[Any, Any]:
    return library.TimesformerConfig, library.TimesformerForVideoClassification


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    whole: Any = backbone
    base = whole.model.timesformer
    return stages_of_layers(base.embeddings, base.encoder.layer, base.layernorm)


def _resize(state: Mapping[str, Tensor], given: Grid, wanted: Grid) -> Mapping[str, Tensor]:
    """To the nearest, as the library does within its network for clips of another size."""
    class_token, places = state[POSITIONS][:, :1], state[POSITIONS][:, 1:]
    pictures = places.mT.reshape(1, -1, *given[1:])
    places = interpolate(pictures, size=wanted[1:], mode="nearest").flatten(2).mT
    times = interpolate(state[TIMES].mT, size=wanted[0], mode="nearest").mT
    return {POSITIONS: torch.cat([class_token, places], dim=1), TIMES: times.contiguous()}


BASE = Family(
    classes=_classes,
    settings={
        "attention_type": "divided_space_time",
        "drop_path_rate": 0,
        "hidden_act": "gelu",
        "hidden_size": CHANNELS,
        "intermediate_size": 4 * CHANNELS,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": 12,
        "num_channels": 3,
        "num_hidden_layers": 12,
        "patch_size": 16,
        "qkv_bias": True,
    },
    num_frames=8,
    side_px=224,
    frames_per_token=1,
    attention="eager",
    resize=_resize,
    hub="facebook/timesformer-base-finetuned-k400",
    # What others pin, too; the commit may have no model.safetensors.
    revision="8aaf40ea7d3d282dcb0a5dea01a198320d15d6c0",
)

TIMESFORMER = library_architecture(
    TimeSformer,
    BASE,
    # Those of its authors' code as far as known: the preprocessor_config.json that goes with the
    # weights has not been read.
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    stages=_stages,
    # The paper rounds to 121.4 M.
    parameters=121_258_752,
    # 0.59 TFLOPs for three crops of a clip.
    gmacs=590 / 3,
    paper="Bertasius et al., arXiv:2102.05095",
)
"""The base size with divided attention."""
