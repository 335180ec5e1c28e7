from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.sampling import (
    Reach,
    Span,
    central_frames,
    cheapest_frames,
    equal_spans,
    parts_of,
    rolling_windows,
    sample_frames,
)

durations = st.lists(st.integers(1, 10**12), min_size=1, max_size=40)
counts = st.integers(1, 6)


def slow_sample(boundaries: list[int], num_clips: int, num_frames: int) -> list[list[int]]:
    """The rule as it is stated, in exact fractions: the last frame that appears by the centre."""
    span = Fraction(boundaries[-1] - boundaries[0], num_clips * num_frames)
    centres = [
        [
            boundaries[0] + span * (clip * num_frames + frame) + span / 2
            for frame in range(num_frames)
        ]
        for clip in range(num_clips)
    ]
    return [
        [sum(start <= centre for start in boundaries[:-1]) - 1 for centre in row] for row in centres
    ]


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15), durations, counts, counts)
def test_agrees_with_the_rule_in_exact_fractions(
    start: int, lengths: list[int], num_clips: int, num_frames: int
) -> None:
    boundaries = [start, *(start + int(end) for end in np.cumsum(lengths))]
    chosen = sample_frames(np.array(boundaries), num_clips, num_frames)
    assert chosen.tolist() == slow_sample(boundaries, num_clips, num_frames)


@settings(deadline=None)
@given(durations, counts, counts)
def test_frames_exist_and_never_run_backwards(
    lengths: list[int], num_clips: int, num_frames: int
) -> None:
    boundaries = np.concatenate([[0], np.cumsum(lengths)])
    chosen = sample_frames(boundaries, num_clips, num_frames).ravel()
    assert chosen.min() >= 0
    assert chosen.max() < len(lengths), "a frame past the end is asked for"
    assert np.all(np.diff(chosen) >= 0)


def test_as_many_frames_as_places_are_all_taken() -> None:
    assert sample_frames(np.arange(13), 3, 4).tolist() == np.arange(12).reshape(3, 4).tolist()


def test_a_short_video_repeats_frames() -> None:
    assert sample_frames(np.array([0, 1, 2]), 1, 6).tolist() == [[0, 0, 0, 1, 1, 1]]


def test_a_long_last_frame_is_on_screen_as_long_as_it_lasts() -> None:
    assert sample_frames(np.array([0, 1, 2, 8]), 1, 4).tolist() == [[1, 2, 2, 2]]


@pytest.mark.parametrize("boundaries", [[], [5], [0, 1, 1], [0, 2, 1]])
def test_impossible_times_are_refused(boundaries: list[int]) -> None:
    with pytest.raises(ValueError, match=r"no frame|do not increase"):
        sample_frames(np.array(boundaries, dtype=np.int64), 1, 2)


ticks = st.fractions(Fraction(1, 7), 40, max_denominator=60)


def slow_windows(length: int, window: Fraction, stride: Fraction) -> list[Span]:
    """All windows, one after the other."""
    if length <= window:
        return [(Fraction(0), Fraction(length))]
    windows, start = [], Fraction(0)
    while start + window <= length:
        windows.append((start, start + window))
        start += stride
    if windows[-1][1] < length:
        windows.append((length - window, Fraction(length)))
    return windows


@given(st.integers(1, 200), ticks, ticks)
def test_rolling_windows_agree_with_laying_them_one_by_one(
    length: int, window: Fraction, stride: Fraction
) -> None:
    assert rolling_windows(length, window, stride, 10**6) == slow_windows(length, window, stride)


@given(st.integers(1, 200), ticks, ticks)
def test_rolling_windows_leave_nothing_out(length: int, window: Fraction, stride: Fraction) -> None:
    windows = rolling_windows(length, window, min(stride, window), 10**6)
    assert windows[0][0] == 0
    assert windows[-1][1] == length
    gaps = [pair for pair in pairwise(windows) if pair[0][1] < pair[1][0]]
    assert not gaps, "part of the video is in no window"


