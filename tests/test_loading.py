import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import clips_config, loader_config
from source_tree import ROOT
from torch import Tensor, nn

from fvc.batches import Batch
from fvc.clip_files import save_clips
from fvc.config import ClipsConfig, Imbalance, LoaderConfig, load_params
from fvc.dataset import Augmentation, ClipDataset
from fvc.errors import FvcError
from fvc.loading import Buffers, ClipLoader, prefetched
from fvc.networks import ClipClassifier
from fvc.training.epoch import train_epoch
from fvc.training.losses import make_loss
from fvc.training.state import start_training
from fvc.training.tally import Tally

PARAMS = load_params(ROOT / "params.yaml")
PLAIN = loader_config()
WAYS = {
    "no thread": PLAIN,
    "thread": replace(PLAIN, prefetch_batches=2),
    "workers": replace(PLAIN, num_workers=2),
    "persistent workers": replace(PLAIN, num_workers=2, persistent_workers=True),
    "ram": replace(PLAIN, cache="ram", prefetch_batches=1),
    "ram and a worker": replace(PLAIN, cache="ram", num_workers=1, prefetch_factor=1),
    "device": replace(PLAIN, cache="device"),
}
CPU = torch.device("cpu")
VIDEOS = {f"v{number}": number % 2 for number in range(6)}
LIVE = Augmentation(config=replace(PARAMS.augment, versions=1), seed=0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos, of which two are wider than high, with one or two clips each."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    for number, video_id in enumerate(VIDEOS):
        shape = (1 + number % 2, 4, 3, 10 if number > 3 else 16, 16)
        save_clips(folder / f"{video_id}.pt", generator.integers(0, 256, shape, np.uint8), "key")
    return folder


def loader_of(
    clips: Path,
    config: LoaderConfig,
    versions: Augmentation | None = LIVE,
    batch_size: int = 4,
    imbalance: Imbalance = "balanced_batches",
) -> ClipLoader:
    dataset = ClipDataset(VIDEOS, clips, versions)
    return ClipLoader(dataset, batch_size, config, imbalance=imbalance, seed=0, device=CPU)


def same(first: list[Batch], second: list[Batch]) -> bool:
    def equal(a: Tensor | int | None, b: Tensor | int | None) -> bool:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return torch.equal(a, b)
        return a == b

    return len(first) == len(second) and all(
        equal(a, b) for pair in zip(first, second, strict=True) for a, b in zip(*pair, strict=True)
    )


def require_ended(threads: int) -> None:
    """No more threads run than before; one that feeds a worker ends soon after the worker."""
    deadline = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    left = [thread.name for thread in threading.enumerate()]
    assert len(left) <= threads, f"a thread is left: {left}"


@pytest.fixture(scope="module")
def expected(clips: Path) -> list[list[Batch]]:
    """Four epochs, on the fly."""
    with loader_of(clips, PLAIN) as loader:
        return [list(loader.batches(epoch)) for epoch in range(4)]


@pytest.mark.parametrize("way", WAYS)
def test_batches_are_the_same_however_they_are_loaded(
    clips: Path, way: str, expected: list[list[Batch]]
) -> None:
    assert any(batch.mask is not None for batch in expected[0]), "no batch is padded"
    assert not same(expected[0], expected[1])
    with loader_of(clips, WAYS[way]) as loader:
        for epoch in (0, 1, 3):
            assert same(list(loader.batches(epoch)), expected[epoch])


@pytest.mark.parametrize("way", ["thread", "workers"])
@pytest.mark.parametrize(
    ("imbalance", "sizes"), [("none", [4, 4, 4, 3]), ("weighted_sampler", [4, 4, 4, 4, 2])]
)
def test_the_loader_draws_as_it_is_told(
    clips: Path, way: str, imbalance: Imbalance, sizes: list[int]
) -> None:
    with loader_of(clips, WAYS[way], imbalance=imbalance) as loader:
        first, again = ([batch.labels for batch in loader.batches(epoch)] for epoch in (0, 0))
    assert [len(labels) for labels in first] == sizes
    assert torch.equal(torch.cat(first), torch.cat(again))
    if imbalance == "none":
        assert torch.cat(first).sum() == 9, "an example is missing, or there twice"


@pytest.mark.parametrize("way", WAYS)
def test_loading_goes_on_in_the_middle_of_an_epoch(
    clips: Path, way: str, expected: list[list[Batch]]
) -> None:
    with loader_of(clips, WAYS[way]) as loader:
        for epoch, first in ((2, 3), (2, 0), (1, 1)):
            rest = list(loader.batches(epoch, first=first))
            assert same(rest, expected[epoch][first:]), "these are not the remaining batches"


@pytest.mark.parametrize("way", WAYS)
def test_an_epoch_left_early_leaves_nothing_behind(
    clips: Path, way: str, expected: list[list[Batch]]
) -> None:
    threads = threading.active_count()
    with loader_of(clips, WAYS[way]) as loader:
        next(loader.batches(0))
        assert same(list(loader.batches(1)), expected[1]), "batches of the epoch before came"
        held = loader.batches(2)
        next(held)
    require_ended(threads)
    assert not active_children(), "a worker is left"
    assert list(held) == [], "an ended loader went on"


@pytest.mark.parametrize("way", ["thread", "persistent workers"])
def test_an_error_of_the_consumer_ends_loading(clips: Path, way: str) -> None:
    threads = threading.active_count()

    def consume() -> None:
        with loader_of(clips, WAYS[way]) as loader:
            for _ in loader.batches(0):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        consume()
    # The traceback still holds the frame that held the loader.
    assert raised.traceback
    require_ended(threads)
    assert not active_children(), "a worker is left"


def test_loading_draws_no_random_numbers(clips: Path) -> None:
    state = torch.get_rng_state()
    for config in (WAYS["thread"], WAYS["workers"]):
        with loader_of(clips, config) as loader:
            list(loader.batches(0))
    assert torch.equal(torch.get_rng_state(), state)


def small_network(clips: ClipsConfig) -> ClipClassifier:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU())
    return ClipClassifier(features, channels=4, dropout=0.5, clips=clips)


