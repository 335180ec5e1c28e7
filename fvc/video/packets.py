"""Which packets of a video must be decoded to get certain frames: integers in, integers out."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
from jaxtyping import Int

from fvc.sampling import Reach, Span


@dataclass(frozen=True, slots=True)
class Packet:
    """What the container says about one packet; times are in ticks of the stream."""

    pts: int | None
    """When its frame appears."""
    dts: int | None
    """When it is decoded."""
    duration: int
    """How long its frame stays, or 0."""
    size_bytes: int
    is_key: bool
    """Decoding can start here."""
    is_shown: bool
    """Its frame appears at all; an edit list can hide it."""
    is_sound: bool
    """It is complete, and changes nothing in the decoder's set-up."""


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


def timeline(pts: Sequence[int | None], last_duration: int, clock: Clock) -> Timeline:
    """When the frames with these timestamps, in the order of appearance, are shown.

    The last frame ends after its own duration or, where that is unknown, after
    that of the one before. Where timestamps are missing or do not increase,
    frames are taken to be evenly spaced.

    Raises:
        ValueError: The rate of the frames is needed, and not known.
    """
    known = [value for value in pts if value is not None]
    usable = len(known) == len(pts) and all(a < b for a, b in pairwise(known))
    if usable and last_duration <= 0 and len(known) > 1:
        last_duration = known[-1] - known[-2]
    if usable and last_duration > 0:
        return Timeline(np.array([*known, known[-1] + last_duration]), clock.tick_s)
    if clock.frame_s is None:
        raise ValueError("neither timestamps nor a frame rate")
    return Timeline(np.arange(len(pts) + 1), clock.frame_s)


def by_appearance(packets: Sequence[Packet]) -> list[int]:
    """Positions of the packets that are shown, in the order of their timestamps.

    Where a timestamp is missing, they stay in the order in which they are stored.
    """
    shown = [position for position, packet in enumerate(packets) if packet.is_shown]
    pts = {position: packets[position].pts for position in shown}
    if None in pts.values():
        return shown
    return sorted(shown, key=lambda position: pts[position] or 0)


def distrust(packets: Sequence[Packet], clock: Clock) -> str | None:
    """Why frames cannot be picked by these packets, or None where they can."""
    pts = [packet.pts for packet in packets if packet.pts is not None]
    shown = [packet.pts for packet in packets if packet.is_shown]
    decoded_at = [packet.dts for packet in packets if packet.dts is not None]
    copied = not clock.tells_appearance or all(p.pts == p.dts for p in packets)
    in_storage_order = copied and len(pts) > 1 and pts == sorted(pts)
    faults = {
        "no packet is shown": not shown,
        "a timestamp is missing": len(pts) < len(packets),
        "two frames have one timestamp": len(set(shown)) < len(shown),
        "nothing tells the order of appearance": clock.reorders and in_storage_order,
        "decoding times run backwards": any(b < a for a, b in pairwise(decoded_at)),
        "the first packet is no key frame": not (packets and packets[0].is_key),
        "a frame precedes the first key frame": bool(packets) and min(pts) != packets[0].pts,
        "a packet is damaged or changes the decoder": not all(p.is_sound for p in packets),
    }
    return next((fault for fault, is_found in faults.items() if is_found), None)


def reach(packets: Sequence[Packet]) -> Reach:
    """What must be decoded to get each frame, in the order of appearance.

    Args:
        packets: All packets as stored, such that `distrust` gives None.
    """
    positions = by_appearance(packets)
    return Reach(np.array(_starts(packets, positions)), np.array(positions))


def packets_to_send(packets: Sequence[Packet], targets: Sequence[int]) -> list[range]:
    """The runs of packets, in order and apart, that give the frames of the target packets.

    A run starts at the last key frame that is both stored and shown no later
    than its target: a frame that is shown before the key frame it is stored
    after (open GOP) refers to frames before that key frame.

    Args:
        packets: All packets as stored, such that `distrust` gives None.
        targets: Positions among the packets.
    """
    stored = sorted(set(targets))
    runs: list[range] = []
    for start, target in zip(_starts(packets, stored), stored, strict=True):
        while runs and start < runs[-1].stop:
            start = min(start, runs.pop().start)
        runs.append(range(start, target + 1))
    return runs


def _starts(packets: Sequence[Packet], targets: Sequence[int]) -> list[int]:
    """Where decoding starts for the frame of each target packet."""
    pts = [packet.pts or 0 for packet in packets]
    keys = [position for position, packet in enumerate(packets) if packet.is_key]
    starts = []
    for target in targets:
        nearest = bisect_right(keys, target) - 1
        while pts[keys[nearest]] > pts[target]:
            nearest -= 1
        starts.append(keys[nearest])
    return starts
