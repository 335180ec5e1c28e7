import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import clips_config, model_config
from small_training import (
    CONFIG,
    MadeBatches,
    comparable,
    train,
    weights_of,
)

from fvc.batches import Batch
from fvc.errors import FvcError
from fvc.networks import ClipClassifier, build_network
from fvc.precision import Precision
from fvc.predict import video_logits
from fvc.training.diagnostics import EpochRow
from fvc.training.loop import FitResult
from fvc.training.resuming import best_epoch, is_finished
from fvc.validation import validation_series


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads cost more than they save on pictures this small, and most where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ClipClassifier, FitResult]:
    return train(tmp_path_factory.mktemp("checkpoints"))


class Stopped(Exception):
    """Stands for the end of the process."""


def test_two_trainings_are_equal(
    tmp_path: Path, uninterrupted: tuple[ClipClassifier, FitResult]
) -> None:
    network, result = train(tmp_path)
    assert weights_of(network) == weights_of(uninterrupted[0])
    assert comparable(result.history) == comparable(uninterrupted[1].history)
    assert result.best_epoch == uninterrupted[1].best_epoch


@pytest.mark.parametrize("epochs_done", range(1, 6))
def test_stopped_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, epochs_done: int, uninterrupted: tuple[ClipClassifier, FitResult]
) -> None:
    def stop(history: Sequence[EpochRow]) -> None:
        if len(history) == epochs_done:
            raise Stopped

    with pytest.raises(Stopped):
        train(tmp_path, stop)
    seen: list[int] = []
    network, result = train(tmp_path, lambda history: seen.append(len(history)))
    assert seen == list(range(epochs_done, 6)), "an epoch was trained or reported twice"
    assert weights_of(network) == weights_of(uninterrupted[0])
    assert comparable(result.history) == comparable(uninterrupted[1].history)


@pytest.mark.parametrize("files_written", range(0, 14, 3))
def test_stopped_while_writing_it_ends_with_the_same_weights(
    tmp_path: Path,
    files_written: int,
    uninterrupted: tuple[ClipClassifier, FitResult],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rename = Path.replace
    written: list[Path] = []

    def stopping(source: Path, target: Path) -> Path:
        if len(written) == files_written:
            raise Stopped
        written.append(target)
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        with pytest.raises(Stopped):
            train(tmp_path)
    network, result = train(tmp_path)
    assert weights_of(network) == weights_of(uninterrupted[0])
    assert comparable(result.history) == comparable(uninterrupted[1].history)


KILLED = """
import os, signal, sys
from pathlib import Path
from small_training import train

def kill(history):
    if len(history) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

train(Path(sys.argv[1]), kill)
"""


def test_killed_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, uninterrupted: tuple[ClipClassifier, FitResult]
) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "epoch-0002-step-000000.pt").is_file()
    network, result = train(tmp_path)
    assert weights_of(network) == weights_of(uninterrupted[0])
    assert comparable(result.history) == comparable(uninterrupted[1].history)


def test_a_damaged_checkpoint_costs_one_epoch(
    tmp_path: Path, uninterrupted: tuple[ClipClassifier, FitResult]
) -> None:
    _, result = train(tmp_path)
    result.kept["checkpoint.pt"].write_bytes(b"damaged")
    seen: list[int] = []
    network, _ = train(tmp_path, lambda history: seen.append(len(history)))
    assert seen == [4, 5]
    assert weights_of(network) == weights_of(uninterrupted[0])


def test_another_binding_starts_anew(tmp_path: Path) -> None:
    train(tmp_path)
    seen: list[int] = []
    train(tmp_path, lambda history: seen.append(len(history)), binding="other")
    assert seen == [1, 2, 3, 4, 5]


