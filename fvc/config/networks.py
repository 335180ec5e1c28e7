"""Which clips each network can take: what is refused before anything is decoded or trained."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    flow: bool = False
    """Whether it sees the optical flow of a clip beside its pixels."""
    fitted: bool = False
    """Whether it is fitted without gradients: no head would train, and no weights are published."""

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

SLOWFAST = Takes(frames_from=4, frames_multiple=4, side_px_from=32, side_px_multiple=1, native=True)
"""One frame of four goes through the slow pathway, and sides are halved five times."""

PATCHES = Takes(
    frames_from=1, frames_multiple=1, side_px_from=16, side_px_multiple=16, native=False
)
"""Patches of 16 x 16 pixels, which fill a frame."""
TUBES = Takes(frames_from=2, frames_multiple=2, side_px_from=16, side_px_multiple=16, native=False)
"""The same over two frames each."""

TAKES: Mapping[str, Takes] = {
    "r3d_18": ANY,
    "mc3_18": ANY,
    "r2plus1d_18": ANY,
    # Its last pooling drops an odd rest. torchvision's own network averages over two steps of
    # time, which fewer frames do not leave, and 7 x 7 positions, in place of which we average
    # over all there are.
    "s3d": replace(ANY, frames_from=13, side_px_from=17, native=False),
    "slowfast_r50": SLOWFAST,
    # torchvision's network is built for 16 frames of 224 x 224 and refuses all else. We interpolate
    # its positions to other sides and longer clips, as its authors do, and not to shorter ones.
    "mvit_v2_s": replace(ANY, frames_from=16, side_px_from=32, native=False),
    "swin3d_t": replace(ANY, native=False),
    "timesformer": PATCHES,
    "vivit_b": TUBES,
    "videomae_s": TUBES,
    "videomae_b": TUBES,
    # Two frames have a flow, and fewer pixels than that are too few to find it in.
    "two_stream": replace(ANY, frames_from=2, side_px_from=32, native=False, flow=True),
    "frame_r18": ANY,
    "forensic": replace(ANY, fitted=True),
}
"""By `model.network`."""
