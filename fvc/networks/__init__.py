"""The networks that score clips: built from the configuration, saved to a folder, loaded again."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fvc.config import ClipsConfig, ModelConfig
from fvc.errors import FvcError
from fvc.files import read_json, replacing, write_json
from fvc.networks.padding import masked_mean, padded_features
from fvc.networks.resnet3d import KINETICS, r3d_18_features

FEATURES: dict[str, Callable[[ModelConfig], nn.Module]] = {"r3d_18": r3d_18_features}
"""What computes the features of each network that `model.network` may name."""

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
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, features: nn.Module, *, channels: int, dropout: float, clips: ClipsConfig
    ) -> None:
        super().__init__()
        self.clips = clips
        preset = KINETICS.transforms()
        self.register_buffer("mean", torch.tensor(preset.mean))
        self.register_buffer("std", torch.tensor(preset.std))
        self.features = features
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, 1)

    def normalise(
        self, pixels: UInt8[Tensor, "N T C H W"], mask: Bool[Tensor, "N H W"] | None = None
    ) -> Float[Tensor, "N C T H W"]:
        """Turn stored RGB into what `forward` takes, by the Kinetics-400 mean and deviation."""
        mean, std = (values[:, None, None, None] for values in (self.mean, self.std))
        clips = (pixels.movedim(1, 2).contiguous() / 255 - mean) / std
        return clips if mask is None else clips.masked_fill(~mask[:, None, None], 0)

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
        FvcError: The weights that `model.pretrained` names cannot be had.
    """
    features = FEATURES[model.network](model)
    return ClipClassifier(
        features, channels=model.head_channels, dropout=model.dropout, clips=clips
    )


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