def trained_weights(clips: Path, config: LoaderConfig) -> list[bytes]:
    network = small_network(clips_config(2, 4, 16, fit="native"))
    loss = make_loss(PARAMS.train, (1, 1))
    training = start_training(network, loss, PARAMS.train, seed=0)
    with loader_of(clips, config) as loader:
        for epoch in range(2):
            train_epoch(training, loader.batches(epoch), Tally(), epoch=epoch, steps=len(loader))
    return [value.numpy().tobytes() for value in network.state_dict().values()]


def test_weights_do_not_depend_on_the_loader(clips: Path) -> None:
    weights = {way: trained_weights(clips, config) for way, config in WAYS.items()}
    different = [way for way, found in weights.items() if found != weights["no thread"]]
    assert not different, f"other weights by {different}: loader must then enter the run's key"


def numbers_until(stop: int, made: list[int]) -> Iterator[int]:
    for number in range(stop):
        made.append(number)
        yield number


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_all_items_come_in_order(depth: int) -> None:
    assert list(prefetched(numbers_until(20, []), depth)) == list(range(20))
    assert list(prefetched(iter([]), depth)) == []


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_made_in_advance_than_asked_for(depth: int) -> None:
    made: list[int] = []
    items = prefetched(numbers_until(20, made), depth)
    for taken in range(1, 6):
        next(items)
        deadline = time.monotonic() + 10
        while len(made) < taken + depth and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.01)
        assert len(made) == taken + depth
    items.close()
    assert len(made) == 5 + depth


def test_an_error_of_the_thread_comes_where_its_item_would_have() -> None:
    def failing() -> Iterator[int]:
        yield 0
        yield 1
        raise FvcError("v1.pt", "is damaged", "Delete it")

    threads = threading.active_count()
    items = prefetched(failing(), 4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(FvcError, match=r"v1\.pt: is damaged\. Delete it"):
        next(items)
    assert threading.active_count() == threads
    assert list(items) == []


def test_the_thread_ends_with_the_consumer() -> None:
    threads = threading.active_count()
    for stop in ("close", "forget", "use up"):
        items = prefetched(numbers_until(5, []), 2)
        next(items)
        assert threading.active_count() == threads + 1, "more than one thread loads"
        if stop == "close":
            items.close()
        elif stop == "use up":
            list(items)
        del items
        assert threading.active_count() == threads, f"the thread outlives '{stop}'"


def test_memory_is_used_again_when_nobody_refers_to_it() -> None:
    buffers = Buffers()
    first = buffers.take((2, 8))
    address = first.data_ptr()
    assert buffers.take((2, 8)).data_ptr() != address, "memory in use was given out again"
    row = first[1]
    del first
    assert buffers.take((2, 8)).data_ptr() != address, "a row of a batch is still in use"
    del row
    # Of what is free, what came back last is given out first.
    assert buffers.take((3, 4)).data_ptr() == address
    assert buffers.take((4, 5)).shape == (4, 5)


def test_memory_grows_to_the_largest_batch_and_no_further() -> None:
    buffers = Buffers()
    sizes = [int(size) for size in np.random.default_rng(0).integers(1, 100, 200)]
    for size in [*sizes, 100]:
        tensor = buffers.take((size,))
        assert tensor.shape == (size,)
        del tensor
    addresses = {buffers.take((size,)).data_ptr() for size in sizes}
    assert len(addresses) == 1


def test_batches_kept_by_the_consumer_are_not_overwritten(clips: Path) -> None:
    with loader_of(clips, WAYS["thread"], batch_size=2) as loader:
        kept = list(loader.batches(0))
        copies = [batch.pixels.clone() for batch in kept]
        list(loader.batches(1))
    assert all(torch.equal(*pair) for pair in zip([b.pixels for b in kept], copies, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_batches_reach_a_gpu_as_they_are(
    clips: Path, cache: str, expected: list[list[Batch]]
) -> None:
    config = replace(WAYS["thread"], cache=cache)  # type: ignore[arg-type]
    versions = None if cache == "device" else LIVE
    with loader_of(clips, PLAIN, versions) as loader:
        wanted = list(loader.batches(0))
    cuda = torch.device("cuda")
    with ClipLoader(
        ClipDataset(VIDEOS, clips, versions),
        4,
        config,
        imbalance="balanced_batches",
        seed=0,
        device=cuda,
    ) as loader:
        found = list(loader.batches(0))
    assert {batch.pixels.device.type for batch in found} == {"cuda"}
    assert cache == "device" or same(wanted, expected[0])
    on_cpu = [
        batch._replace(
            pixels=batch.pixels.cpu(),
            labels=batch.labels.cpu(),
            mask=None if batch.mask is None else batch.mask.cpu(),
        )
        for batch in found
    ]
    assert same(on_cpu, wanted)
