"""`params.yaml` as frozen dataclasses without defaults; unknown and missing keys are refused."""

import json
from dataclasses import dataclass
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
from fvc.config.section import Section, require
from fvc.config.training import (
    EngineConfig,
    EvaluateConfig,
    Imbalance,
    LoaderConfig,
    ModelConfig,
    ServingConfig,
    TrainConfig,
)
from fvc.errors import FvcError

__all__ = [
    "AffineConfig",
    "AugmentConfig",
    "BlurConfig",
    "Chance",
    "ClipsConfig",
    "ColourConfig",
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
    "TrainConfig",
    "check_params",
    "load_params",
]


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


def load_params(source: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        FvcError: It is missing, no YAML, or a key is unknown, missing or out
            of range; the first such key is named.
    """
    remedy = "Mend it, or restore it with 'git checkout params.yaml'"
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "Run from the repository root, or name it with --params"
        raise FvcError(source, "is missing", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = f"is no valid YAML ({' '.join(str(error).split())})"
        raise FvcError(source, cause, remedy) from error
    except OSError as error:
        raise FvcError(source, f"cannot be read ({error.strerror})", remedy) from error
    return check_params(content, source)


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
