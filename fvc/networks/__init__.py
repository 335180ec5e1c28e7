"""The networks that score clips: built from the configuration, saved to a folder, loaded again."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fvc.config import TAKES, ClipsConfig, ModelConfig
from fvc.errors import FvcError
from fvc.files import read_json, replacing, write_json
from fvc.networks.architecture import Architecture, Stages, children
from fvc.networks.inception import InceptionBlock
from fvc.networks.padding import masked_mean, padded_features
from fvc.networks.pretrained import load_backbone
from fvc.networks.resnet3d import R3D_18

ARCHITECTURES: dict[str, Architecture] = {"r3d_18": R3D_18}
"""The networks that `model.network` may name."""

WEIGHTS = "weights.safetensors"
DESCRIPTION = "network.json"


class ClipClassifier(nn.Module):
    """Features of a clip, averaged over time and space, to one logit; positive means fake.

    Clips of several sizes go together when they are padded, at the bottom and
    right, to the size of the largest, with a mask that says which pixels are
    theirs. In evaluation each then has the logit that it has alone; in
    training, batch normalisation sees the padding, too.

    Args:
        features: Gives (N, channels, t, h, w) for clips (N, 3, T, H, W).
        channels: Of the features.
        dropout: Share of the averaged features dropped in training.
        clips: The geometry of the clips that the network is made for.
        mean: Subtracted from red, green and blue in [0, 1].
        std: What the rest is divided by.
        stages: Gives the parts of `features.backbone` that are frozen and freed as one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        *,
        channels: int,
        dropout: float,
        clips: ClipsConfig,
        mean: Sequence[float] = R3D_18.mean,
        std: Sequence[float] = R3D_18.std,
        stages: Stages = children,
    ) -> None:
        super().__init__()
        self.clips = clips
        self.stages = stages
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.features = features
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, 1)

    def normalise(
        self, pixels: UInt8[Tensor, "N T C H W"], mask: Bool[Tensor, "N H W"] | None = None
    ) -> Float[Tensor, "N C T H W"]:
        """Turn stored RGB into what `forward` takes, by the network's own mean and deviation."""
        mean, std = (values[:, None, None, None] for values in (self.mean, self.std))
        clips = (pixels.movedim(1, 2).contiguous() / 255 - mean) / std
        return clips if mask is None else clips.masked_fill(~mask[:, None, None], 0)

    @property
    def device(self) -> torch.device:
        """Where it scores."""
        return self.mean.device

    def score(self, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N 1"]:
        """The logits of stored RGB clips, on the device that holds the network."""
        return self(self.normalise(pixels))

    def forward(
        self, clips: Tensor, mask: Bool[Tensor, "N H W"] | None = None
    ) -> Float[Tensor, "N 1"]:
        """Score normalised clips of shape (N, 3, T, H, W).

        The last layer is computed in float32 even under autocast: bfloat16
        would leave logits with three decimal digits.

        Args:
            clips: What `normalise` gave.
            mask: As `normalise` took it; None where no clip is padded.

        Raises:
            ValueError: The clips are of another shape, or not floating point.
        """
        self._check(clips)
        if mask is None:
            pooled = self.pool(self.features(clips)).flatten(1)
        else:
            pooled = masked_mean(*padded_features(self.features, clips, mask))
        with torch.autocast(clips.device.type, enabled=False):
            return self.classifier(self.dropout(pooled.float()))

    def _check(self, clips: Tensor) -> None:
        frames, side_px = self.clips.num_frames, self.clips.side_px
        square = self.clips.fit == "letterbox"
        sides = clips.shape[3:]
        # Of native clips, padded or not, the longer edge is the same.
        fits = len(sides) == 2 and max(sides) == side_px and (not square or min(sides) == side_px)
        if not (fits and clips.shape[1:3] == (3, frames) and clips.is_floating_point()):
            edges = f"{side_px}, {side_px}" if square else f"H, W with max(H, W) = {side_px}"
            given = f"{tuple(clips.shape)} of {clips.dtype}"
            raise ValueError(f"clips are {given}, not (N, 3, {frames}, {edges}) of floating point")


def build_network(model: ModelConfig, clips: ClipsConfig) -> ClipClassifier:
    """Build a network; new layers take their weights from torch's global random state.

    Raises:
        FvcError: The network cannot take such clips, or the weights that
            `model.pretrained` names cannot be had, or belong to another one.
    """
    refusal = TAKES[model.network].refusal(clips)
    if refusal:
        remedy = "Change it, or take another network"
        raise FvcError(f"network {model.network}", f"cannot take clips.{refusal}", remedy)
    architecture = ARCHITECTURES[model.network]
    return ClipClassifier(
        build_features(model, clips),
        channels=model.head_channels if model.head == "inception" else architecture.channels,
        dropout=model.dropout,
        clips=clips,
        mean=architecture.mean,
        std=architecture.std,
        stages=architecture.stages,
    )


def build_features(model: ModelConfig, clips: ClipsConfig) -> nn.Module:
    """The `backbone` of a network, and the `head` that follows it unless that is linear.

    Raises:
        FvcError: The weights that `model.pretrained` names cannot be had, or are of another.
    """
    architecture = ARCHITECTURES[model.network]
    # Fetched first: what cannot be had costs no time.
    weights = None if model.pretrained == "none" else architecture.weights(model.pretrained)
    parts = OrderedDict(backbone=architecture.build(clips))
    if weights is not None:
        load_backbone(parts["backbone"], weights, model.pretrained)
    if model.head == "inception":
        parts["head"] = InceptionBlock(architecture.channels, model.head_channels)
    return nn.Sequential(parts)


def save_network(
    network: ClipClassifier, folder: Path, model: ModelConfig, clips: ClipsConfig
) -> None:
    """Write `weights.safetensors` and `network.json`; equal networks give equal bytes."""
    weights = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        save_file(dict(sorted(weights.items())), partial)
    write_json(folder / DESCRIPTION, {"clips": asdict(clips), "model": asdict(model)})


def read_description(folder: Path) -> tuple[ModelConfig, ClipsConfig]:
    """Read what network lies in `folder`, and for which clips.

    Raises:
        FvcError: The file is missing or describes no network of this version.
    """
    source = folder / DESCRIPTION
    content = read_json(source, "train")
    try:
        return ModelConfig(**content["model"]), ClipsConfig(**content["clips"])
    except (KeyError, TypeError, ValueError) as error:
        raise FvcError(
            source, f"describes no network ({error})", "Run 'dvc repro train'"
        ) from error


def load_network(folder: Path) -> ClipClassifier:
    """Load what `save_network` wrote, ready for scoring, without drawing random numbers.

    Pretrained weights are not fetched again: the trained ones replace them.

    Raises:
        FvcError: A file is missing, damaged, or of another network.
    """
    model, clips = read_description(folder)
    with torch.device("meta"):
        network = build_network(replace(model, pretrained="none"), clips)
    source = folder / WEIGHTS
    try:
        network.load_state_dict(load_file(source), assign=True)
    except FileNotFoundError:
        raise FvcError(source, "is missing", "Run 'dvc repro train'") from None
    # RuntimeError: names or shapes are not those of the network.
    except (SafetensorError, RuntimeError) as error:
        cause = f"holds no weights of this network ({' '.join(str(error).split())[:200]})"
        raise FvcError(source, cause, "Run 'dvc repro train'") from error
    return network.eval()
