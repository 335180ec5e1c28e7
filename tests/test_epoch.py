from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from settings import clips_config, train_config
from torch import Tensor, nn

from fvc.batches import Batch
from fvc.config import ModelConfig, TrainConfig
from fvc.diagnostics import SERIES
from fvc.epoch import accumulation_steps, grouped, start_training, train_epoch
from fvc.errors import FvcError
from fvc.networks import ClipClassifier, build_network

CONFIG = train_config(
    optimizer="adam",
    learning_rate=1.0e-2,
    weight_decay=0.0,
    batch_size=4,
    epochs=3,
    patience=3,
    best_by="validation/loss",
    mixed_precision=False,
    gradient_clip_norm=1.0e6,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on pictures this small, and most where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_network(dropout: float = 0.0) -> ClipClassifier:
    torch.manual_seed(0)
    clips = clips_config(1, 4, 16)
    features = nn.Sequential(nn.Conv3d(3, 6, 3, padding=1), nn.ReLU())
    return ClipClassifier(features, channels=6, dropout=dropout, clips=clips)


def random_batch(size: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (size, 4, 3, 16, 16)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Batch(pixels, (torch.arange(size) % 2).float())


def trained_weights(batches: list[Batch], config: TrainConfig, dropout: float = 0.0) -> Tensor:
    network = small_network(dropout)
    train_epoch(start_training(network, config), batches, config, seed=0, epoch=0)
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1), (32, 1)])
def test_small_batches_are_accumulated(batch_size: int, steps: int) -> None:
    assert accumulation_steps(batch_size) == steps


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        accumulation_steps(0)


def test_the_last_group_may_be_shorter() -> None:
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1, 1, 1, 1]), (2, [2, 2]), (3, [3, 1]), (2, [1, 3])]
)
def test_accumulated_batches_train_as_one(batch_size: int, sizes: list[int]) -> None:
    # Stochastic descent, since the steps of Adam do not depend on the gradient's scale.
    pixels, labels, _ = random_batch(4)
    results = []
    for config, parts in ((CONFIG, [4]), (replace(CONFIG, batch_size=batch_size), sizes)):
        training = start_training(small_network(), config)
        descent = torch.optim.SGD(training.network.parameters(), lr=0.1)
        batches = list(map(Batch, pixels.split(parts), labels.split(parts)))  # type: ignore[no-untyped-call]
        train_epoch(replace(training, optimizer=descent), batches, config, seed=0, epoch=0)
        weights = training.network.state_dict().values()
        results.append(torch.cat([value.flatten() for value in weights]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_mean_over_clips_and_falls() -> None:
    training = start_training(small_network(), CONFIG)
    rows = [
        train_epoch(training, [random_batch(4)], CONFIG, seed=0, epoch=epoch) for epoch in range(30)
    ]
    losses = [row["train/loss"] for row in rows]
    assert losses[0] == pytest.approx(0.69, abs=0.1)
    assert losses[-1] < 0.8 * losses[0]


def test_the_series_are_those_of_training_in_their_order() -> None:
    row = train_epoch(
        start_training(small_network(), CONFIG), [random_batch(4)] * 3, CONFIG, seed=0, epoch=0
    )
    assert list(row) == [name for name in SERIES if name.startswith("train/")]
    assert row["train/learning_rate"] == CONFIG.learning_rate
    assert row["train/batch_size"] == 4
    assert row["train/clips_per_s"] > 0


def test_gradients_are_clipped_and_their_norm_is_logged_before() -> None:
    config = replace(CONFIG, gradient_clip_norm=1.0e-3)
    training = start_training(small_network(), config)
    descent = torch.optim.SGD(training.network.parameters(), lr=1.0)
    before = torch.cat([parameter.flatten() for parameter in training.network.parameters()])
    before = before.detach().clone()
    row = train_epoch(
        replace(training, optimizer=descent), [random_batch(4)], config, seed=0, epoch=0
    )
    after = torch.cat([parameter.flatten() for parameter in training.network.parameters()])
    assert row["train/grad_norm"] > 1.0e-2
    assert float((after - before).norm().detach()) == pytest.approx(1.0e-3, rel=1e-2)


def test_dropout_depends_on_seed_and_epoch_alone() -> None:
    def weights(seed: int, epoch: int, noise: int) -> Tensor:
        network = small_network(dropout=0.5)
        torch.manual_seed(noise)
        train_epoch(
            start_training(network, CONFIG), [random_batch(4)] * 2, CONFIG, seed=seed, epoch=epoch
        )
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    first = weights(0, 1, noise=0)
    assert torch.equal(weights(0, 1, noise=1), first)
    assert not torch.equal(weights(0, 2, noise=0), first)
    assert not torch.equal(weights(1, 1, noise=0), first)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_weight_decay_shrinks_the_weights(optimizer: str) -> None:
    plain = replace(CONFIG, optimizer=optimizer)  # type: ignore[arg-type]
    decayed = replace(plain, weight_decay=1.0)
    batches = [random_batch(4)] * 5
    assert trained_weights(batches, decayed).norm() < trained_weights(batches, plain).norm()


def test_a_loss_that_is_no_number_ends_the_epoch() -> None:
    network = small_network()
    with torch.no_grad():
        network.classifier.bias.fill_(torch.nan)
    with pytest.raises(FvcError, match="epoch 2: train/loss is nan, training diverged"):
        train_epoch(start_training(network, CONFIG), [random_batch(4)], CONFIG, seed=0, epoch=2)


def test_mixed_precision_trains_almost_alike() -> None:
    mixed = replace(CONFIG, mixed_precision=True)
    rows = [
        train_epoch(
            start_training(small_network(), config), [random_batch(4)] * 4, config, seed=0, epoch=0
        )
        for config in (CONFIG, mixed)
    ]
    assert rows[1]["train/loss"] == pytest.approx(rows[0]["train/loss"], rel=0.02)


def test_a_step_of_the_real_network_is_finite_in_mixed_precision() -> None:
    model = ModelConfig(network="r3d_18", pretrained="none", head_channels=512, dropout=0.5)
    clips = clips_config(1, 8, 64)
    config = replace(CONFIG, mixed_precision=True, batch_size=2, learning_rate=1.0e-4)
    torch.manual_seed(0)
    network = build_network(model, clips)
    pixels = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    row = train_epoch(
        start_training(network, config),
        [Batch(pixels, torch.tensor([0.0, 1.0]))],
        config,
        seed=0,
        epoch=0,
    )
    assert 0 < row["train/grad_norm"] < 1.0e3
    for name, value in network.state_dict().items():
        assert value.isfinite().all(), f"{name} is not finite after one step"
