"""Which clips each network can take: what is refused before anything is decoded or trained."""

from collections.abc import Mapping
from dataclasses import dataclass

from fvc.config.data import ClipsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Takes:
    """The clips that a network can take; a number of 1 asks for nothing."""

    frames_from: int
    """The fewest frames."""
    frames_multiple: int
    """The number of frames is a multiple of this."""
    side_px_from: int
    """The shortest side, in pixels."""
    side_px_multiple: int
    """The side is a multiple of this, in pixels."""
    native: bool
    """Whether clips need not be square, and may go together with padding."""

    def refusal(self, clips: ClipsConfig) -> str:
        """Why the network cannot take such clips; empty where it can."""
        frames, side_px = clips.num_frames, clips.side_px
        if frames < self.frames_from or frames % self.frames_multiple:
            return f"num_frames {frames}: it takes {_from(self.frames_from, self.frames_multiple)}"
        if side_px < self.side_px_from or side_px % self.side_px_multiple:
            return f"side_px {side_px}: it takes {_from(self.side_px_from, self.side_px_multiple)}"
        if clips.fit == "native" and not self.native:
            return "fit native: it takes letterbox alone"
        return ""


def _from(least: int, multiple: int) -> str:
    return f"{least} and more" + (f", in multiples of {multiple}" if multiple > 1 else "")


ANY = Takes(frames_from=1, frames_multiple=1, side_px_from=16, side_px_multiple=1, native=True)
"""Convolutions that pad: a clip of any size."""

TAKES: Mapping[str, Takes] = {"r3d_18": ANY, "forensic": ANY}
"""By `model.network`."""
