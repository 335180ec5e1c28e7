import numpy as np
import pytest
from augmentation import textured_clip
from jaxtyping import UInt8

from fvc.recompression import recompress

Frames = list[UInt8[np.ndarray, "H W 3"]]


def frames_of(num_frames: int, height: int, width: int) -> Frames:
    clip = textured_clip(num_frames, height, width)
    return [np.ascontiguousarray(frame) for frame in clip.transpose(0, 2, 3, 1)]


def loss(before: Frames, after: Frames) -> float:
    return float(np.abs(np.stack(after).astype(int) - np.stack(before)).mean())


@pytest.mark.parametrize("level", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 40, 90)])
@pytest.mark.parametrize("crf", [20.0, 35.0])
def test_a_flat_clip_stays(level: tuple[int, int, int], crf: float) -> None:
    frames = [np.full((48, 64, 3), level, np.uint8)] * 5
    difference = np.stack(recompress(frames, crf)).astype(int) - frames[0]
    assert np.abs(difference).max() <= 2, "colours are shifted"


def test_a_higher_rate_factor_loses_more() -> None:
    frames = frames_of(6, 64, 96)
    losses = [loss(frames, recompress(frames, crf)) for crf in (10.0, 20.0, 30.0, 40.0, 51.0)]
    assert losses == sorted(losses)
    assert losses[0] < 0.5 * losses[-1]


def test_frames_come_in_order_and_keep_their_brightness() -> None:
    frames = [np.full((32, 32, 3), 30 + 12 * number, np.uint8) for number in range(16)]
    means = [frame.mean() for frame in recompress(frames, 28.0)]
    assert means == pytest.approx([30 + 12 * number for number in range(16)], abs=2)


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (15, 17), (33, 40), (126, 224), (127, 223)])
@pytest.mark.parametrize("num_frames", [1, 3])
def test_odd_and_tiny_sides_come_back(size: tuple[int, int], num_frames: int) -> None:
    frames = [np.full((*size, 3), (90, 120, 60), np.uint8)] * num_frames
    result = recompress(frames, 23.0)
    assert [frame.shape for frame in result] == [(*size, 3)] * num_frames
    assert loss(frames, result) <= 2


def test_an_edge_at_an_odd_side_is_no_worse() -> None:
    frames = frames_of(3, 65, 97)
    even = [np.ascontiguousarray(frame[:64, :96]) for frame in frames]
    assert loss(frames, recompress(frames, 25.0)) < 1.2 * loss(even, recompress(even, 25.0))


def test_each_frame_is_coded_by_itself() -> None:
    frames = [
        frame[::step].repeat(step, axis=0) for step in (1, 4) for frame in frames_of(3, 64, 96)
    ]
    frames = [np.ascontiguousarray(frame) for frame in frames]
    together = recompress(frames, 35.0)
    alone = [recompress([frame], 35.0)[0] for frame in frames]
    assert np.array_equal(np.stack(together), np.stack(alone)), "a frame shows traces of another"


def test_equal_frames_and_factors_give_equal_frames() -> None:
    frames = frames_of(12, 90, 160)
    first = recompress(frames, 27.5)
    for _ in range(5):
        assert np.array_equal(first, recompress(frames, 27.5))


def test_chroma_is_neither_shifted_nor_swapped() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:, 32:, 0] = 200
    frame[:32, :, 2] = 200
    (result,) = recompress([frame], 12.0)
    inside = np.abs(result.astype(int) - frame)
    # At the borders between colours, 4:2:0 must blend.
    away = np.abs(np.arange(64) - 31.5) > 3
    assert inside[np.ix_(away, away)].max() <= 8
    middle = (result[48, 31:33, 0].astype(float)).mean()
    assert middle == pytest.approx(100, abs=20)
