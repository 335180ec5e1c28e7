"""Weights that others have trained: from a library's own place, or from a file."""

import re
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from fvc.config import ClipsConfig
from fvc.errors import FvcError

PUBLISHED = "published"
"""The value of `model.pretrained` for the weights that go with a network."""
NAMES_SHOWN = 3
HASH = re.compile(r"-([0-9a-f]{8,})\.")
"""The first digits of its SHA-256, as torch writes it into the name of a file."""
WRAPPED = "model_state"
"""Where a checkpoint of PySlowFast or pytorchvideo has the weights."""


def load_backbone(backbone: nn.Module, weights: Mapping[str, Tensor], pretrained: str) -> None:
    """Give a backbone its weights, every one of them.

    Args:
        backbone: Changed in place.
        weights: By its own names.
        pretrained: Where they come from, for the message.

    Raises:
        FvcError: One is missing, unknown or of another shape.
    """
    problem = _difference(backbone.state_dict(), weights)
    if problem:
        remedy = "Give weights of this network, or set model.pretrained to none"
        raise FvcError(f"model.pretrained: {pretrained}", problem, remedy)
    backbone.load_state_dict(weights)


def torchvision_weights(
    published: WeightsEnum, adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> Callable[[str, ClipsConfig], Mapping[str, Tensor]]:
    """As `downloaded_weights`, for those that torchvision offers."""
    return downloaded_weights(published.url, adapt)


def downloaded_weights(
    url: str, adapt: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
) -> Callable[[str, ClipsConfig], Mapping[str, Tensor]]:
    """What fetches the weights of a network that somebody offers as a file.

    Args:
        url: Of the file.
        adapt: From their names to the backbone's, without the classification layer.

    Returns:
        As `Architecture.weights` wants it.
    """

    def weights(pretrained: str, clips: ClipsConfig) -> Mapping[str, Tensor]:
        # Convolutions are the same for all of them.
        del clips
        source = Path(pretrained)
        if pretrained == PUBLISHED:
            source = published_path(url)
            _download(url, source)
        return adapt(read_weights(source))

    return weights


def without(*prefixes: str) -> Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]:
    """Leave out the weights whose names begin so: those of a classification layer."""

    def kept(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: value for name, value in weights.items() if not name.startswith(prefixes)}

    return kept


def published_path(url: str) -> Path:
    """The file where torch keeps, and looks for, weights that are offered at `url`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def _download(url: str, target: Path) -> None:
    """Fetch a file, unless it is there, and check it where its name ends in a hash."""
    if target.is_file():
        return
    stated = HASH.search(target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), stated and stated[1])
    # RuntimeError: what arrived does not have the hash that its name states.
    except (OSError, HTTPException, RuntimeError) as error:
        cause = f"cannot be downloaded from {url} ({error})"
        remedy = (
            f"Put {target.name} there by hand, name another copy with 'model.pretrained: <path>', "
            "or start from random weights with 'model.pretrained: none'"
        )
        raise FvcError(target, cause, remedy) from error


def read_weights(source: Path) -> Mapping[str, Tensor]:
    """Read a file of weights by name: safetensors, or what `torch.save` wrote of a state_dict.

    Of a checkpoint with more in it, the weights under `model_state`.

    Raises:
        FvcError: It is missing, or something else.
    """
    if not source.is_file():
        remedy = "Set model.pretrained to published, none, or the path of a weights file"
        raise FvcError(source, "is missing", remedy)
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        weights = torch.load(source, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        cause = f"is no file of weights ({type(error).__name__})"
        raise FvcError(source, cause, "Fetch it again, or name another file") from error
    if isinstance(weights, Mapping):
        weights = weights.get(WRAPPED, weights)
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
