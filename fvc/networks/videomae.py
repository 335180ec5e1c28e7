"""VideoMAE's encoder, small and base: a plain transformer over tubes, trained by masking first."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.networks.architecture import Architecture
from fvc.networks.transformers_video import (
    PATCH_PX,
    Family,
    Grid,
    library_architecture,
    library_model,
    stages_of_layers,
)


class VideoMAE(nn.Module):
    """The library's encoder and the norm before its classifier, with tokens in their places.

    There is no class token: the library averages all tokens, and normalises the average. Here
    every token is normalised by the mean and deviation of that average, so that the average of
    the features is what the library classifies.
    """

    def __init__(self, family: Family, clips: ClipsConfig) -> None:
        super().__init__()
        self.grid = family.grid(clips.num_frames, clips.side_px)
        # Made for one token: the library takes seconds to compute positions for all.
        self.model: Any = library_model(family, family.frames_per_token, PATCH_PX)
        _set_size(self.model, clips, self.grid)

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Features of each tube."""
        tokens = self.model.videomae(clips.transpose(1, 2)).last_hidden_state.float()
        average = tokens.mean(1, keepdim=True)
        variance, mean = torch.var_mean(average, dim=2, correction=0, keepdim=True)
        norm = self.model.fc_norm
        tokens = (tokens - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
        return tokens.mT.unflatten(2, self.grid)


def positions(count: int, channels: int) -> Float[Tensor, "1 count channels"]:
    """Sines and cosines of each token's number, as the library has them.

    On the CPU wherever the network is built: they are no weights, so no file has them.
    """
    steps = torch.arange(channels, dtype=torch.float64, device="cpu").div(2, rounding_mode="floor")
    places = torch.arange(count, dtype=torch.float64, device="cpu")
    angles = places[:, None] / 10000 ** (2 * steps / channels)
    table = torch.empty(count, channels, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angles[:, 0::2].sin()
    table[:, 1::2] = angles[:, 1::2].cos()
    return table.float()[None]


def _set_size(model: Any, clips: ClipsConfig, grid: Grid) -> None:
    model.config.num_frames, model.config.image_size = clips.num_frames, clips.side_px
    embeddings = model.videomae.embeddings
    embeddings.patch_embeddings.image_size = (clips.side_px, clips.side_px)
    count = grid[0] * grid[1] * grid[2]
    embeddings.num_patches = embeddings.patch_embeddings.num_patches = count
    # A buffer moves with the network; the library's would be copied for every batch.
    del embeddings.position_embeddings
    table = positions(count, model.config.hidden_size)
    embeddings.register_buffer("position_embeddings", table, persistent=False)


def _classes(library: Any) -> tuple[Any, Any]:
    return library.VideoMAEConfig, library.VideoMAEForVideoClassification


def _stages(backbone: nn.Module) -> Mapping[str, nn.Module]:
    whole: Any = backbone
    base = whole.model.videomae
    return stages_of_layers(base.embeddings, base.encoder.layer, whole.model.fc_norm)


def _resize(state: Mapping[str, Tensor], given: Grid, wanted: Grid) -> Mapping[str, Tensor]:
    """Nothing is learned about positions."""
    del state, given, wanted
    return {}


def _family(channels: int, size: str, revision: str) -> Family:
    return Family(
        classes=_classes,
        settings={
            "hidden_act": "gelu",
            "hidden_size": channels,
            "intermediate_size": 4 * channels,
            "layer_norm_eps": 1e-12,
            "num_attention_heads": channels // 64,
            "num_channels": 3,
            "num_hidden_layers": 12,
            "patch_size": 16,
            "qv_bias": True,
            "tubelet_size": 2,
            "use_mean_pooling": True,
        },
        num_frames=16,
        side_px=224,
        frames_per_token=2,
        attention="sdpa",
        resize=_resize,
        hub=f"MCG-NJU/videomae-{size}-finetuned-kinetics",
        revision=revision,
    )


# Of the small one, the commit that adds model.safetensors to what the authors gave.
SMALL = _family(384, "small", "240e9734611173accbbf74cbdf4b641e4c431264")
BASE = _family(768, "base", "488eb9a0565f257b32866000305c8178965eb9f6")


def _architecture(family: Family, *, parameters: int, gmacs: float) -> Architecture:
    return library_architecture(
        VideoMAE,
        family,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        stages=_stages,
        parameters=parameters,
        gmacs=gmacs,
        paper="Tong et al., arXiv:2203.12602",
    )


VIDEOMAE_S = _architecture(SMALL, parameters=21_879_936, gmacs=57.0)
VIDEOMAE_B = _architecture(BASE, parameters=86_227_200, gmacs=180.0)
