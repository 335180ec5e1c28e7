from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jaxtyping import Int64

from fvc.sampling import equal_spans
from fvc.video.packets import (
    NO_TIME,
    Clock,
    Packets,
    by_appearance,
    distrust,
    packets_to_send,
    reach,
    timeline,
)

CLOCK = Clock(Fraction(1, 1000), Fraction(1, 25), reorders=False, tells_appearance=True)


Row = tuple[int, int, int, int, bool, bool, bool]


def packet(
    pts: int | None,
    dts: int | None = None,
    *,
    is_key: bool = False,
    is_shown: bool = True,
    is_sound: bool = True,
) -> Row:
    """Decoded when it appears, unless something else is said."""
    appears = NO_TIME if pts is None else pts
    return (appears, appears if dts is None else dts, 40, 1, is_key, is_shown, is_sound)


def stored(rows: Sequence[Row]) -> Packets:
    columns = np.array(rows, np.int64).reshape(-1, 7).T
    return Packets(*columns[:4], *columns[4:].astype(bool))


def times_of(pts: Sequence[int | None]) -> Int64[np.ndarray, " frames"]:
    return np.array([NO_TIME if value is None else value for value in pts], np.int64)


@st.composite
def stored_videos(draw: st.DrawFn) -> list[Row]:
    """Packets in storage order: groups that start with a key frame, some of them open."""
    packets: list[Row] = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 6))
        first = len(packets)
        leading = draw(st.integers(0, min(length - 1, 2))) if packets else 0
        times = list(range(first, first + length))
        key_time = times.pop(leading)
        packets.append(packet(key_time, is_key=True))
        packets.extend(packet(time) for time in [*times[:leading], *times[leading:]])
    return packets


@settings(deadline=None)
@given(stored_videos(), st.data())
def test_runs_hold_all_that_a_target_needs(packets: list[Row], data: st.DataObject) -> None:
    positions = st.integers(0, len(packets) - 1)
    targets = data.draw(st.lists(positions, min_size=1, max_size=6))
    runs = packets_to_send(stored(packets), targets)
    for target in targets:
        (run,) = [run for run in runs if target in run]
        needed = [
            position
            for position, candidate in enumerate(packets[: target + 1])
            if candidate[4] and candidate[0] <= packets[target][0]
        ]
        assert run.start <= needed[-1], "decoding starts after the frames that the target refers to"


@settings(deadline=None)
@given(stored_videos(), st.data())
def test_runs_are_apart_in_order_and_start_at_key_frames(
    packets: list[Row], data: st.DataObject
) -> None:
    positions = st.integers(0, len(packets) - 1)
    targets = data.draw(st.lists(positions, min_size=1, max_size=6))
    runs = packets_to_send(stored(packets), targets)
    assert all(before.stop <= after.start for before, after in pairwise(runs))
    assert all(packets[run.start][4] and run[-1] in targets for run in runs)


def test_a_frame_shown_before_its_key_frame_is_decoded_from_the_one_before() -> None:
    packets = [packet(0, is_key=True), packet(1), packet(4, is_key=True), packet(3), packet(5)]
    assert packets_to_send(stored(packets), [3]) == [range(4)]
    assert packets_to_send(stored(packets), [4]) == [range(2, 5)]


def test_groups_without_a_target_are_left_out() -> None:
    packets = [packet(time, is_key=time % 3 == 0) for time in range(12)]
    assert packets_to_send(stored(packets), [1, 10]) == [range(2), range(9, 11)]


