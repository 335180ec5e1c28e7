"""Changes made to training clips: section `augment`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from fvc.config.section import Section, require

LIMITS: Mapping[str, float] = MappingProxyType(
    {
        # Half a turn, of a picture or of the circle of hues, reaches everything.
        "max_deg": 180.0,
        "hue": 0.5,
        # Two shears of 45 degrees would leave a line; at 1, shares leave nothing, or black.
        "shear_deg": 40.0,
        **dict.fromkeys(("translation", "scale", "max_share", "max_loss"), 0.95),
        **dict.fromkeys(("brightness", "contrast", "saturation"), 0.95),
        # Half of all grey levels, and what leaves nothing to see.
        "max_std": 128.0,
        "max_sigma_px": 32.0,
        "max_shift_px": 64.0,
        # More is no bar.
        **dict.fromkeys(("min_height", "max_height"), 0.5),
        **dict.fromkeys(("min_opacity", "max_opacity"), 1.0),
        # The worst that x264 has.
        **dict.fromkeys(("min_crf", "max_crf"), 51.0),
    }
)
"""The ranges of all changes by name, each with the most that it can be."""


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
            limit = LIMITS.get(field.name, math.inf)
            require(value <= limit, f"{field.name} is {value}, not in [0, {limit:g}]")
            least = getattr(self, field.name.replace("max_", "min_"), value)
            require(least <= value, f"{field.name} is {value}, below the least, {least}")


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
    """A change to a part: of the area (cut-out), each side (crop), or the frames (dropping,
    duplication)."""

    max_share: float
    """Largest share, below 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ElasticConfig(Chance):
    """Elastic distortion (Simard et al., ICDAR 2003)."""

    max_shift_px: float
    """Largest displacement, in pixels."""
    smoothness: float
    """Standard deviation of the displacement's Gaussian smoothing, as a share of the side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlayConfig(Chance):
    """A bar with a caption along the top or the bottom."""

    min_height: float
    """As a share of the picture's height."""
    max_height: float
    min_opacity: float
    """1 hides what is under the bar."""
    max_opacity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DownscaleConfig(Chance):
    """Fewer pixels, and as many as before again."""

    max_loss: float
    """Largest share of each side's pixels that is lost: 0.5 draws from 1 to 0.5 of the side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecompressionConfig(Chance):
    """Encoding as H.264, and decoding."""

    min_crf: float
    """x264's rate factor: 18 is hard to see, 28 can be seen, 51 is the worst. Clips are smaller
    than what a platform encodes, so an equal factor takes more of what they show."""
    max_crf: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig(Section):
    """Changes made to training clips, drawn once per clip."""

    mode: Literal["stored", "on_the_fly"]
    """`stored`: stage `augment` makes the versions once, and every epoch trains on them;
    `on_the_fly`: the loader makes new ones in every epoch, and nothing is stored."""
    strength: float
    """Factor on all ranges, up to the limit of each, and on the probability of changes that have
    no range; 1 is as written, 0 changes nothing."""
    versions: int
    """Augmented versions of each training video in an epoch (A). Version a changes clip a mod N,
    so fewer than clips leave the later clips as they are."""
    rotation: RotationConfig
    affine: AffineConfig
    flip: Chance
    crop: ShareConfig
    colour: ColourConfig
    noise: NoiseConfig
    blur: BlurConfig
    cutout: ShareConfig
    elastic: ElasticConfig
    overlay: OverlayConfig
    downscale: DownscaleConfig
    recompression: RecompressionConfig
    drop: ShareConfig
    duplicate: ShareConfig
    reverse: Chance

    def __post_init__(self) -> None:
        require(self.versions >= 0, f"versions is {self.versions}, below 0")
        require(self.strength >= 0, f"strength is {self.strength}, below 0")

    def at_strength(self) -> "AugmentConfig":
        """The same changes with the strength in them, so that it is 1.

        At 0 no change is made at all: re-compression changes pixels even at
        its best.
        """
        # A noticeable share of the time that a clip takes.
        if self.strength == 1:
            return self
        sections: dict[str, Any] = {
            field.name: _scaled(section, self.strength)
            for field in fields(self)
            if isinstance(section := getattr(self, field.name), Chance)
        }
        return replace(self, strength=1.0, **sections)


def _scaled(section: Chance, strength: float) -> Chance:
    ranges = [field.name for field in fields(section) if field.name in LIMITS]
    scaled = {name: min(strength * getattr(section, name), LIMITS[name]) for name in ranges}
    if not ranges or not strength:
        scaled["probability"] = min(strength * section.probability, 1.0)
    return replace(section, **scaled)
