"""Which packets of a video must be decoded to get certain frames: integers in, integers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Int, Int64

from fvc.sampling import Reach, Span

NO_TIME = -(2**63)
"""Stands for a timestamp that is missing."""
LONGEST = 2**62
"""What spans more ticks is no time, and sums of it would leave 64 bits."""


@dataclass(frozen=True, slots=True)
class Packets:
    """What the container says about all packets, as stored; times are in ticks of the stream.

    Columns take a tenth of the memory of an object for each packet, of which a
    video of ten hours has two million.
    """

    pts: Int64[np.ndarray, " packets"]
    """When its frame appears, or `NO_TIME`."""
    dts: Int64[np.ndarray, " packets"]
    """When it is decoded, or `NO_TIME`."""
    durations: Int64[np.ndarray, " packets"]
    """How long its frame stays, or 0."""
    sizes_bytes: Int64[np.ndarray, " packets"]
    is_key: Bool[np.ndarray, " packets"]
    """Decoding can start here."""
    is_shown: Bool[np.ndarray, " packets"]
    """Its frame appears at all; an edit list can hide it."""
    is_sound: Bool[np.ndarray, " packets"]
    """It is complete, and changes nothing in the decoder's set-up."""

    def __len__(self) -> int:
        return len(self.pts)


@dataclass(frozen=True, slots=True)
class Clock:
    """What a stream says about time."""

    tick_s: Fraction
    """Seconds in a tick of its timestamps."""
    frame_s: Fraction | None
    """Seconds from frame to frame on average, where the header says so."""
    reorders: bool
    """Frames may appear in another order than they are decoded in."""
    tells_appearance: bool
    """The container stores when frames appear, not only when they are decoded."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each frame of a video is on the screen."""

    boundaries: Int[np.ndarray, " boundaries"]
    """The tick at which each frame appears, increasing, and last the end of the last frame."""
    tick_s: Fraction
    """Seconds in a tick."""

    @property
    def num_frames(self) -> int:
        """Frames in the video."""
        return len(self.boundaries) - 1

    @property
    def duration_s(self) -> Fraction:
        """From the first frame to the end of the last."""
        return int(self.boundaries[-1] - self.boundaries[0]) * self.tick_s

    def in_seconds(self, spans: Sequence[Span]) -> tuple[tuple[float, float], ...]:
        """Starts and ends that are counted in ticks from the first frame, in seconds."""
        return tuple((float(start * self.tick_s), float(end * self.tick_s)) for start, end in spans)


def timeline(pts: Int64[np.ndarray, " frames"], last_duration: int, clock: Clock) -> Timeline:
    """When the frames with these timestamps, in the order of appearance, are shown.

    The last frame ends after its own duration or, where that is unknown, after
    that of the one before. Where timestamps are missing, do not increase or
    span ages, frames are taken to be evenly spaced.

    Raises:
        ValueError: The rate of the frames is needed, and not known.
    """
    usable = bool(np.all(pts != NO_TIME) and np.all(pts[1:] > pts[:-1]))
    if usable and last_duration <= 0 and len(pts) > 1:
        last_duration = int(pts[-1]) - int(pts[-2])
    end = int(pts[-1]) + last_duration
    if usable and last_duration > 0 and max(end - int(pts[0]), abs(end)) <= LONGEST:
        return Timeline(np.append(pts, end), clock.tick_s)
    if clock.frame_s is None:
        raise ValueError("neither timestamps nor a frame rate")
    return Timeline(np.arange(len(pts) + 1), clock.frame_s)


def by_appearance(packets: Packets) -> Int64[np.ndarray, " frames"]:
    """Positions of the packets that are shown, in the order of their timestamps.

    Where a timestamp is missing, they stay in the order in which they are stored.
    """
    shown = np.flatnonzero(packets.is_shown)
    pts = packets.pts[shown]
    return shown if np.any(pts == NO_TIME) else shown[np.argsort(pts, kind="stable")]


def distrust(packets: Packets, clock: Clock) -> str | None:
    """Why frames cannot be picked by these packets, or None where they can."""
    pts, shown = packets.pts[packets.pts != NO_TIME], packets.pts[packets.is_shown]
    decoded_at = packets.dts[packets.dts != NO_TIME]
    copied = not clock.tells_appearance or np.array_equal(packets.pts, packets.dts)
    in_storage_order = copied and len(pts) > 1 and np.all(pts[1:] >= pts[:-1])
    faults = {
        "no packet is shown": not len(shown),
        "a timestamp is missing": len(pts) < len(packets),
        "two frames have one timestamp": len(np.unique(shown)) < len(shown),
        "nothing tells the order of appearance": clock.reorders and in_storage_order,
        "decoding times run backwards": np.any(decoded_at[1:] < decoded_at[:-1]),
        "the first packet is no key frame": not np.any(packets.is_key[:1]),
        "a frame precedes the first key frame": np.any(pts < packets.pts[:1]),
        "a packet is damaged or changes the decoder": not np.all(packets.is_sound),
    }
    return next((fault for fault, is_found in faults.items() if is_found), None)


def reach(packets: Packets) -> Reach:
    """What must be decoded to get each frame, in the order of appearance.

    Args:
        packets: As stored, such that `distrust` gives None.
    """
    positions = by_appearance(packets)
    return Reach(_starts(packets, positions), positions)


def packets_to_send(packets: Packets, targets: Sequence[int]) -> list[range]:
    """The runs of packets, in order and apart, that give the frames of the target packets.

    A run starts at the last key frame that is both stored and shown no later
    than its target: a frame that is shown before the key frame it is stored
    after (open GOP) refers to frames before that key frame.

    Args:
        packets: As stored, such that `distrust` gives None.
        targets: Positions among the packets.
    """
    stored = np.unique(np.array(targets, np.int64))
    runs: list[range] = []
    for start, target in zip(_starts(packets, stored).tolist(), stored.tolist(), strict=True):
        while runs and start < runs[-1].stop:
            start = min(start, runs.pop().start)
        runs.append(range(start, target + 1))
    return runs


def _starts(
    packets: Packets, targets: Int64[np.ndarray, " targets"]
) -> Int64[np.ndarray, " targets"]:
    """Where decoding starts for the frame of each target packet."""
    keys = np.flatnonzero(packets.is_key)
    nearest = np.searchsorted(keys, targets, side="right") - 1
    while np.any(is_later := packets.pts[keys[nearest]] > packets.pts[targets]):
        nearest -= is_later
    return keys[nearest]