def test_another_number_format_starts_anew(tmp_path: Path) -> None:
    train(tmp_path, config=replace(CONFIG, mixed_precision=False))
    half = Precision(torch.device("cpu"), torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fvc.training.state.choose_precision", lambda _: half)
        seen: list[int] = []
        _, result = train(tmp_path, lambda history: seen.append(len(history)))
    assert seen == [1, 2, 3, 4, 5]
    assert result.precision == "cpu bfloat16"


def test_an_epoch_is_reported_after_its_checkpoint_is_on_disk(tmp_path: Path) -> None:
    def look(history: Sequence[EpochRow]) -> None:
        assert (tmp_path / f"epoch-{len(history):04d}-step-000000.pt").is_file()
        assert [row["epoch"] for row in history] == list(range(len(history)))

    train(tmp_path, look)


def test_the_network_ends_with_the_weights_of_the_best_epoch(tmp_path: Path) -> None:
    losses = iter([0.5, 0.2, 0.4])
    weights: list[list[bytes]] = []

    def scripted(network: ClipClassifier) -> dict[str, float]:
        weights.append(weights_of(network))
        return {"validation/loss": next(losses)}

    network, result = train(tmp_path, config=replace(CONFIG, epochs=3), validate=scripted)
    assert result.best_epoch == 1
    assert weights_of(network) == weights[1]


def rows(values: list[float], name: str = "validation/loss") -> list[EpochRow]:
    return [{"epoch": epoch, name: value} for epoch, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "best_by", "expected"),
    [
        ([0.5, 0.2, 0.2, 0.4], "validation/loss", 1),
        ([0.5, 0.9, 0.9, 0.4], "validation/roc_auc", 1),
        ([0.1, 0.2, 0.4], "validation/macro_f1", 2),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best(
    values: list[float], best_by: str, expected: int
) -> None:
    assert best_epoch(rows(values, best_by), best_by) == expected


@pytest.mark.parametrize(
    ("losses", "finished"),
    [
        ([], False),
        ([0.5, 0.4, 0.3, 0.2], False),
        ([0.5, 0.4, 0.3, 0.2, 0.1], True),
        ([0.5, 0.6], False),
        ([0.5, 0.6, 0.6], True),
    ],
)
def test_training_ends_with_its_epochs_or_its_patience(losses: list[float], finished: bool) -> None:
    assert is_finished(rows(losses), replace(CONFIG, patience=2)) is finished


class Poisoned(MadeBatches):
    """Labels that are no number, from the third epoch on."""

    def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
        batches = super().batches(epoch, first=first)
        nothing = torch.full((4,), torch.nan)
        return batches if epoch < 2 else [Batch(batch.pixels, nothing) for batch in batches]


def test_divergence_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"epoch 3: train/loss is nan.*train\.learning_rate"):
        train(tmp_path, batches=Poisoned())
    names = sorted(path.name for path in tmp_path.glob("epoch-*.pt"))
    assert names == ["epoch-0001-step-000000.pt", "epoch-0002-step-000000.pt"]


def test_an_undefined_series_cannot_choose_the_best_epoch(tmp_path: Path) -> None:
    config = replace(CONFIG, best_by="validation/roc_auc")
    with pytest.raises(FvcError, match="of one class"):
        train(
            tmp_path,
            config=config,
            validate=lambda _: validation_series(np.zeros(3), np.zeros(3, np.int64)),
        )


@pytest.mark.slow
def test_the_real_network_resumes_byte_for_byte(tmp_path: Path) -> None:
    model = replace(model_config(), head_channels=512)
    clips = clips_config(1, 8, 32)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    batch = Batch(pixels, torch.tensor([0.0, 1.0, 0.0, 1.0]))

    class Repeated(MadeBatches):
        def batches(self, epoch: int, *, first: int = 0) -> Sequence[Batch]:
            del epoch
            return [batch, batch][first:]

    def validate(network: ClipClassifier) -> dict[str, float]:
        return {"validation/loss": 1 / float(video_logits(network, [pixels])[0] + 9)}

    def run(folder: Path, stop_after: int) -> list[bytes]:
        def stop(history: Sequence[EpochRow]) -> None:
            if len(history) == stop_after:
                raise Stopped

        torch.manual_seed(0)
        network = build_network(model, clips)
        train(
            folder,
            stop,
            replace(CONFIG, epochs=3, learning_rate=1.0e-4),
            network=network,
            batches=Repeated(),
            validate=lambda network: {
                "validation/loss": 1 / float(video_logits(network, [pixels])[0] + 9)
            },
        )
        return weights_of(network)

    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_after=1)
    assert run(tmp_path / "stopped", stop_after=9) == run(tmp_path / "whole", stop_after=9)
