"""`params.yaml` as frozen dataclasses without defaults; unknown and missing keys are refused."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from fvc.errors import FvcError


class Section:
    """A part of `params.yaml`: its fields are all there is, and no text is taken for a number."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }


SHARES = ("max_share", "scale", "brightness", "contrast", "saturation", "hue", "translation")
"""Ranges of augmentation that would leave nothing, or black, at 1."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig(Section):
    """What an archive may hold before it is refused as a bomb."""

    max_total_gib: float
    """Largest sum of the unpacked sizes of all archives, in GiB."""
    max_ratio: float
    """Largest unpacked size of an archive over its packed size."""
    max_members: int
    """Most files and folders that one archive may list."""

    def __post_init__(self) -> None:
        _require(self.max_total_gib > 0, f"max_total_gib is {self.max_total_gib}, not above 0")
        _require(self.max_ratio >= 1, f"max_ratio is {self.max_ratio}, below 1")
        _require(self.max_members >= 1, f"max_members is {self.max_members}, below 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig(Section):
    """Which videos are usable, and how they are described."""

    min_frames: int
    """A video with fewer frames is rejected as too short."""
    timeout_s: float
    """A video that takes longer to probe is rejected."""
    max_memory_mib: int
    """A video whose decoding allocates more is rejected, in MiB."""
    fingerprint_fps: float
    """Frames per second of video time that enter its fingerprint."""
    fingerprint_max_frames: int
    """A longer video is fingerprinted at a lower rate."""
    fingerprint_distance: int
    """Two frames match when at most so many of their 256 fingerprint bits differ; how this
    and the share were chosen is in docs/protocol.md."""
    fingerprint_share: float
    """Two videos match when at least this share of the shorter one's frames matches."""

    def __post_init__(self) -> None:
        _require(self.min_frames >= 1, f"min_frames is {self.min_frames}, below 1")
        _require(self.timeout_s > 0, f"timeout_s is {self.timeout_s}, not above 0")
        _require(self.max_memory_mib >= 64, f"max_memory_mib is {self.max_memory_mib}, below 64")
        _require(self.fingerprint_fps > 0, f"fingerprint_fps is {self.fingerprint_fps}")
        _require(self.fingerprint_max_frames >= 1, "fingerprint_max_frames is below 1")
        _require(0 <= self.fingerprint_distance <= 256, "fingerprint_distance is not in 0..256")
        _require(0 < self.fingerprint_share <= 1, "fingerprint_share is not in (0, 1]")


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Section):
    """How groups of near-duplicates are divided into training, validation and test."""

    scheme: Literal["kfold", "single"]
    """`kfold`: each video outside the locked test is tested by one of the folds. `single`:
    one division, in which one part is tested and what trained on or validated never is."""
    folds: tuple[int, ...]
    """0, 1, ..., K-1; 0 alone for `single`."""
    locked_share: float
    """Share of the groups that is set aside as the locked test."""
    test_share: float
    """Share of the videos outside the locked test that `single` tests; not read by `kfold`."""
    validation_share: float
    """Share of a fold's training videos that only chooses: epoch, threshold, temperature."""

    def __post_init__(self) -> None:
        single = self.scheme == "single"
        wanted = "[0], as scheme single needs" if single else "[0, 1, ...] with at least two folds"
        enough = len(self.folds) == 1 if single else len(self.folds) >= 2
        _require(
            enough and self.folds == tuple(range(len(self.folds))),
            f"folds is {list(self.folds)}, not {wanted}",
        )
        for name in ("locked_share", "test_share", "validation_share"):
            value = getattr(self, name)
            _require(0 < value < 0.5, f"{name} is {value}, not between 0 and 0.5")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipsConfig(Section):
    """How a video becomes clips."""

    num_clips: int
    """Clips taken from one video (N): it is divided into as many equal spans of time."""
    num_frames: int
    """Frames in one clip (T), evenly spaced over its span."""
    side_px: int
    """Height and width of a letterboxed clip, in pixels."""
    timeout_s: float
    """A video that takes longer to decode ends the stage."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_frames"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, below 1")
        _require(self.side_px >= 16, f"side_px is {self.side_px}, below 16")
        _require(self.timeout_s > 0, f"timeout_s is {self.timeout_s}, not above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance(Section):
    """A change that is made to a clip or not; no range of it is negative."""

    probability: float
    """That it is made at all, in [0, 1]."""

    def __post_init__(self) -> None:
        _require(self.probability <= 1, f"probability is {self.probability}, not in [0, 1]")
        for field in fields(self):
            value = getattr(self, field.name)
            _require(value >= 0, f"{field.name} is {value}, below 0")
            below_one = field.name not in SHARES or value < 1
            _require(below_one, f"{field.name} is {value}, not in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RotationConfig(Chance):
    """Rotation about the centre."""

    max_deg: float
    """Largest angle to either side, in degrees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineConfig(Chance):
    """Translation, scale and shear."""

    translation: float
    """Largest shift along each axis, as a share of the side."""
    scale: float
    """Largest relative change of size: 0.15 draws from 0.85 to 1.15."""
    shear_deg: float
    """Largest shear to either side, in degrees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColourConfig(Chance):
    """Brightness, contrast and saturation as relative changes, hue as a share of the circle."""

    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig(Chance):
    """Gaussian noise, new in every frame."""

    max_std: float
    """Largest standard deviation, in grey levels of 255."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlurConfig(Chance):
    """Gaussian blur."""

    max_sigma_px: float
    """Largest standard deviation, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareConfig(Chance):
    """A change to a part: of the area (cut-out) or of the frames (dropping, duplication)."""

    max_share: float
    """Largest share, in [0, 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ElasticConfig(Chance):
    """Elastic distortion (Simard et al., ICDAR 2003)."""

    max_shift_px: float
    """Largest displacement, in pixels."""
    smoothness: float
    """Standard deviation of the displacement's Gaussian smoothing, as a share of the side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(Section):
    """Changes made to training clips, drawn once per clip."""

    versions: int
    """Augmented versions stored for each training video (A)."""
    rotation: RotationConfig
    affine: AffineConfig
    flip: Chance
    colour: ColourConfig
    noise: NoiseConfig
    blur: BlurConfig
    cutout: ShareConfig
    elastic: ElasticConfig
    drop: ShareConfig
    duplicate: ShareConfig
    reverse: Chance

    def __post_init__(self) -> None:
        _require(self.versions >= 0, f"versions is {self.versions}, below 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(Section):
    """Which network is trained."""

    network: Literal["r3d_18"]
    pretrained: str
    """`kinetics400`, `none`, or the path of a weights file."""
    head_channels: int
    """Channels that the Inception block gives, a quarter from each branch."""
    dropout: float
    """Share of features dropped before the last layer."""

    def __post_init__(self) -> None:
        _require(
            self.head_channels > 0 and self.head_channels % 4 == 0,
            f"head_channels is {self.head_channels}, no multiple of 4",
        )
        _require(0 <= self.dropout < 1, f"dropout is {self.dropout}, not in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(Section):
    """How one network is fitted on one fold."""

    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    batch_size: int
    """Clips in a batch, half of them real and half fake."""
    epochs: int
    """Passes over the larger class at most."""
    patience: int
    """Epochs without a better validation score before training stops."""
    best_by: Literal["validation/loss", "validation/roc_auc", "validation/macro_f1"]
    """The series that chooses the epoch whose weights are kept."""
    mixed_precision: bool
    """Compute in bfloat16 where that is safe."""
    gradient_clip_norm: float
    """Gradients are scaled down to this norm."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gradient_clip_norm"):
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, not above 0")
        for name in ("batch_size", "epochs", "patience"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, below 1")
        _require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}, below 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Section):
    """How the evidence is weighed."""

    bootstrap_samples: int
    """Resamples of the groups behind every interval."""
    confidence: float
    """Coverage of every interval, in (0, 1)."""
    ece_bins: int
    """Bins of equal mass of the expected calibration error."""
    target_error_rate: float
    """Largest share of wrong verdicts on validation that the abstention band leaves."""

    def __post_init__(self) -> None:
        _require(self.bootstrap_samples >= 100, "bootstrap_samples is below 100")
        _require(self.ece_bins >= 2, f"ece_bins is {self.ece_bins}, below 2")
        for name in ("confidence", "target_error_rate"):
            value = getattr(self, name)
            _require(0 < value < 1, f"{name} is {value}, not between 0 and 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig(Section):
    """What the served model accepts."""

    max_mib: float
    """Largest video, in MiB once base64 is undone."""

    def __post_init__(self) -> None:
        _require(self.max_mib > 0, f"max_mib is {self.max_mib}, not above 0")


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
    evaluate: EvaluateConfig
    serving: ServingConfig


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
