import gc
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from settings import clips_config
from torch import Tensor, nn

from fvc.errors import FvcError
from fvc.networks import ClipClassifier
from fvc.predict import CLIPS_AT_ONCE, clip_logits, probability_fake, video_logit, video_logits

CLIPS = clips_config(3, 4, 16)


@pytest.fixture(autouse=True, scope="module")
def collections_are_quick() -> Iterator[None]:
    """Each collection looks through all that was imported, unless that is frozen."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def network() -> ClipClassifier:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU())
    return ClipClassifier(features, channels=6, dropout=0.5, clips=CLIPS)


def random_pixels(seed: int, num_clips: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_clips, 4, 3, 16, 16), dtype=torch.uint8, generator=generator)


def test_each_clip_has_the_logit_that_it_has_alone(network: ClipClassifier) -> None:
    pixels = random_pixels(0, num_clips=11)
    logits = clip_logits(network, pixels)
    alone = torch.cat([clip_logits(network, pixels[row : row + 1]) for row in range(11)])
    assert logits.shape == (11,)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, alone)


def test_scoring_a_network_in_training_changes_nothing_in_it(network: ClipClassifier) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = clip_logits(network, random_pixels(0))
    assert torch.equal(clip_logits(network, random_pixels(0)), first), "dropout is active"
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), f"scoring moved {name}"


def test_a_video_does_not_depend_on_the_others(network: ClipClassifier) -> None:
    together = video_logits(network, [random_pixels(seed) for seed in range(4)])
    alone = [video_logits(network, [random_pixels(seed)])[0] for seed in range(4)]
    assert together.dtype == np.float64
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_videos_are_loaded_one_at_a_time(network: ClipClassifier) -> None:
    scored: list[int] = []
    network.register_forward_hook(lambda *_: scored.append(1))

    def load() -> Iterator[Tensor]:
        for seed in range(3):
            assert len(scored) == seed, "all videos are in memory at once"
            yield random_pixels(seed)

    assert len(video_logits(network, load())) == 3


def test_videos_may_differ_in_size_and_number_of_clips(network: ClipClassifier) -> None:
    native = ClipClassifier(
        network.features, channels=6, dropout=0.5, clips=clips_config(3, 4, 16, fit="native")
    )
    videos = [random_pixels(0, 2)[..., :9], random_pixels(1, 11)[..., :1, :], random_pixels(2, 1)]
    logits = video_logits(native, videos)
    assert logits.tolist() == [video_logit(clip_logits(native, pixels)) for pixels in videos]
    assert np.isfinite(logits).all()


def room_for(most: int, network: ClipClassifier) -> list[int]:
    """Let the network run out of memory above so many clips; gives what it is asked for."""
    asked: list[int] = []

    def limit(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        asked.append(len(given[0]))
        if len(given[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    network.features.register_forward_pre_hook(limit)
    return asked


@pytest.mark.parametrize(
    ("most", "num_clips", "expected"),
    [
        (8, 11, [8, 3]),
        (4, 11, [8, 4, 4, 3]),
        (3, 11, [8, 4, 2, 2, 2, 2, 2, 1]),
        (1, 3, [3, 1, 1, 1]),
    ],
)
def test_out_of_memory_costs_time_and_no_accuracy(
    network: ClipClassifier, most: int, num_clips: int, expected: list[int]
) -> None:
    pixels = random_pixels(0, num_clips)
    undisturbed = clip_logits(network, pixels)
    asked = room_for(most, network)
    torch.testing.assert_close(clip_logits(network, pixels), undisturbed)
    assert asked == expected


def test_out_of_memory_in_the_middle_of_a_video_leaves_no_clip_out(
    network: ClipClassifier,
) -> None:
    pixels = random_pixels(0, 11)
    undisturbed = clip_logits(network, pixels)
    calls: list[int] = []

    def fail_once(*_: object) -> None:
        calls.append(len(calls))
        if len(calls) == 2:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")

    network.features.register_forward_hook(fail_once)
    torch.testing.assert_close(clip_logits(network, pixels), undisturbed)


def test_videos_after_one_that_did_not_fit_are_not_tried_with_as_many(
    network: ClipClassifier,
) -> None:
    videos = [random_pixels(seed, 9) for seed in range(3)]
    undisturbed = video_logits(network, videos)
    asked = room_for(5, network)
    np.testing.assert_allclose(video_logits(network, videos), undisturbed, rtol=1e-5)
    assert asked == [CLIPS_AT_ONCE, 4, 4, 1, 4, 4, 1, 4, 4, 1]


def test_short_videos_do_not_shrink_what_is_tried_with_long_ones(network: ClipClassifier) -> None:
    asked = room_for(8, network)
    video_logits(network, [random_pixels(0, 2), random_pixels(1, 8)])
    assert asked == [2, 8]


def test_a_clip_that_does_not_fit_alone_is_an_error_with_a_remedy(network: ClipClassifier) -> None:
    room_for(0, network)
    with pytest.raises(
        FvcError, match=r"one clip at a time \(CUDA out of memory.*clips\.num_frames"
    ):
        video_logits(network, [random_pixels(0)])


def test_the_logit_of_a_video_is_the_mean() -> None:
    assert video_logit(torch.tensor([1.0, 2.0, 6.0])) == 3.0


def test_clips_of_another_shape_are_refused(network: ClipClassifier) -> None:
    with pytest.raises(ValueError, match=r"not \(N, 3, 4, 16, 16\)"):
        clip_logits(network, random_pixels(0)[:, :2])


@pytest.mark.parametrize("logit", [-800.0, -2.0, 0.0, 0.3, 5.0, 800.0])
def test_the_probability_is_the_logistic_function(logit: float) -> None:
    expected = 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
    assert probability_fake(logit) == pytest.approx(expected, abs=1e-15)
