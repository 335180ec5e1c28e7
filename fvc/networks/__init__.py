"""The networks that score clips: built from the configuration, saved to a folder, loaded again."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fvc.config import TAKES, ClipsConfig, ModelConfig
from fvc.errors import FvcError
from fvc.files import read_json, replacing, write_json
from fvc.networks.architecture import Added, Architecture, Stages, children
from fvc.networks.forensic import FORENSIC
from fvc.networks.frame_r18 import FRAME_R18
from fvc.networks.inception import InceptionBlock
from fvc.networks.mvit import MVIT_V2_S
from fvc.networks.padding import masked_mean, padded_features
from fvc.networks.pretrained import load_backbone
from fvc.networks.resnet3d import MC3_18, R2PLUS1D_18, R3D_18
from fvc.networks.s3d import S3D
from fvc.networks.slowfast import SLOWFAST_R50
from fvc.networks.swin3d import SWIN3D_T
from fvc.networks.timesformer import TIMESFORMER
from fvc.networks.trees import BoostedTrees
from fvc.networks.two_stream import TWO_STREAM
from fvc.networks.videomae import VIDEOMAE_B, VIDEOMAE_S
from fvc.networks.vivit import VIVIT_B

ARCHITECTURES: dict[str, Architecture] = {
    "r3d_18": R3D_18,
    "mc3_18": MC3_18,
    "r2plus1d_18": R2PLUS1D_18,
    "s3d": S3D,
    "slowfast_r50": SLOWFAST_R50,
    "mvit_v2_s": MVIT_V2_S,
    "swin3d_t": SWIN3D_T,
    "timesformer": TIMESFORMER,
    "vivit_b": VIVIT_B,
    "videomae_s": VIDEOMAE_S,
    "videomae_b": VIDEOMAE_B,
    "two_stream": TWO_STREAM,
    "frame_r18": FRAME_R18,
    "forensic": FORENSIC,
}
"""The networks that `model.network` may name."""

RGB = 3
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
        added: Gives the channels besides red, green and blue, if there are any.
        classifier: Gives the logit of the averaged features; None for a linear layer.
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
        added: Added | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.clips = clips
        self.stages = stages
        self.added = added
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.features = features
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        # As nn.Module, each of its attributes might be a tensor or a module.
        self.classifier: Any = nn.Linear(channels, 1) if classifier is None else classifier

    @property
    def is_fitted(self) -> bool:
        """Whether it was fitted as a whole, and no gradient passes through it."""
        return isinstance(self.classifier, BoostedTrees)

    def normalise(
        self, pixels: UInt8[Tensor, "N T C H W"], mask: Bool[Tensor, "N H W"] | None = None
    ) -> Float[Tensor, "N D T H W"]:
        """Turn stored RGB into what `forward` takes, by the network's own mean and deviation.

        Where the network sees more than RGB, what is not there yet is made of it.
        """
        if self.added is not None and pixels.shape[2] == RGB:
            pixels = torch.cat([pixels, self.added(pixels)], 2)
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
        """Score normalised clips of shape (N, C, T, H, W); C is 3, or more where `added` is set.

        The last layer is computed in float32 even under autocast: bfloat16
        would leave logits with three decimal digits.

        Args:
            clips: What `normalise` gave.
            mask: As `normalise` took it; None where no clip is padded.

        Raises:
            ValueError: The clips are of another shape, or not floating point.
        """
        self._check(clips)
        # Measured features know by themselves where a picture ends.
        if mask is None or self.is_fitted:
            pooled = self.pool(self.features(clips)).flatten(1)
        else:
            pooled = masked_mean(*padded_features(self.features, clips, mask))
        with torch.autocast(clips.device.type, enabled=False):
            return self.classifier(self.dropout(pooled.float()))

    def _check(self, clips: Tensor) -> None:
        frames, side_px, channels = self.clips.num_frames, self.clips.side_px, len(self.mean)
        square = self.clips.fit == "letterbox"
        sides = clips.shape[3:]
        # Of native clips, padded or not, the longer edge is the same.
        fits = len(sides) == 2 and max(sides) == side_px and (not square or min(sides) == side_px)
        if not (fits and clips.shape[1:3] == (channels, frames) and clips.is_floating_point()):
            edges = f"{side_px}, {side_px}" if square else f"H, W with max(H, W) = {side_px}"
            given = f"{tuple(clips.shape)} of {clips.dtype}"
            raise ValueError(
                f"clips are {given}, not (N, {channels}, {frames}, {edges}) of floating point"
            )


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
    classifier = architecture.classifier
    if classifier is not None and model.head != "linear":
        cause = f"is fitted without gradients, and head {model.head} would never train"
        raise FvcError(f"network {model.network}", cause, "Set model.head to linear")
    return ClipClassifier(
        build_features(model, clips),
        channels=model.head_channels if model.head == "inception" else architecture.channels,
        dropout=model.dropout,
        clips=clips,
        mean=architecture.mean,
        std=architecture.std,
        stages=architecture.stages,
        added=architecture.added,
        classifier=None if classifier is None else classifier(architecture.channels),
    )


def is_fitted(model: ModelConfig) -> bool:
    """Whether it is fitted as a whole, in rounds of boosting, instead of trained by gradients."""
    return ARCHITECTURES[model.network].classifier is not None


def build_features(model: ModelConfig, clips: ClipsConfig) -> nn.Module:
    """The `backbone` of a network, and the `head` that follows it unless that is linear.

    Raises:
        FvcError: The weights that `model.pretrained` names cannot be had, or are of another.
    """
    architecture = ARCHITECTURES[model.network]
    # Fetched first: what cannot be had costs no time.
    named = model.pretrained
    weights = None if named == "none" else architecture.weights(named, clips)
    parts = OrderedDict(backbone=architecture.build(clips))
    if weights is not None:
        load_backbone(parts["backbone"], weights, named)
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
        # Copied: where a tensor begins in the file would decide how its sums are rounded.
        weights = {name: value.clone() for name, value in load_file(source).items()}
        network.load_state_dict(weights, assign=True)
    except FileNotFoundError:
        raise FvcError(source, "is missing", "Run 'dvc repro train'") from None
    # RuntimeError: names or shapes are not those of the network.
    except (SafetensorError, RuntimeError) as error:
        cause = f"holds no weights of this network ({' '.join(str(error).split())[:200]})"
        raise FvcError(source, cause, "Run 'dvc repro train'") from error
    return network.eval()
