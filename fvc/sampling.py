"""Which frames make a clip: integers and exact fractions in, integers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
from jaxtyping import Bool, Int

from fvc.config import ClipsConfig

Span = tuple[Fraction, Fraction]
"""Where a part of a video starts and ends, in ticks from its first frame."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What must be decoded to get each frame; frames in the order of appearance."""

    starts: Int[np.ndarray, " frames"]
    """The position among the stored packets at which decoding starts, a key frame's."""
    positions: Int[np.ndarray, " frames"]
    """The position of the frame's own packet, the last one that is needed."""


def sample_frames(
    boundaries: Int[np.ndarray, " boundaries"], num_clips: int, num_frames: int
) -> Int[np.ndarray, "N T"]:
    """Choose the frames of every clip of one video.

    The video is divided into N equal spans of time and each of those into T;
    the frame that is on the screen at the centre of each is taken. A video
    with fewer frames than spans therefore repeats some.

    Args:
        boundaries: When each frame appears, strictly increasing, and after the
            last of them when that frame ends; in any unit of time.
        num_clips: Clips of one video (N).
        num_frames: Frames of one clip (T).

    Returns:
        Frame numbers, from 0.

    Raises:
        ValueError: There is no frame, or time does not increase.

    Source:
        The centres of equal segments are the test-time sampling of Wang et al.,
        "Temporal Segment Networks", arXiv:1608.00859.
    """
    views = equal_spans(length_of(boundaries), num_clips)
    chosen = central_frames(boundaries, parts_of(views, num_frames))
    return chosen.reshape(num_clips, num_frames)


def length_of(boundaries: Int[np.ndarray, " boundaries"]) -> int:
    """Ticks from the first frame to the end of the last.

    Raises:
        ValueError: There is no frame, or time does not increase.
    """
    if len(boundaries) < 2:
        raise ValueError("there is no frame to choose from")
    if not np.all(np.diff(boundaries) > 0):
        raise ValueError("the frames' times do not increase strictly")
    return int(boundaries[-1]) - int(boundaries[0])


def views_of(length: int, tick_s: Fraction, config: ClipsConfig) -> list[Span]:
    """The parts of a video that become clips.

    Args:
        length: Ticks of the video.
        tick_s: Seconds of a tick.
        config: What a clip is.
    """
    if config.views == "spans":
        return equal_spans(length, config.num_clips)
    # By their digits: the nearest binary number would be off, and no window end on a frame.
    window, stride = (Fraction(str(value)) / tick_s for value in (config.window_s, config.stride_s))
    return rolling_windows(length, window, stride, config.num_clips)


def equal_spans(length: int, num_spans: int) -> list[Span]:
    """Divide so many ticks into equal spans."""
    return parts_of([(Fraction(0), Fraction(length))], num_spans)


