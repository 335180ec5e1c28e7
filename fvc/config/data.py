"""From archives to clips: sections `extract`, `index`, `split` and `clips`."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from fvc.config.section import Section, require


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
        require(self.max_total_gib > 0, f"max_total_gib is {self.max_total_gib}, not above 0")
        require(self.max_ratio >= 1, f"max_ratio is {self.max_ratio}, below 1")
        require(self.max_members >= 1, f"max_members is {self.max_members}, below 1")


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
        require(self.min_frames >= 1, f"min_frames is {self.min_frames}, below 1")
        require(self.timeout_s > 0, f"timeout_s is {self.timeout_s}, not above 0")
        require(self.max_memory_mib >= 64, f"max_memory_mib is {self.max_memory_mib}, below 64")
        require(self.fingerprint_fps > 0, f"fingerprint_fps is {self.fingerprint_fps}")
        require(self.fingerprint_max_frames >= 1, "fingerprint_max_frames is below 1")
        require(0 <= self.fingerprint_distance <= 256, "fingerprint_distance is not in 0..256")
        require(0 < self.fingerprint_share <= 1, "fingerprint_share is not in (0, 1]")


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
        require(
            enough and self.folds == tuple(range(len(self.folds))),
            f"folds is {list(self.folds)}, not {wanted}",
        )
        for name in ("locked_share", "test_share", "validation_share"):
            value = getattr(self, name)
            require(0 < value < 0.5, f"{name} is {value}, not between 0 and 0.5")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipsConfig(Section):
    """How a video becomes clips."""

    views: Literal["spans", "rolling"]
    """Which parts of a video become clips. `spans`: equal spans that cover it, as many for every
    video. `rolling`: a window that moves on by a stride, so that a longer video has more."""
    num_clips: int
    """Clips taken from one video (N): exactly so many spans, or at most so many windows."""
    window_s: float
    """Length of a rolling window, in seconds; not read by `spans`."""
    stride_s: float
    """From the start of one rolling window to that of the next, in seconds."""
    num_frames: int
    """Frames in one clip (T), one from each of so many equal parts of it."""
    sampling: Literal["exact", "segment"]
    """Which frame of a part is taken: the one at its centre, or the cheapest one to decode."""
    fit: Literal["letterbox", "native"]
    """`letterbox`: a square, filled up with black. `native`: each video in its own aspect ratio."""
    side_px: int
    """Height and width of a letterboxed clip, or the longer edge of a native one, in pixels."""
    timeout_s: float
    """A video that takes longer to decode ends the stage."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "num_frames"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, below 1")
        require(self.side_px >= 16, f"side_px is {self.side_px}, below 16")
        for name in ("window_s", "stride_s", "timeout_s"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, not above 0")

    def pixel_settings(self) -> dict[str, Any]:
        """What the pixels depend on: equal settings give equal clips of a video."""
        unread = {"timeout_s"} | ({"window_s", "stride_s"} if self.views == "spans" else set())
        return {name: value for name, value in asdict(self).items() if name not in unread}
