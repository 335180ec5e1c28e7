"""Several networks that answer as one: the mean of their logits, each under its own temperature."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.networks import DESCRIPTION, WEIGHTS, ClipClassifier, load_network

MEMBERS = "ensemble.json"
"""The file of a folder with several networks that names the folders of its members."""


class Ensemble(nn.Module):
    """Networks that take the same clips, each of which looks at them as it was trained to.

    Args:
        members: Ready for scoring.
        temperatures: What the logits of each are divided by before their mean.

    Raises:
        ValueError: They do not take the same clips.
    """

    def __init__(self, members: Sequence[ClipClassifier], temperatures: Sequence[float]) -> None:
        super().__init__()
        self.clips: ClipsConfig = members[0].clips
        if any(member.clips != self.clips for member in members):
            raise ValueError("members of an ensemble have to take the same clips")
        self.members = nn.ModuleList(members)
        self.temperatures = tuple(temperatures)

    @property
    def device(self) -> torch.device:
        """Where it scores."""
        return self.parts[0].device

    @property
    def parts(self) -> list[ClipClassifier]:
        """The members."""
        return [member for member in self.members if isinstance(member, ClipClassifier)]

    def score(self, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N 1"]:
        """The mean of the calibrated logits of stored RGB clips."""
        logits = [
            member.score(pixels).double() / temperature
            for member, temperature in zip(self.parts, self.temperatures, strict=True)
        ]
        return torch.stack(logits).mean(dim=0)


Network = ClipClassifier | Ensemble
"""What scores clips."""


def describe_ensemble(folder: Path, members: Sequence[tuple[str, float]]) -> None:
    """Make a folder that of an ensemble: its networks lie in these folders below it.

    Args:
        folder: Of the ensemble.
        members: The name of each one's folder, and its temperature.
    """
    told = [{"folder": name, "temperature": temperature} for name, temperature in members]
    write_json(folder / MEMBERS, told)


def _members(folder: Path) -> list[tuple[str, float]]:
    told = read_json(folder / MEMBERS, "ensemble")
    return [(member["folder"], member["temperature"]) for member in told]


def load_any(folder: Path) -> Network:
    """Load the network of a folder, or the ensemble, ready for scoring.

    Raises:
        FvcError: A file is missing, damaged, or of another network.
    """
    if not (folder / MEMBERS).is_file():
        return load_network(folder)
    names, temperatures = zip(*_members(folder), strict=True)
    return Ensemble([load_network(folder / name) for name in names], temperatures).eval()


def files_of(folder: Path) -> list[Path]:
    """The files that `load_any` reads, relative to the folder."""
    if not (folder / MEMBERS).is_file():
        return [Path(WEIGHTS), Path(DESCRIPTION)]
    below = [Path(name) for name, _ in _members(folder)]
    return [Path(MEMBERS), *(path / name for path in below for name in (WEIGHTS, DESCRIPTION))]


def weights_sha256(folder: Path) -> str:
    """The digest of a network's weights, or one of the weights of all members in their order."""
    if not (folder / MEMBERS).is_file():
        return sha256_of_file(folder / WEIGHTS)
    return sha256_of(
        [
            [sha256_of_file(folder / name / WEIGHTS), temperature]
            for name, temperature in _members(folder)
        ]
    )
