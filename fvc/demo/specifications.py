"""What is decided about one cascade, one file and one annotation row of a demo corpus."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from fvc.seeding import generator_for

Damage = Literal["none", "truncated", "empty"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a file is packed, in FFmpeg's names."""

    codec: str
    container: Literal["mp4", "mkv", "webm"]
    pixel_format: str

    @property
    def allows_odd_sizes(self) -> bool:
        """Whether width and height may be odd numbers of pixels."""
        subsampled = self.pixel_format.startswith("yuv420")
        return not (subsampled and self.codec in ("libx264", "libx265"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Footage:
    """The original of a cascade, of which every file of the cascade is a copy."""

    cascade_id: str
    seed: int
    scene: str
    """`photo`, or a key of `backgrounds.PAINTERS`."""
    variant: int
    """Which view of the scene, so that no two cascades show the same."""
    width: int
    height: int
    fps: Fraction
    num_frames: int
    manipulations: tuple[str, ...]
    """Keys of `manipulations.IN_TIME` and `IN_SPACE`; a video is fake if there are any."""

    @property
    def label(self) -> Literal["real", "fake"]:
        """The truth about the pixels."""
        return "fake" if self.manipulations else "real"

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """Random numbers for one purpose, the same in every copy."""
        return generator_for(self.seed, *purpose)


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One file: a copy of a footage, edited and encoded."""

    footage: Footage
    copy: int
    """0 is the original, which is not edited."""
    seed: int
    subset: str
    platform: str
    source_id: str
    edits: tuple[str, ...]
    """Keys of `reposts.EDITS`."""
    scale_percent: int
    """Size of a scaled copy, in percent of the original's."""
    fps: Fraction
    """At most the footage's."""
    variable_rate: bool
    encoding: Encoding
    quality: int
    """0 is the best, 2 the worst."""
    sound: bool
    rotation_deg: int
    """Counter-clockwise turn that players make."""
    odd_size: bool
    one_frame: bool = False
    damage: Damage = "none"

    @property
    def path(self) -> str:
        """Where the file lies, from the folder into which the archives are unpacked."""
        place = [self.subset, self.platform] if self.subset == "FVC1" else [self.subset]
        return "/".join([*place, self.source_id, f"video.{self.encoding.container}"])

    def generator(self, *purpose: str | int) -> np.random.Generator:
        """Random numbers for one purpose, of this copy alone."""
        return generator_for(self.seed, *purpose)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an annotation file."""

    cascade_id: str
    video_url: str
    label: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole corpus, before its first pixel is painted."""

    usable: tuple[Video, ...]
    """Can be decoded, are labelled real or fake, and have more than one frame."""
    defects: tuple[Video, ...]
    """The other files."""
    originals: tuple[Row, ...]
    """FVC.csv: one row per cascade."""
    duplicates: tuple[Row, ...]
    """FVC_dup.csv."""
