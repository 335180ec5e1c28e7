"""What the served model accepts, and what one video may cost."""

from dataclasses import dataclass

from fvc.config.section import Section, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig(Section):
    """Limits of one video; what is beyond them is answered with an error.

    They are kept with the registered version, and hold wherever it is loaded.
    """

    max_mib: float
    """Largest file, in MiB once base64 is undone."""
    max_duration_s: float
    """Longest video, by its header and by its packets."""
    max_megapixels: float
    """Largest frame, in millions of pixels as stored; 8K has 33."""
    max_frames: int
    """Most frames, counted before one is decoded."""
    timeout_s: float
    """Longest time for one video to be decoded in; its process is ended then."""
    max_memory_mib: int
    """What decoding one video may allocate."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            require(value > 0, f"{name} is {value}, not above 0")
