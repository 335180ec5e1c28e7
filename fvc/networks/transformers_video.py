"""What the video transformers of the package `transformers` share, which is imported late."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.networks.architecture import Architecture, Published, Stages
from fvc.networks.pretrained import PUBLISHED, read_weights

PATCH_PX = 16
"""Height and width of what becomes one token, in all of them."""
LAYERS_PER_STAGE = 3
CLASSIFIER = ("classifier.weight", "classifier.bias")
"""The classification layer, which is left out."""

Grid = tuple[int, int, int]
"""Tokens over time, height and width."""
Resize = Callable[[Mapping[str, Tensor], Grid, Grid], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One network of the library."""

    classes: Callable[[Any], tuple[Any, Any]]
    """Picks configuration and classifier out of the library."""
    settings: Mapping[str, Any]
    """What its configuration says, but for the size of a clip: weights of others are refused."""
    num_frames: int
    """Of the clips that the published weights are for."""
    side_px: int
    """Of the clips that the published weights are for."""
    frames_per_token: int
    attention: str
    """How the library computes it: `sdpa` keeps no matrix of all pairs of tokens, where it can."""
    resize: Resize
    """Fits position embeddings by the library's names, learned for one grid, to another."""
    hub: str
    """Where the published weights lie on huggingface.co."""
    revision: str
    """The commit of them."""

    def grid(self, num_frames: int, side_px: int) -> Grid:
        """The tokens of a clip."""
        return num_frames // self.frames_per_token, side_px // PATCH_PX, side_px // PATCH_PX


@contextmanager
def quiet_library() -> Iterator[Any]:
    """The library, which for the length of the block shows no progress and logs errors alone.

    Left to itself, it leaves filters of warnings behind, and logs to stderr.
    """
    with warnings.catch_warnings():
        import transformers

        bars: Any = transformers.utils.logging
        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield transformers
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if shown:
                bars.enable_progress_bar()


def library_model(family: Family, num_frames: int, side_px: int) -> Any:
    """The library's network with nothing in the place of its classifier, and random weights."""
    with quiet_library() as library:
        configuration, network = family.classes(library)
        return network(
            configuration(
                **family.settings,
                num_frames=num_frames,
                image_size=side_px,
                num_labels=0,
                attn_implementation=family.attention,
            )
        )


def stages_of_layers(
    embeddings: nn.Module, layers: nn.ModuleList, norm: nn.Module
) -> Mapping[str, nn.Module]:
    """The embeddings, then a few layers each; the last with the norm that follows it."""
    stages = {"embeddings": embeddings}
    for start in range(0, len(layers), LAYERS_PER_STAGE):
        part = [*layers[start : start + LAYERS_PER_STAGE]]
        if start + LAYERS_PER_STAGE >= len(layers):
            part.append(norm)
        stages[f"layers{len(stages)}"] = nn.ModuleList(part)
    return stages


def library_weights(family: Family) -> Callable[[str, ClipsConfig], Mapping[str, Tensor]]:
    """What fetches weights for a backbone that holds its `library_model` as `model`.

    A folder has the library's config.json and model.safetensors; a file of weights must be of the
    published size. No pickle is read.

    Returns:
        As `Architecture.weights` wants it.
    """
    return partial(_weights, family)


def library_architecture(
    build: Callable[[Family, ClipsConfig], nn.Module],
    family: Family,
    *,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    stages: Stages,
    parameters: int,
    gmacs: float,
    paper: str,
) -> Architecture:
    """A backbone that holds a family's `library_model` as `model`.

    Args:
        build: Makes the backbone, with random weights.
        family: Which network it is; parameters and multiply-adds are of clips of its size.
        mean: As in `Architecture`.
        std: As in `Architecture`.
        stages: As in `Architecture`.
        parameters: As in `Published`.
        gmacs: As in `Published`.
        paper: Its authors and number.
    """
    return Architecture(
        build=partial(build, family),
        channels=family.settings["hidden_size"],
        mean=mean,
        std=std,
        stages=stages,
        weights=library_weights(family),
        published=Published(
            parameters=parameters,
            gmacs=gmacs,
            num_frames=family.num_frames,
            side_px=family.side_px,
            source=f"transformers; {paper}",
        ),
        requirements=("transformers",),
    )


def published_folder(family: Family) -> Path:
    """Where published weights are looked for before they are downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / family.hub.replace("/", "--")


def _weights(family: Family, pretrained: str, clips: ClipsConfig) -> Mapping[str, Tensor]:
    with quiet_library() as library:
        if pretrained == PUBLISHED:
            model, info = _published(family, library)
        elif Path(pretrained).is_dir():
            model, info = _in_folder(family, library, Path(pretrained))
        else:
            model, info = _in_file(family, library, Path(pretrained))
    _require_all(info, pretrained)
    state = {name: value for name, value in model.state_dict().items() if name not in CLASSIFIER}
    given = family.grid(model.config.num_frames, model.config.image_size)
    state |= family.resize(state, given, family.grid(clips.num_frames, clips.side_px))
    return {f"model.{name}": value for name, value in state.items()}


def _published(family: Family, library: Any) -> tuple[Any, Mapping[str, Any]]:
    folder = published_folder(family)
    if folder.is_dir():
        return _in_folder(family, library, folder)
    try:
        return _loaded(family, library, family.hub, revision=family.revision)
    except (OSError, SafetensorError) as error:
        reason = _one_line(error).split(". ")[0]
        cause = f"cannot be had from {family.hub} at {family.revision} ({reason})"
        remedy = (
            f"Put model.safetensors and config.json of {family.hub} there by hand, name another "
            "folder of them with 'model.pretrained: <path>', or start from random weights with "
            "'model.pretrained: none'"
        )
        raise FvcError(folder / "model.safetensors", cause, remedy) from error


def _in_folder(family: Family, library: Any, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    # The library would look for other files, and then say that a hub is out of reach.
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            remedy = "Put config.json and model.safetensors of the network into the folder"
            raise FvcError(folder / name, "is missing", remedy)
    try:
        return _loaded(family, library, str(folder), local_files_only=True)
    except (OSError, SafetensorError) as error:
        cause = f"holds no weights ({_one_line(error)})"
        raise FvcError(folder, cause, "Fetch them again, or name another folder") from error


def _in_file(family: Family, library: Any, source: Path) -> tuple[Any, Mapping[str, Any]]:
    if source.suffix != ".safetensors" and source.is_file():
        cause = f"is a file {source.suffix}, and of this network only .safetensors are read"
        raise FvcError(source, cause, "Convert it, or name a folder with a model.safetensors")
    weights = dict(read_weights(source))
    configuration, network = family.classes(library)
    config = configuration(
        **family.settings,
        num_frames=family.num_frames,
        image_size=family.side_px,
        num_labels=len(weights.get("classifier.weight", ())),
    )
    return network.from_pretrained(None, config=config, state_dict=weights, **HOW)


HOW: Mapping[str, Any] = {
    "use_safetensors": True,
    "dtype": torch.float32,
    "output_loading_info": True,
    # To be told of them all, in `_require_all`.
    "ignore_mismatched_sizes": True,
}


def _loaded(family: Family, library: Any, source: str, **where: Any) -> tuple[Any, Any]:
    configuration, network = family.classes(library)
    config = configuration.from_pretrained(source, **where)
    _require_same(config, configuration(**family.settings), family.settings, source)
    return network.from_pretrained(source, config=config, **where, **HOW)


def _require_same(given: Any, own: Any, settings: Mapping[str, Any], source: str) -> None:
    """Refuse a network of another size, whose weights may even fit."""
    pairs = {name: (_plain(getattr(given, name)), _plain(getattr(own, name))) for name in settings}
    others = [f"{name} is {is_}, not {not_}" for name, (is_, not_) in pairs.items() if is_ != not_]
    # The library takes two sides, too.
    if not isinstance(given.image_size, int):
        others.append(f"image_size is {given.image_size}, not one number")
    if others:
        remedy = "Give weights of this network, or set model.pretrained to none"
        raise FvcError(f"{source}/config.json", f"is of another network: {others[0]}", remedy)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _require_all(info: Mapping[str, Any], pretrained: str) -> None:
    problems = {
        "lacks": set(info["missing_keys"]) - {*CLASSIFIER},
        "has unknown": set(info["unexpected_keys"]),
        "has other shapes of": {each[0] for each in info["mismatched_keys"]} - {*CLASSIFIER},
    }
    found = [f"{what} {min(names)}" for what, names in problems.items() if names]
    if found or info.get("error_msgs"):
        cause = " and ".join(found) or _one_line(info["error_msgs"])
        remedy = "Give weights of this network, or set model.pretrained to none"
        raise FvcError(f"model.pretrained: {pretrained}", cause, remedy)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
