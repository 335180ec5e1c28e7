import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from settings import clips_config, model_config, train_config
from torch import Tensor, nn
from torch.nn import functional

from fvc.batches import Batch
from fvc.config import TrainConfig
from fvc.errors import FvcError
from fvc.networks import ClipClassifier, build_network
from fvc.training.diagnostics import SERIES, STAGE_SERIES
from fvc.training.epoch import accumulation_steps, grouped, timed, train_epoch
from fvc.training.losses import make_loss
from fvc.training.state import Training, start_training
from fvc.training.tally import Tally

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


def started(network: ClipClassifier, config: TrainConfig, seed: int = 0) -> Training:
    return start_training(network, make_loss(config, (1, 1)), config, seed=seed)


def run_epoch(training: Training, batches: list[Batch], epoch: int = 0) -> dict[str, float]:
    steps = -(-len(batches) // accumulation_steps(training.config.batch_size))
    return train_epoch(training, batches, Tally(), epoch=epoch, steps=steps)


def descended(training: Training, rate: float) -> Training:
    """Stochastic descent, since the steps of Adam do not depend on the gradient's scale."""
    training.optimizer = torch.optim.SGD(training.network.parameters(), lr=rate)
    training.optimizer.param_groups[0]["initial_lr"] = rate
    return training


def flat(network: ClipClassifier) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def trained_weights(batches: list[Batch], config: TrainConfig, dropout: float = 0.0) -> Tensor:
    network = small_network(dropout)
    run_epoch(started(network, config), batches)
    return flat(network)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 4), (2, 2), (3, 2), (4, 1), (8, 1), (32, 1)])
def test_small_batches_are_accumulated(batch_size: int, steps: int) -> None:
    assert accumulation_steps(batch_size) == steps


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        accumulation_steps(0)


def test_the_last_group_may_be_shorter() -> None:
    assert list(grouped(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_waiting_for_batches_counts_and_working_on_them_does_not() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.03)
            yield number

    waits: list[float] = []
    for _ in timed(slow(), waits.append):
        time.sleep(0.1)
    assert len(waits) == 3
    assert all(0.03 <= wait < 0.1 for wait in waits)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1, 1, 1, 1]), (2, [2, 2]), (3, [3, 1]), (2, [1, 3])]
)
def test_accumulated_batches_train_as_one(batch_size: int, sizes: list[int]) -> None:
    pixels, labels = random_batch(4)[:2]
    results = []
    for config, parts in ((CONFIG, [4]), (replace(CONFIG, batch_size=batch_size), sizes)):
        training = descended(started(small_network(), config), rate=0.1)
        cut = zip(torch.split(pixels, parts), torch.split(labels, parts), strict=True)
        run_epoch(training, [Batch(*each) for each in cut])
        results.append(flat(training.network))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_mean_over_clips_and_falls() -> None:
    training = started(small_network(), CONFIG)
    rows = [run_epoch(training, [random_batch(4)], epoch) for epoch in range(30)]
    losses = [row["train/loss"] for row in rows]
    assert losses[0] == pytest.approx(0.69, abs=0.1)
    assert losses[-1] < 0.8 * losses[0]
    for row in rows:
        assert row["train/loss_by_hand"] == pytest.approx(row["train/loss"], rel=1e-5)


def test_the_series_are_those_of_training_and_of_the_stages() -> None:
    row = run_epoch(started(small_network(), CONFIG), [random_batch(4)] * 3)
    # What the memory is at the end of an epoch is said by the loop.
    known = {name for name in SERIES if name.startswith("train/")} - {"train/memory_mib"}
    stages = {f"{STAGE_SERIES}{name}" for name in ("features", "head")}
    assert set(row) == known | stages
    assert row["train/learning_rate"] == CONFIG.learning_rate
    assert (row["train/batch_size"], row["train/micro_batch_size"]) == (4, 4)
    assert row["train/clips_per_s"] > 0


def test_the_learning_rate_follows_the_schedule() -> None:
    config = replace(CONFIG, schedule="cosine", warmup_epochs=1.0, epochs=3)
    training = started(small_network(), config)
    rates = [run_epoch(training, [random_batch(4)] * 2, epoch) for epoch in range(3)]
    assert [row["train/learning_rate"] / config.learning_rate for row in rates] == pytest.approx(
        [1.0, (1 + math.cos(math.pi / 4)) / 2, (1 + math.cos(3 * math.pi / 4)) / 2]
    )


def test_the_backbone_may_be_slower() -> None:
    slow = replace(CONFIG, backbone_rate_factor=1.0e-3)
    before = flat(small_network())
    moved = [
        (trained_weights([random_batch(4)], config) - before).abs() for config in (CONFIG, slow)
    ]
    assert moved[1][:-7].max() < 0.01 * moved[0][:-7].max(), "the features"
    assert moved[1][-7:].max() == moved[0][-7:].max(), "the classifier"


def test_a_frozen_backbone_stays_and_the_head_learns() -> None:
    frozen = replace(CONFIG, fine_tuning="frozen", weight_decay=0.1)
    before, after = flat(small_network()), trained_weights([random_batch(4)] * 3, frozen)
    assert torch.equal(after[:-7], before[:-7])
    assert not torch.equal(after[-7:], before[-7:])


