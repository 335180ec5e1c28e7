"""What a served model needs besides its weights."""

from dataclasses import asdict, dataclass
from pathlib import Path

from fvc.config import ClipsConfig, ServingConfig
from fvc.evidence.calibration import Calibration
from fvc.files import read_json, write_json

SETTINGS = "serving.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How a model sees a video, what its scores mean, and what it refuses."""

    clips: ClipsConfig
    """How the network was trained to see a video."""
    calibration: Calibration
    limits: ServingConfig

    def write(self, folder: Path) -> None:
        """Put the settings beside the network's files."""
        value = asdict(self) | {"calibration": self.calibration.as_dict()}
        write_json(folder / SETTINGS, value)

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """What `write` wrote."""
        value = read_json(folder / SETTINGS, "register")
        return cls(
            clips=ClipsConfig(**value["clips"]),
            calibration=Calibration.from_dict(value["calibration"]),
            limits=ServingConfig(**value["limits"]),
        )
