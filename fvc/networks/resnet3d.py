"""Three-dimensional ResNets of torchvision, with weights from Kinetics-400 or a file."""

from collections import OrderedDict
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.video import R3D_18_Weights, r3d_18

from fvc.config import ModelConfig
from fvc.errors import FvcError
from fvc.networks.inception import InceptionBlock

KINETICS = R3D_18_Weights.KINETICS400_V1
FEATURES = 512
NAMES_SHOWN = 3


def r3d_18_features(model: ModelConfig) -> nn.Module:
    """R3D-18 without its pooling and its classifier, followed by the Inception block.

    Gives (N, head_channels, T / 8, H / 16, W / 16), rounded up.

    Raises:
        FvcError: The weights that `model.pretrained` names cannot be had, or
            belong to another network.

    Source:
        Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action
        Recognition", arXiv:1711.11248.
    """
    weights = None if model.pretrained == "none" else _pretrained_weights(model.pretrained)
    layers = OrderedDict(r3d_18(weights=None).named_children())
    del layers["avgpool"], layers["fc"]
    backbone = nn.Sequential(layers)
    if weights is not None:
        _load_backbone(backbone, weights, model.pretrained)
    head = InceptionBlock(FEATURES, model.head_channels)
    return nn.Sequential(OrderedDict(backbone=backbone, head=head))


def _pretrained_weights(pretrained: str) -> Mapping[str, Tensor]:
    return _kinetics_weights() if pretrained == "kinetics400" else _read_weights(Path(pretrained))


def _load_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], pretrained: str) -> None:
    given = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    problem = _difference(backbone.state_dict(), given)
    if problem:
        remedy = "Give weights of torchvision's r3d_18, or set model.pretrained to none"
        raise FvcError(f"model.pretrained: {pretrained}", problem, remedy)
    backbone.load_state_dict(given)


def kinetics_path() -> Path:
    """The file where torchvision keeps, and looks for, the Kinetics-400 weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(KINETICS.url).name


def _kinetics_weights() -> Mapping[str, Tensor]:
    target = kinetics_path()
    if target.is_file():
        return _read_weights(target)
    try:
        return KINETICS.get_state_dict(progress=True, check_hash=True, weights_only=True)
    # RuntimeError: what arrived does not have the hash that its name states.
    except (OSError, HTTPException, RuntimeError) as error:
        cause = f"cannot be downloaded from {KINETICS.url} ({error})"
        remedy = (
            f"Put {target.name} there by hand, name another copy with 'model.pretrained: <path>', "
            "or start from random weights with 'model.pretrained: none'"
        )
        raise FvcError(target, cause, remedy) from error


def _read_weights(source: Path) -> Mapping[str, Tensor]:
    if not source.is_file():
        remedy = "Set model.pretrained to kinetics400, none, or the path of a weights file"
        raise FvcError(source, "is missing", remedy)
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        cause = f"is no file of weights ({type(error).__name__})"
        raise FvcError(source, cause, "Fetch it again, or name another file") from error
    if not isinstance(weights, Mapping):
        cause = f"holds a {type(weights).__name__}, no weights by name"
        raise FvcError(source, cause, "Save the network's state_dict() there")
    return weights


def _difference(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    shared = wanted.keys() & given.keys()
    problems = {
        "lacks": wanted.keys() - given.keys(),
        "has unknown": given.keys() - wanted.keys(),
        "has other shapes of": {key for key in shared if wanted[key].shape != given[key].shape},
    }
    return " and ".join(f"{what} {_listed(names)}" for what, names in problems.items() if names)


def _listed(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