@given(st.integers(1, 200), ticks, ticks, st.integers(1, 12))
def test_too_many_windows_are_thinned_out_evenly(
    length: int, window: Fraction, stride: Fraction, max_windows: int
) -> None:
    everything = slow_windows(length, window, stride)
    kept = rolling_windows(length, window, stride, max_windows)
    assert len(kept) == min(len(everything), max_windows)
    places = [everything.index(one) for one in kept]
    steps = [after - before for before, after in pairwise(places)]
    assert all(step >= 1 for step in steps), "a window is there twice"
    assert max(steps, default=1) - min(steps, default=1) <= 1, "the windows are not even"
    if max_windows > 1:
        assert (places[0], places[-1]) == (0, len(everything) - 1)
    else:
        assert places == [(len(everything) - 1) // 2]


def test_an_endless_video_has_no_more_windows_than_are_allowed() -> None:
    windows = rolling_windows(10**18, Fraction(4), Fraction(1, 1000), 5)
    assert [float(start) for start, _ in windows] == pytest.approx([0, 2.5e17, 5e17, 7.5e17, 1e18])


@settings(deadline=None)
@given(st.integers(-(10**9), 10**9), st.lists(st.integers(1, 30), min_size=1), ticks, ticks, counts)
def test_the_centres_of_any_views_agree_with_the_rule_in_exact_fractions(
    start: int, lengths: list[int], window: Fraction, stride: Fraction, num_frames: int
) -> None:
    boundaries = [start, *(start + int(end) for end in np.cumsum(lengths))]
    views = rolling_windows(sum(lengths), window, stride, 6)
    chosen = central_frames(np.array(boundaries), parts_of(views, num_frames)).tolist()
    slow = []
    for first, end in views:
        for number in range(num_frames):
            centre = start + first + (end - first) * Fraction(2 * number + 1, 2 * num_frames)
            slow.append(sum(time <= centre for time in boundaries[:-1]) - 1)
    assert chosen == slow


@st.composite
def reaches(draw: st.DrawFn, max_frames: int = 14) -> Reach:
    """Groups of pictures as encoders make them: P and B frames, some groups open."""
    kinds = ["key", *draw(st.lists(st.sampled_from(["key", "P", "b"]), max_size=max_frames - 1))]
    stored: list[int] = []
    waiting: list[int] = []
    for number, kind in enumerate(kinds):
        if kind == "b" and number < len(kinds) - 1:
            waiting.append(number)
            continue
        is_open = kind == "key" and draw(st.booleans())
        # The frames between two anchors are stored after the second one, unless it closes a group.
        stored += [number, *waiting] if kind == "P" or is_open else [*waiting, number]
        waiting = []
    positions = np.argsort(stored)
    key_numbers = [number for number, kind in enumerate(kinds) if kind == "key"]
    starts = [
        max(positions[key] for key in key_numbers if key <= number) for number in range(len(kinds))
    ]
    return Reach(np.array(starts), positions)


def packets_sent(reach: Reach, chosen: Iterable[int]) -> int:
    packets = 0
    for frame in chosen:
        start, stop = int(reach.starts[frame]), int(reach.positions[frame]) + 1
        packets |= (1 << stop) - (1 << start)
    return packets.bit_count()


@settings(deadline=None, max_examples=300)
@given(reaches(), st.data(), st.integers(1, 5), st.booleans())
def test_no_choice_of_one_frame_in_each_part_sends_fewer_packets(
    reach: Reach, data: st.DataObject, num_parts: int, overlap: bool
) -> None:
    size = len(reach.positions)
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=size, max_size=size))
    boundaries, total = [0, *np.cumsum(lengths).tolist()], sum(lengths)
    views = rolling_windows(total, Fraction(total, 2), Fraction(total, 5), 4)
    parts = parts_of(views, 1 + num_parts % 2) if overlap else equal_spans(total, num_parts)
    chosen = cheapest_frames(np.array(boundaries), parts, reach).tolist()
    centres = central_frames(np.array(boundaries), parts).tolist()
    choices = [
        [frame for frame, time in enumerate(boundaries[:-1]) if start <= time < end] or [centre]
        for (start, end), centre in zip(parts, centres, strict=True)
    ]
    for frame, allowed in zip(chosen, choices, strict=True):
        assert frame in allowed, "a frame outside its part stands for it"
    if np.prod([len(allowed) for allowed in choices], dtype=float) > 5_000:
        return
    fewest = min(packets_sent(reach, choice) for choice in product(*choices))
    assert packets_sent(reach, chosen) == fewest


@settings(deadline=None)
@given(reaches(60), st.integers(1, 20))
def test_the_cheapest_frames_of_equal_spans_never_run_backwards(
    reach: Reach, num_parts: int
) -> None:
    boundaries = np.arange(len(reach.positions) + 1)
    parts = equal_spans(len(reach.positions), num_parts)
    chosen = cheapest_frames(boundaries, parts, reach)
    assert np.all(np.diff(chosen) >= 0)
    central = central_frames(boundaries, parts)
    if all(frame >= start for frame, (start, _) in zip(central.tolist(), parts, strict=True)):
        assert packets_sent(reach, chosen) <= packets_sent(reach, central)


def test_key_frames_are_taken_and_otherwise_what_comes_soonest_after_one() -> None:
    """Groups of 6 and 14 frames, four parts of 5: keys 0 and 6, and the first frame of a part."""
    positions = np.arange(20)
    reach = Reach(np.where(positions < 6, 0, 6), positions)
    chosen = cheapest_frames(np.arange(21), equal_spans(20, 4), reach)
    # The second part lies on the way to the last one, so its centre costs no more than its key.
    assert chosen.tolist() == [0, 7, 12, 15]


def test_a_part_in_which_no_frame_appears_takes_the_one_on_the_screen() -> None:
    reach = Reach(np.array([0, 0]), np.array([0, 1]))
    chosen = cheapest_frames(np.array([0, 1, 9]), equal_spans(9, 3), reach)
    assert chosen.tolist() == [1, 1, 1]
