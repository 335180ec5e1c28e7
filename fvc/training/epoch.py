"""One epoch of training: batches in, changed weights and the epoch's series out."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from fvc.training.diagnostics import gradient_norms, require_finite
from fvc.training.schedules import rate_factor
from fvc.training.state import Training
from fvc.training.step import Batches, Outcome, accumulate
from fvc.training.tally import Tally

Item = TypeVar("Item")


@runtime_checkable
class Loader(Protocol):
    """What gives the batches of every epoch."""

    def __len__(self) -> int:
        """Batches of a whole epoch."""

    def batches(self, epoch: int, *, first: int = 0) -> Batches:
        """Those of an epoch, from its number alone, from the one numbered `first`."""


class StepDone(NamedTuple):
    """An optimizer step that was made."""

    epoch: int
    """Counted from 0."""
    done: int
    """Steps of this epoch so far, this one included."""
    steps: int
    """Those that the epoch has."""
    loss: Float[Tensor, ""]
    """Of this step's clips on this rank, on the device: reading it waits for the step."""
    shown: dict[str, float]
    """After each `CHECKED_STEPS` steps what these showed, on all ranks; else nothing."""


CHECKED_STEPS = 32
"""What steps show is looked at so often; looking waits for the device."""


def accumulation_steps(batch_size: int) -> int:
    """Batches whose gradients are summed before a step: small ones are too noisy alone.

    Raises:
        ValueError: The batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, below 1")
    if batch_size >= 4:
        return 1
    return 2 if batch_size >= 2 else 4


def train_epoch(
    training: Training,
    batches: Batches,
    tally: Tally,
    *,
    epoch: int,
    steps: int,
    done: int = 0,
    after_step: Callable[[StepDone], None] | None = None,
) -> dict[str, float]:
    """Train on what is left of an epoch.

    Args:
        training: Changed in place.
        batches: Those after the steps that are done; the last one may be smaller.
        tally: Holds what those steps showed; goes on with it.
        epoch: Counted from 0.
        steps: Optimizer steps of a whole epoch.
        done: Those made before.
        after_step: May raise, to end the training between two steps.

    Returns:
        The `train/` series of the whole epoch, of all ranks.

    Raises:
        ValueError: There is no step in an epoch.
        FvcError: The loss is NaN or infinite: the weights are then of no use.
            Or memory does not suffice for a single clip.
    """
    training.begin_epoch(epoch)
    accumulated = accumulation_steps(training.config.batch_size)
    for step, group in enumerate(grouped(timed(batches, tally.add_wait), accumulated), done):
        number = epoch * steps + step
        outcome = accumulate(training, group, number)
        training.unscale()
        norms, norm = gradient_norms(training.moving_stages)
        with tally.watching_update(training.moving):
            training.step(norm, rate_factor(training.config, number, steps))
        tally.add_batch(*outcome)
        tally.add_step(norms, norm)
        shown = {} if step % CHECKED_STEPS else _shown_lately(training, tally, epoch)
        if after_step is not None:
            after_step(StepDone(epoch, step + 1, steps, _mean_loss(outcome), shown))
    return _finite_series(training, tally, epoch) | _settings(training, accumulated)


def _mean_loss(outcome: Outcome) -> Float[Tensor, ""]:
    # Of a small batch a rank may have no clip, and the mean of none is no number.
    return outcome.losses.sum() / max(len(outcome.losses), 1)


def _shown_lately(training: Training, tally: Tally, epoch: int) -> dict[str, float]:
    """The series of the steps since the last look, which have to be finite.

    Nothing where they are few, at the beginning of an epoch and after a stop:
    they are too noisy to be judged.
    """
    lately = tally.stretch()
    series = _finite_series(training, lately, epoch)
    return series if lately.num_steps == CHECKED_STEPS else {}


def _finite_series(training: Training, tally: Tally, epoch: int) -> dict[str, float]:
    # Of all ranks, so that they end alike: the one that reports has to know.
    whole = Tally.gathered(training.world.gather(tally.state_dict()))
    series = whole.series(
        by_hand=training.loss.by_hand, skips_overflow=training.scaler.is_enabled()
    )
    require_finite(series, epoch)
    return series


def _settings(training: Training, accumulated: int) -> dict[str, float]:
    """What the last step of an epoch was made with."""
    return {
        "train/learning_rate": float(training.optimizer.param_groups[-1]["lr"]),
        "train/batch_size": float(training.config.batch_size),
        "train/micro_batch_size": float(training.micro_batch),
        "train/accumulation": float(accumulated * -(-training.share // training.micro_batch)),
    }


def timed(items: Iterable[Item], add_wait: Callable[[float], None]) -> Iterator[Item]:
    """Pass items on, and say of each how long it was waited for, in seconds by the clock."""
    iterator = iter(items)
    while True:
        started = time.perf_counter()
        item = next(iterator, None)
        if item is None:
            return
        add_wait(time.perf_counter() - started)
        yield item
        # Without this, its memory would be in use until the next one is there.
        del item


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut a sequence into lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