@pytest.mark.parametrize(
    ("packets", "fault"),
    [
        ([packet(0, is_key=True, is_shown=False)], "no packet is shown"),
        ([packet(0, is_key=True), packet(None)], "a timestamp is missing"),
        ([packet(None, is_key=True), packet(None)], "a timestamp is missing"),
        ([packet(0, is_key=True), packet(40), packet(40)], "two frames have one timestamp"),
        ([packet(0, is_key=True), packet(80), packet(40)], "decoding times run backwards"),
        ([packet(0), packet(40, is_key=True)], "the first packet is no key frame"),
        (
            [packet(40, 0, is_key=True), packet(0, 40)],
            "a frame precedes the first key frame",
        ),
        (
            [packet(0, is_key=True), packet(40, is_sound=False)],
            "a packet is damaged or changes the decoder",
        ),
    ],
)
def test_each_fault_is_named(packets: list[Row], fault: str) -> None:
    assert distrust(stored(packets), CLOCK) == fault


def test_decoding_times_alone_do_not_tell_the_order_of_appearance() -> None:
    reorders = replace(CLOCK, reorders=True)
    avi = replace(reorders, tells_appearance=False)
    copied = [packet(time, is_key=time == 0) for time in (0, 40, 80)]
    delayed = [packet(time + 40, time, is_key=time == 0) for time in (0, 40, 80)]
    doubt = "nothing tells the order of appearance"
    assert [distrust(stored(copied), clock) for clock in (CLOCK, reorders, avi)] == [
        None,
        doubt,
        doubt,
    ]
    assert [distrust(stored(delayed), clock) for clock in (CLOCK, reorders, avi)] == [
        None,
        None,
        doubt,
    ]
    assert distrust(stored(copied[:1]), avi) is None, "one frame has no order"


def test_hidden_packets_are_not_counted_as_frames() -> None:
    packets = [packet(-40, is_key=True, is_shown=False), packet(40), packet(0)]
    assert by_appearance(stored(packets)).tolist() == [2, 1]


@given(st.lists(st.integers(1, 1000), min_size=1), st.integers(-5000, 5000))
def test_the_duration_is_from_the_first_frame_to_the_end_of_the_last(
    lengths: list[int], start: int
) -> None:
    pts = [start + sum(lengths[:k]) for k in range(len(lengths))]
    times = timeline(times_of(pts), lengths[-1], CLOCK)
    assert times.num_frames == len(lengths)
    assert times.duration_s == Fraction(sum(lengths), 1000)
    spans = times.in_seconds(equal_spans(int(times.boundaries[-1] - times.boundaries[0]), 3))
    assert (spans[0][0], spans[-1][1]) == (0.0, float(times.duration_s))
    assert spans[0][1] == spans[1][0]


def test_an_unknown_last_duration_is_that_of_the_frame_before() -> None:
    assert timeline(times_of([0, 40, 100]), 0, CLOCK).boundaries.tolist() == [0, 40, 100, 160]


@given(st.lists(st.none() | st.integers(0, 50), min_size=2, max_size=10))
def test_unusable_timestamps_give_evenly_spaced_frames(pts: list[int | None]) -> None:
    known = [value for value in pts if value is not None]
    assume(len(known) < len(pts) or known != sorted(set(known)))
    times = timeline(times_of(pts), 40, CLOCK)
    assert times.duration_s == Fraction(len(pts), 25)
    assert times.num_frames == len(pts)


def test_neither_timestamps_nor_a_rate_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither timestamps nor a frame rate"):
        timeline(times_of([None, None]), 0, replace(CLOCK, frame_s=None))


@pytest.mark.parametrize("pts", [[0, 2**62 + 1], [-(2**62), 2**62], [2**63 - 2, 2**63 - 1]])
def test_times_that_span_ages_are_none(pts: list[int]) -> None:
    assert timeline(times_of(pts), 40, CLOCK).boundaries.tolist() == [0, 1, 2]


@settings(deadline=None)
@given(stored_videos())
def test_the_reach_of_a_frame_is_the_run_that_gives_it(packets: list[Row]) -> None:
    costs = reach(stored(packets))
    assert [packets[position][0] for position in costs.positions] == list(range(len(packets)))
    for start, position in zip(costs.starts.tolist(), costs.positions.tolist(), strict=True):
        assert packets_to_send(stored(packets), [position]) == [range(start, position + 1)]
