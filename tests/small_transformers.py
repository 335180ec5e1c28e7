"""The networks of the package `transformers`, with little in each layer."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from settings import clips_config, model_config
from torch import Tensor, nn

from fvc.config import ModelConfig
from fvc.networks import ARCHITECTURES, ClipClassifier, timesformer, videomae, vivit
from fvc.networks.transformers_video import Family, library_weights, quiet_library

FAMILIES: Mapping[str, tuple[Any, Family]] = {
    "timesformer": (timesformer.TimeSformer, timesformer.BASE),
    "videomae_s": (videomae.VideoMAE, videomae.SMALL),
    "vivit_b": (vivit.ViViT, vivit.BASE),
}
NAMES = [*FAMILIES, "videomae_b"]
SMALL = {
    **{"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2},
    "num_hidden_layers": 4,
}
CLIPS = clips_config(1, 8, 64)


def small(name: str, **changes: Any) -> Family:
    """A family with little in each layer, published for 8 frames of 64 pixels."""
    _, family = FAMILIES[name]
    settings = {**family.settings, **SMALL, **changes}
    return replace(family, settings=settings, num_frames=8, side_px=64)


def config(name: str, pretrained: str | Path = "none") -> ModelConfig:
    return replace(model_config(str(pretrained)), network=name, head="linear", dropout=0.0)


def take_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the small networks built in place of the whole ones."""
    for name, (backbone, _) in FAMILIES.items():
        family = small(name)
        changed = replace(
            ARCHITECTURES[name],
            build=partial(backbone, family),
            channels=SMALL["hidden_size"],
            weights=library_weights(family),
        )
        monkeypatch.setitem(ARCHITECTURES, name, changed)


def library_network(name: str, num_frames: int = 8, side_px: int = 64, **changes: Any) -> Any:
    """The library's own, with a classifier, and weights that leave no layer out."""
    family = small(name, **changes)
    with quiet_library() as library:
        configuration, network = family.classes(library)
        made = network(
            configuration(
                **family.settings, num_frames=num_frames, image_size=side_px, num_labels=5
            )
        )
    for value in made.parameters():
        nn.init.normal_(value, std=0.2)
    return made.eval()


def saved(made: Any, folder: Path) -> Path:
    with quiet_library():
        made.save_pretrained(folder)
    return folder


def backbone_of(network: ClipClassifier) -> Any:
    return network.features.get_submodule("backbone")


def normal_clips(num_frames: int = 8, side_px: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, num_frames, side_px, side_px, generator=generator)


@torch.no_grad()
def library_average(made: Any, clips: Tensor) -> Tensor:
    """The mean of the library's last normalised tokens without that of the class."""
    tokens = made.base_model(clips.transpose(1, 2)).last_hidden_state
    if made.base_model.layernorm is None:
        return made.fc_norm(tokens.mean(1))
    return tokens[:, 1:].mean(1)
