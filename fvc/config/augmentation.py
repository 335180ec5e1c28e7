"""Changes made to training clips: section `augment`."""

from dataclasses import dataclass, fields
from typing import Literal

from fvc.config.section import Section, require

SHARES = ("max_share", "scale", "brightness", "contrast", "saturation", "hue", "translation")
"""Ranges of augmentation that would leave nothing, or black, at 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chance(Section):
    """A change that is made to a clip or not; no range of it is negative."""

    probability: float
    """That it is made at all, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.probability <= 1, f"probability is {self.probability}, not in [0, 1]")
        for field in fields(self):
            value = getattr(self, field.name)
            require(value >= 0, f"{field.name} is {value}, below 0")
            below_one = field.name not in SHARES or value < 1
            require(below_one, f"{field.name} is {value}, not in [0, 1)")


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

    mode: Literal["stored", "on_the_fly"]
    """`stored`: stage `augment` makes the versions once, and every epoch trains on them;
    `on_the_fly`: the loader makes new ones in every epoch, and nothing is stored."""
    versions: int
    """Augmented versions of each training video in an epoch (A)."""
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
        require(self.versions >= 0, f"versions is {self.versions}, below 0")