def rolling_windows(
    length: int, window: Fraction, stride: Fraction, max_windows: int
) -> list[Span]:
    """Lay windows over so many ticks, a stride from each start to the next.

    The first window starts at 0. What is shorter than a window is one window
    as a whole. Where the last window that fits ends before the end, one more
    ends there. Of more windows than allowed, evenly spaced ones are kept, the
    first and the last among them; if only one is allowed, the middle one.

    Args:
        length: Ticks of the video.
        window: Ticks of a window, above 0.
        stride: Ticks from one start to the next, above 0; more than a window
            leaves gaps between them.
        max_windows: At least 1.
    """
    if length <= window:
        return [(Fraction(0), Fraction(length))]
    last = length - window
    regular = last // stride + 1
    num_windows = regular + (last % stride > 0)
    if num_windows <= max_windows:
        kept = list(range(num_windows))
    elif max_windows == 1:
        kept = [(num_windows - 1) // 2]
    else:
        kept = [k * (num_windows - 1) // (max_windows - 1) for k in range(max_windows)]
    starts = [min(k * stride, last) for k in kept]
    return [(start, start + window) for start in starts]


def parts_of(views: Sequence[Span], num_parts: int) -> list[Span]:
    """Divide each of these spans into equal parts."""
    return [
        (start + (end - start) * k / num_parts, start + (end - start) * (k + 1) / num_parts)
        for start, end in views
        for k in range(num_parts)
    ]


def central_frames(
    boundaries: Int[np.ndarray, " boundaries"], parts: Sequence[Span]
) -> Int[np.ndarray, " parts"]:
    """The frame that is on the screen at the centre of each part."""
    ticks = boundaries - boundaries[0]
    centres = [floor((start + end) / 2) for start, end in parts]
    return np.searchsorted(ticks, centres, side="right") - 1


def cheapest_frames(
    boundaries: Int[np.ndarray, " boundaries"], parts: Sequence[Span], reach: Reach
) -> Int[np.ndarray, " parts"]:
    """In each part a frame that appears in it, such that few packets are decoded in all.

    A part in which none appears takes the one on the screen at its centre. A
    part without a key frame takes the frame that is fewest packets after its
    key frame. For any other, and instead of that one, a frame will do that is
    decoded on the way. Where there is none, a key frame is taken, which
    overlapping parts share where they can. Of several frames that cost no more,
    it is the one nearest to the part's centre.

    No other choice sends fewer packets, as long as every key frame is shown and
    no frame outlives the next key frame: a part without a key frame then lies
    in one group of pictures, so how far that must be decoded is no choice; and
    where a part has a key frame, sending one packet more elsewhere never helps
    more parts than sending a key frame between. Which packets a decoder may
    skip, since no frame refers to theirs, the container does not say. A packet
    that is sent counts the same whether it is skipped or not; but of frames
    that are decoded on the way, only those are taken that appear later than all
    before them in storage: others, which may be skipped, are left to be so.

    Args:
        boundaries: As for `sample_frames`.
        parts: They may overlap.
        reach: What each frame costs.

    Source:
        One frame of each segment, whichever: the training of Wang et al.,
        "Temporal Segment Networks", arXiv:1608.00859.
    """
    ticks = boundaries[:-1] - boundaries[0]
    edges = np.searchsorted(ticks, [[ceil(start), ceil(end)] for start, end in parts])
    keys = np.flatnonzero(reach.starts == reach.positions)
    key_edges = np.searchsorted(keys, edges)
    centres = central_frames(boundaries, parts)
    chosen = centres.copy()
    is_filled = edges[:, 0] < edges[:, 1]
    has_key = key_edges[:, 0] < key_edges[:, 1]
    for part in np.flatnonzero(is_filled & ~has_key):
        costs = (reach.positions - reach.starts)[slice(*edges[part])]
        chosen[part] = edges[part, 0] + np.argmin(costs)
    is_free = _decoded(reach, chosen[~has_key]) & _leads(reach)
    left = []
    for part in np.flatnonzero(is_filled):
        free = edges[part, 0] + np.flatnonzero(is_free[slice(*edges[part])])
        if len(free):
            chosen[part] = _nearest(free, centres[part])
        elif has_key[part]:
            left.append(int(part))
    for group in _sharing(left, key_edges):
        first, stop = key_edges[group, 0].max(), key_edges[group, 1].min()
        chosen[group] = _nearest(keys[first:stop], centres[group[0]])
    return chosen


def _decoded(reach: Reach, targets: Int[np.ndarray, " targets"]) -> Bool[np.ndarray, " frames"]:
    """Which frames come out when what these need is decoded."""
    is_sent = np.zeros(int(reach.positions.max()) + 1, np.int64)
    for target in np.unique(targets):
        is_sent[reach.starts[target] : reach.positions[target] + 1] = 1
    sent_before = np.concatenate([[0], np.cumsum(is_sent)])
    needed = reach.positions + 1 - reach.starts
    return sent_before[reach.positions + 1] - sent_before[reach.starts] == needed


def _leads(reach: Reach) -> Bool[np.ndarray, " frames"]:
    """Which frames appear later than all that are stored before them."""
    as_stored = np.argsort(reach.positions)
    leads = np.empty(len(as_stored), bool)
    leads[as_stored] = as_stored == np.maximum.accumulate(as_stored)
    return leads


def _nearest(frames: Int[np.ndarray, " frames"], centre: np.int64) -> int:
    return int(frames[np.argmin(np.abs(frames - centre))])


def _sharing(parts: Sequence[int], key_edges: Int[np.ndarray, "parts 2"]) -> list[list[int]]:
    """Group parts that have a key frame in common, in as few groups as can be."""
    groups: list[list[int]] = []
    for part in sorted(parts, key=lambda part: (int(key_edges[part, 1]), part)):
        if groups and key_edges[part, 0] < key_edges[groups[-1][0], 1]:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups
