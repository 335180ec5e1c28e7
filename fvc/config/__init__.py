"""`params.yaml` as frozen dataclasses without defaults; unknown and missing keys are refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from fvc.config.augmentation import (
    AffineConfig,
    AugmentConfig,
    BlurConfig,
    Chance,
    ColourConfig,
    DownscaleConfig,
    ElasticConfig,
    NoiseConfig,
    OverlayConfig,
    RecompressionConfig,
    RotationConfig,
    ShareConfig,
)
from fvc.config.data import ClipsConfig, ExtractConfig, IndexConfig, SplitConfig
from fvc.config.networks import TAKES, Takes
from fvc.config.section import Section, require
from fvc.config.serving import ServingConfig
from fvc.config.training import (
    Criterion,
    EngineConfig,
    EvaluateConfig,
    Imbalance,
    LoaderConfig,
    ModelConfig,
    TrainConfig,
)
from fvc.errors import FvcError

__all__ = [
    "TAKES",
    "AffineConfig",
    "AugmentConfig",
    "BlurConfig",
    "Chance",
    "ClipsConfig",
    "ColourConfig",
    "Criterion",
    "DownscaleConfig",
    "ElasticConfig",
    "EngineConfig",
    "EvaluateConfig",
    "ExtractConfig",
    "Imbalance",
    "IndexConfig",
    "LoaderConfig",
    "ModelConfig",
    "NoiseConfig",
    "OverlayConfig",
    "Params",
    "RecompressionConfig",
    "RotationConfig",
    "ServingConfig",
    "ShareConfig",
    "SplitConfig",
    "Takes",
    "TrainConfig",
    "as_overrides",
    "check_params",
    "differences",
    "flat",
    "load_params",
]

AS_WRITTEN = "params.yaml"
"""The value that stands for what the file has: `mlflow run` cannot leave a parameter out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Params(Section):
    """The whole of `params.yaml`."""

    seed: int
    extract: ExtractConfig
    index: IndexConfig
    split: SplitConfig
    clips: ClipsConfig
    augment: AugmentConfig
    model: ModelConfig
    train: TrainConfig
    loader: LoaderConfig
    engine: EngineConfig
    evaluate: EvaluateConfig
    serving: ServingConfig

    def __post_init__(self) -> None:
        stays = self.augment.mode == "stored" or self.loader.cache != "device"
        require(stays, "loader.cache device needs augment.mode stored: the CPU makes the versions")
        takes, name = TAKES[self.model.network], self.model.network
        refusal = takes.refusal(self.clips)
        require(not refusal, f"network {name} cannot take clips.{refusal}")
        plain = self.model.head == "linear" and self.model.pretrained == "none"
        remedy = "set model.head to linear and model.pretrained to none"
        require(plain or not takes.fitted, f"{name} is fitted without gradients: {remedy}")


def load_params(source: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check `params.yaml`, and make changes to it.

    Args:
        source: The file.
        overrides: As `--set` takes them: `section.key=value`, the value as
            YAML has it, or `params.yaml` for what the file has. The last one
            of a key counts.

    Raises:
        FvcError: It is missing, no YAML, or a key is unknown, missing or out
            of range, of the file or of an override; the first one is named.
    """
    content = _read(source)
    params = check_params(content, source)
    changes = dict(_split(override) for override in overrides)
    for name, value in changes.items():
        _override(content, name, value)
    said = f"{source} with {' '.join(f'{name}={value}' for name, value in changes.items())}"
    return check_params(content, said) if changes else params


def _read(source: Path) -> Any:
    remedy = "Mend it, or restore it with 'git checkout params.yaml'"
    try:
        return yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "Run from the repository root, or name it with --params"
        raise FvcError(source, "is missing", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = f"is no valid YAML ({' '.join(str(error).split())})"
        raise FvcError(source, cause, remedy) from error
    except OSError as error:
        raise FvcError(source, f"cannot be read ({error.strerror})", remedy) from error


def _split(override: str) -> tuple[str, str]:
    name, equals, value = override.partition("=")
    if not equals:
        raise FvcError(f"--set {override}", "has no value", "Write --set section.key=value")
    return name, value


def _override(content: dict[str, Any], name: str, value: str) -> None:
    """Change one key, which a checked file has.

    Raises:
        FvcError: There is no such key, or the value is no YAML.
    """
    *sections, key = name.split(".")
    place: Any = content
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or key not in place:
        close = get_close_matches(name, flat(content), n=1)
        remedy = f"Did you mean {close[0]}" if close else "Name a key of params.yaml"
        raise FvcError(f"--set {name}", "there is no such parameter", remedy)
    if value == AS_WRITTEN:
        return
    try:
        place[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        cause = f"'{value}' is no valid YAML ({' '.join(str(error).split())})"
        raise FvcError(f"--set {name}", cause, "Quote it as a value of params.yaml") from error


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names, `augment.flip.probability`; what is a tuple becomes a list."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": deep for inner, deep in flat(value).items()}
        else:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


def differences(params: Params, others: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, by dotted name, that the content of another params file has not, or not so."""
    known = flat(others)
    return {
        name: value
        for name, value in flat(asdict(params)).items()
        if name not in known or known[name] != value
    }


def as_overrides(settings: Mapping[str, Any]) -> str:
    """Settings on one line, as `--set` and `dvc exp run -S` take them."""
    dumped = {
        name: yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]
        for name, value in settings.items()
    }
    return " ".join(f"{name}={text.replace(', ', ',')}" for name, text in dumped.items())


def check_params(content: Any, source: Path | str) -> Params:
    """Turn the mapping of a params file into `Params`; `source` is named in errors.

    Raises:
        FvcError: A key is unknown, missing or out of range; the first is named.
    """
    # Imported here: the machines that only train have no pydantic.
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, where strict checking takes a list for a tuple; YAML's dates become texts.
        return TypeAdapter(Params).validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        if isinstance(first["input"], str):
            message += f", not the text '{first['input']}'"
            message += " (write 1.0e-3, not 1e-3)" if first["type"] == "float_type" else ""
        more = f"; {error.error_count() - 1} more" if error.error_count() > 1 else ""
        cause = f"{key}: {message[:1].lower()}{message[1:]}{more}"
        raise FvcError(source, cause, "Mend it as the files in conf/ have it") from error