def test_an_average_follows_the_weights() -> None:
    training = started(small_network(), replace(CONFIG, ema_decay=0.5))
    start = flat(training.network)
    run_epoch(training, [random_batch(4)])
    # The average begins with the weights after the first step.
    first = flat(training.network)
    torch.testing.assert_close(flat(training.scored), first)
    run_epoch(training, [random_batch(4)], epoch=1)
    torch.testing.assert_close(flat(training.scored), (first + flat(training.network)) / 2)
    assert not torch.equal(start, first)


def test_gradients_are_clipped_and_their_norm_is_logged_before() -> None:
    config = replace(CONFIG, gradient_clip_norm=1.0e-3)
    training = descended(started(small_network(), config), rate=1.0)
    before = flat(training.network)
    row = run_epoch(training, [random_batch(4)])
    assert row["train/grad_norm"] > 1.0e-2
    moved = float((flat(training.network) - before).norm())
    assert moved == pytest.approx(1.0e-3, rel=1e-2)
    assert row["train/update_ratio"] == pytest.approx(moved / float(before.norm()), rel=1e-2)


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def weights(seed: int, epoch: int, noise: int) -> Tensor:
        network = small_network(dropout=0.5)
        torch.manual_seed(noise)
        run_epoch(started(network, CONFIG, seed), [random_batch(4)] * 2, epoch)
        return flat(network)

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


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_first_step_is_that_of_torch(optimizer: str) -> None:
    """The optimizer's memory, which was made beforehand, leaves no trace."""
    config = replace(CONFIG, optimizer=optimizer, weight_decay=0.1)  # type: ignore[arg-type]
    pixels, labels = random_batch(4)[:2]
    network = small_network()
    plain = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer](
        network.parameters(), lr=config.learning_rate, weight_decay=0.1, fused=True
    )
    for _ in range(2):
        logits = network(network.normalise(pixels)).squeeze(1)
        functional.binary_cross_entropy_with_logits(logits, labels).backward()  # type: ignore[no-untyped-call]
        plain.step()
        plain.zero_grad()
    ours = trained_weights([random_batch(4)] * 2, config)
    torch.testing.assert_close(ours, flat(network), rtol=1e-6, atol=1e-7)


def test_a_loss_that_is_no_number_ends_the_epoch() -> None:
    network = small_network()
    with torch.no_grad():
        network.classifier.bias.fill_(torch.nan)
    with pytest.raises(FvcError, match="epoch 3: train/loss is nan, training diverged"):
        run_epoch(started(network, CONFIG), [random_batch(4)], epoch=2)


def stretches(
    training: Training, steps: int, *, done: int = 0
) -> list[tuple[int, dict[str, float]]]:
    """After how many steps something is shown, and what."""
    seen: list[tuple[int, dict[str, float]]] = []
    train_epoch(
        *(training, [random_batch(4, seed) for seed in range(done, steps)], Tally()),
        epoch=0,
        steps=steps,
        done=done,
        after_step=lambda step: seen.append((step.done, step.shown)),
    )
    return [(place, shown) for place, shown in seen if shown]


def test_what_steps_show_is_said_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fvc.training.epoch.CHECKED_STEPS", 4)
    told = stretches(started(small_network(), CONFIG), 11)
    assert [place for place, _ in told] == [5, 9]
    losses: list[float] = []
    train_epoch(
        *(started(small_network(), CONFIG), [random_batch(4, seed) for seed in range(9)], Tally()),
        epoch=0,
        steps=11,
        after_step=lambda step: losses.append(step.loss.item()),
    )
    for place, shown in told:
        assert shown["train/loss"] == pytest.approx(sum(losses[place - 4 : place]) / 4)
    resumed = stretches(started(small_network(), CONFIG), 11, done=3)
    assert [place for place, _ in resumed] == [9], "steps after a stop were too few to be judged"


def test_a_loss_that_is_no_number_for_a_moment_ends_the_epoch_before_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fvc.training.epoch.CHECKED_STEPS", 4)
    batches = [random_batch(4) for _ in range(11)]
    batches[2] = batches[2]._replace(labels=torch.full((4,), torch.inf))
    done: list[int] = []
    # Else the weights would be no numbers either, and every loss after this one.
    monkeypatch.setattr(Training, "step", lambda *_: None)
    with pytest.raises(FvcError, match="epoch 1: train/loss is"):
        train_epoch(
            *(started(small_network(), CONFIG), batches, Tally()),
            epoch=0,
            steps=11,
            after_step=lambda step: done.append(step.done),
        )
    assert done == [1, 2, 3, 4]


def test_mixed_precision_trains_almost_alike() -> None:
    mixed = replace(CONFIG, mixed_precision=True)
    rows = [
        run_epoch(started(small_network(), config), [random_batch(4)] * 4)
        for config in (CONFIG, mixed)
    ]
    assert rows[1]["train/loss"] == pytest.approx(rows[0]["train/loss"], rel=0.02)


def test_a_step_of_the_real_network_is_finite_in_mixed_precision() -> None:
    model = replace(model_config(), head_channels=512)
    clips = clips_config(1, 8, 64)
    config = replace(CONFIG, mixed_precision=True, batch_size=2, learning_rate=1.0e-4)
    torch.manual_seed(0)
    network = build_network(model, clips)
    pixels = torch.randint(0, 256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    row = run_epoch(started(network, config), [Batch(pixels, torch.tensor([0.0, 1.0]))])
    assert 0 < row["train/grad_norm"] < 1.0e3
    for name, value in network.state_dict().items():
        assert value.isfinite().all(), f"{name} is not finite after one step"
