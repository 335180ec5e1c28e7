"""Fit one network: epochs, validation, the best of them, and where to go on after a stop."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fvc.config import EngineConfig
from fvc.errors import Stopped
from fvc.memory import RAISED, is_out_of_memory, memory_in_use_mib, release, settled
from fvc.training.epoch import Loader, StepDone, accumulation_steps, train_epoch
from fvc.training.resuming import Checkpoints, History, Progress, best_epoch, is_finished
from fvc.training.state import OutOfMemoryOnRank, Training, Validate


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What a training tells those around it, and what it asks them."""

    on_epoch: Callable[[History], object] = len
    """Called with all rows so far, after the checkpoint of the last one is on disk, and at once
    when a training is resumed, or goes back there."""
    on_step: Callable[[StepDone], object] = len
    """Called after each optimizer step; those after the last checkpoint come again where memory ran
    out beside the clips."""
    is_stopped: Callable[[], bool] = lambda: False
    """Asked after each step; a training that is to stop writes a checkpoint and raises."""

    def resumed(self, history: History) -> None:
        """Tell of the epochs that were on disk, the last of which may not have been told of."""
        if history:
            self.on_epoch(tuple(history))


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """How a training went; the network itself holds the weights of the best epoch."""

    history: History
    """One row per epoch, those before an interruption included."""
    best_epoch: int
    """Counted from 0."""
    kept: Mapping[str, Path]
    """What only the run keeps, by the name of a file. Of a network `checkpoint.pt`: weights,
    optimizer state and history after the last epoch."""
    precision: str
    """What it was computed on and in: `cpu bfloat16`, `cuda float16`, ..."""


def fit(
    training: Training,
    loader: Loader,
    validate: Validate,
    engine: EngineConfig,
    *,
    checkpoints: Path,
    binding: str,
    hooks: Hooks,
) -> FitResult:
    """Train until the epochs or the patience are used up, and keep the best weights.

    Stopped at any moment and called again with equal arguments, it goes on
    from its last checkpoint and ends, on a CPU, with the same bytes as if it
    had not been stopped. Where memory runs out in anything but a forward or
    backward pass, which begins anew by itself, it goes back there, too, and
    on with half as many clips at once.

    Args:
        training: What `start_training` gave; its network ends with the best
            weights, on the device that trained it.
        loader: Gives the batches of an epoch from its number alone.
        validate: Gives the `validation/` series of the network; may raise `Stopped`.
        engine: How it is kept alive.
        checkpoints: The folder of this training's checkpoints.
        binding: A hash of all that decides the outcome (parameters, data,
            folds), so that a checkpoint of something else is never resumed.
        hooks: What is called on the way.

    Raises:
        FvcError: A series became NaN or infinite, or the one that chooses the
            best epoch is undefined; memory does not suffice for a single clip;
            a checkpoint cannot be written. The checkpoints before that stay.
        Stopped: It was asked to stop; a checkpoint of that moment is on disk.
    """
    config = training.config
    kept = Checkpoints(checkpoints, binding, training, engine)
    progress = kept.resume()
    hooks.resumed(progress.history)
    with settled():
        while not is_finished(progress.history, config):
            exhaustion = _complete_epoch(training, loader, validate, progress, engine, kept, hooks)
            release()
            if exhaustion is None:
                hooks.on_epoch(tuple(progress.history))
            else:
                progress = kept.go_back(exhaustion)
                hooks.resumed(progress.history)
    training.network.load_state_dict(kept.best())
    return FitResult(
        history=tuple(progress.history),
        best_epoch=best_epoch(progress.history, config.best_by),
        kept={"checkpoint.pt": kept.newest},
        precision=training.precision.name,
    )


def _complete_epoch(
    training: Training,
    loader: Loader,
    validate: Validate,
    progress: Progress,
    engine: EngineConfig,
    kept: Checkpoints,
    hooks: Hooks,
) -> str | None:
    """Train, validate and write down one epoch; gives what was said where memory ran out.

    That is told as text, and not raised further, as the error holds the frames
    that hold the tensors.
    """
    try:
        with _leaving_what_is_needed(training, kept, progress):
            series = _run_epoch(training, loader, progress, engine, kept, hooks)
            series |= validate(training.scored)
        progress.end_epoch(series, training.config.best_by)
        kept.save(progress)
    except RAISED as error:
        if not is_out_of_memory(error):
            raise
        return str(error)
    return None


@contextmanager
def _leaving_what_is_needed(
    training: Training, kept: Checkpoints, progress: Progress
) -> Iterator[None]:
    """Write down, however the block ends, what the next start needs to go on."""
    try:
        yield
    except Stopped:
        kept.save(progress)
        # The end of one rank ends the others, so none may go before it is on disk.
        training.world.barrier()
        raise
    except OutOfMemoryOnRank:
        kept.note_micro_batch()
        raise


def _run_epoch(
    training: Training,
    loader: Loader,
    progress: Progress,
    engine: EngineConfig,
    kept: Checkpoints,
    hooks: Hooks,
) -> dict[str, float]:
    """Train what is left of the epoch under way."""
    accumulated = accumulation_steps(training.config.batch_size)
    steps = -(-len(loader) // accumulated)

    def after_step(step: StepDone) -> None:
        progress.done = step.done
        hooks.on_step(step)
        # All ranks end, and write, after the same step.
        wanted = training.world.agree_max(2 if hooks.is_stopped() else int(kept.is_due))
        if wanted == 2:
            cause = f"was stopped after {step.epoch} epochs and {step.done} steps"
            raise Stopped("training", cause, "Start it again: it goes on from there")
        if engine.collect_every and step.done % engine.collect_every == 0:
            release()
        if wanted and step.done < step.steps:
            kept.save(progress)

    series = train_epoch(
        training,
        loader.batches(progress.epoch, first=progress.done * accumulated),
        progress.tally,
        epoch=progress.epoch,
        steps=steps,
        done=progress.done,
        after_step=after_step,
    )
    return series | {"train/memory_mib": memory_in_use_mib(training.precision.device)}
