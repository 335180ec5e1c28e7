from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.sampling import sample_frames

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
