import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from settings import clips_config
from torch import nn

from fvc.networks import ClipClassifier
from fvc.serving.scorer import Scorer

CLIPS = clips_config(3, 4, 32)


def small() -> ClipClassifier:
    return ClipClassifier(nn.Conv3d(3, 4, 3), channels=4, dropout=0.0, clips=CLIPS).eval()


class Counting(nn.Module):
    """Keeps how many clips passed together, and the first of them waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[int] = []
        self.open = threading.Event()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.passed.append(len(clips))
        assert self.open.wait(30)
        return clips.mean(dim=(3, 4), keepdim=True)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch computes with, until the test ends."""
    usual = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(usual)


def test_clips_that_wait_pass_together_unless_they_differ_in_size(
    threads: Callable[[int], None],
) -> None:
    threads(1)
    features = Counting()
    config = clips_config(1, 4, 32, fit="native")
    network = ClipClassifier(features, channels=3, dropout=0.0, clips=config).eval()
    scorer = Scorer(network)
    sizes = [(1, 32), (2, 32), (3, 32), (1, 16), (1, 32)]
    videos = [torch.zeros((count, 4, 3, 32, side), dtype=torch.uint8) for count, side in sizes]
    with ThreadPoolExecutor(len(videos)) as clients:
        asked = []
        for number, pixels in enumerate(videos):
            asked.append(clients.submit(scorer.logits, pixels))
            while len(features.passed) == 0 or scorer.waiting < number:
                threading.Event().wait(0.01)
        features.open.set()
        assert [len(each.result()) for each in asked] == [count for count, _ in sizes]
    scorer.close()
    assert features.passed == [1, 5, 1, 1]


class Meeting(nn.Module):
    """Keeps with how many threads clips passed; as many as meet pass at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.with_threads: list[int] = []
        self.passed_in: list[int] = []
        self.meet = threading.Barrier(1)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.meet.wait(30)
        self.with_threads.append(torch.get_num_threads())
        self.passed_in.append(threading.get_ident())
        self.meet.wait(30)
        return clips.mean(dim=(3, 4), keepdim=True)


def test_a_lone_request_has_all_threads_and_several_share_them(
    threads: Callable[[int], None],
) -> None:
    threads(4)
    features = Meeting()
    network = ClipClassifier(features, channels=3, dropout=0.0, clips=CLIPS).eval()
    scorer = Scorer(network)
    pixels = torch.zeros((3, 4, 3, 32, 32), dtype=torch.uint8)
    for _ in range(3):
        features.meet, features.with_threads = threading.Barrier(4), []
        with ThreadPoolExecutor(4) as clients:
            assert all(len(logits) == 3 for logits in clients.map(scorer.logits, [pixels] * 4))
        assert len(features.with_threads) == 4, "four did not pass at the same time"
        assert 1 in features.with_threads, "four threads that compute with more fight for cores"
    features.meet, features.with_threads, features.passed_in = threading.Barrier(1), [], []
    for _ in range(16):
        scorer.logits(pixels)
        while scorer.idle < 4:
            time.sleep(0.001)
    assert features.with_threads == [4] * 16, "the share of an earlier crowd stays"
    assert len(set(features.passed_in)) == 1, "two threads that take turns each keep a team"
    scorer.close()
    with pytest.raises(RuntimeError, match="closed"):
        scorer.logits(pixels)


def test_what_needs_the_network_alone_has_it(threads: Callable[[int], None]) -> None:
    """An explanation listens to the network's layers, which must not hear of other videos."""
    threads(3)
    scorer, busy, seen = Scorer(small()), 0, []

    def listen(network: ClipClassifier) -> None:
        nonlocal busy
        busy += 1
        hook = network.features.register_forward_hook(lambda *_: seen.append(busy))
        time.sleep(0.01)
        assert busy == 1, "two had it alone"
        hook.remove()
        busy -= 1

    pixels = torch.zeros((1, 4, 3, 32, 32), dtype=torch.uint8)
    with ThreadPoolExecutor(8) as clients:
        asked = [
            clients.submit(scorer.call, listen)
            if number % 4 == 0
            else clients.submit(scorer.logits, pixels)
            for number in range(40)
        ]
        for each in asked:
            each.result(30)
    scorer.close()
    assert not seen, "a video passed while the network was to be alone"


def test_an_error_reaches_who_asked_and_the_next_is_scored() -> None:
    scorer = Scorer(small())
    with pytest.raises(ValueError, match="clips are"):
        scorer.logits(torch.zeros((1, 2, 3, 32, 32), dtype=torch.uint8))
    with pytest.raises(ZeroDivisionError):
        scorer.call(lambda _: 1 / 0)
    assert len(scorer.logits(torch.zeros((2, 4, 3, 32, 32), dtype=torch.uint8))) == 2
    scorer.close()


ENDING = """
import atexit, threading, torch
from torch import nn
from settings import clips_config
from fvc.networks import ClipClassifier
from fvc.serving.scorer import Scorer

def tell():
    print([thread.name for thread in threading.enumerate() if "scorer" in thread.name])

atexit.register(tell)  # the last one is called first, so this after those of the scorer
clips = clips_config(2, 4, 32)
network = ClipClassifier(nn.Conv3d(3, 4, 3), channels=4, dropout=0.0, clips=clips)
scorer = Scorer(network.eval())
scorer.logits(torch.zeros((2, 4, 3, 32, 32), dtype=torch.uint8))
"""


def test_its_threads_are_gone_before_python_is() -> None:
    """Else one time in ten the process was aborted at its end: no exception, status 134."""
    ran = subprocess.run(
        [sys.executable, "-c", ENDING],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.returncode) == ("[]\n", 0), ran.stderr
