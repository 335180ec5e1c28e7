"""Where a training is, and where it goes on after it was stopped at any moment."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fvc.config import EngineConfig, TrainConfig
from fvc.errors import FvcError
from fvc.files import read_json, write_json
from fvc.memory import first_line, halved
from fvc.training.checkpoint import (
    Position,
    load_best_weights,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from fvc.training.diagnostics import EpochRow, require_finite
from fvc.training.state import Training
from fvc.training.tally import Tally

logger = logging.getLogger(__name__)

NOTE = "micro_batch-{}.json"
"""Of each rank its own: memory mostly runs out on all of them at once."""

History = Sequence[EpochRow]
"""One row per epoch."""


@dataclass(kw_only=True)
class Progress:
    """How far a training has come, and what it showed on the way."""

    history: list[EpochRow] = field(default_factory=list)
    """One row per whole epoch."""
    done: int = 0
    """Optimizer steps of the epoch that follows the history."""
    tally: Tally = field(default_factory=Tally)
    """What those steps showed."""

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 0."""
        return len(self.history)

    def end_epoch(self, series: Mapping[str, float], best_by: str) -> None:
        """Go on to the next epoch.

        Raises:
            FvcError: A number of this one is NaN or infinite, or the one that
                chooses the best epoch is undefined.
        """
        require_finite(series, self.epoch)
        if best_by not in series:
            cause = f"{best_by} is undefined where all validation videos are of one class"
            remedy = "Set train.best_by to validation/loss, or raise split.validation_share"
            raise FvcError("train.best_by", cause, remedy)
        self.history.append({"epoch": self.epoch, **series})
        self.done, self.tally = 0, Tally()


class Checkpoints:
    """The checkpoints of one training: when they are written, and what they hold."""

    def __init__(
        self, folder: Path, binding: str, training: Training, engine: EngineConfig
    ) -> None:
        self._folder, self._training = folder, training
        # Another device or number format would not end with the same weights.
        self._binding = f"{binding} {training.precision.name}"
        self._seconds = 60 * engine.checkpoint_minutes
        self._saved = time.monotonic()

    def resume(self) -> Progress:
        """Take over the newest checkpoint; every rank has to call this.

        Where there is none, the beginning is written: what is short of memory
        before the next one goes back there.
        """
        state = load_checkpoint(self._folder, self._binding)
        # Rank 0 must not write before the others have looked.
        self._training.world.barrier()
        if state is None:
            progress = Progress()
            self.save(progress)
        else:
            progress = self._take(state)
        self._take_noted_micro_batch()
        return progress

    def go_back(self, said: str) -> Progress:
        """Go on from the newest checkpoint with half as many clips at once.

        Args:
            said: The message of the error that memory ran out with.

        Raises:
            FvcError: It was a single clip; or there are other ranks, which are
                in the midst of a step, and have to start again together; or
                the checkpoints have been damaged since they were written.
        """
        training = self._training
        training.micro_batch = halved(min(training.micro_batch, training.share), said)
        logger.warning(
            "out of memory beside the clips (%s): going back to the last checkpoint, then on with "
            "%d at once, as many in a step",
            *(first_line(said), training.micro_batch),
        )
        self.note_micro_batch()
        training.require_alone()
        state = load_checkpoint(self._folder, self._binding)
        if state is None:
            remedy = "Look after the disk, then run 'dvc repro train': it starts anew"
            raise FvcError(self._folder, "holds no checkpoint that is whole any more", remedy)
        progress = self._take(state)
        self._take_noted_micro_batch()
        return progress

    def _take(self, state: Mapping[str, Any]) -> Progress:
        self._training.load_state_dict(state["training"])
        progress = Progress(history=state["history"], done=state["done"])
        if self._writes:
            progress.tally.load_state_dict(state["tally"])
        return progress

    def save(self, progress: Progress) -> None:
        """Write the checkpoint of a position; every rank has to call this.

        Raises:
            FvcError: The disk is full; or the weights are not finite, and must
                not take the place of those that are.
        """
        if not self._training.is_finite():
            require_finite({"a weight": math.nan}, progress.epoch)
        whole = Tally.gathered(self._training.world.gather(progress.tally.state_dict()))
        if self._writes:
            by = self._training.config.best_by
            save_checkpoint(
                self._folder,
                self._binding,
                Position(progress.epoch, progress.done),
                {
                    "training": self._training.state_dict(),
                    "history": progress.history,
                    "done": progress.done,
                    "tally": whole.state_dict(),
                },
                best_epoch=best_epoch(progress.history, by) if progress.history else None,
                weights=self._training.scored.state_dict(),
            )
        self._saved = time.monotonic()

    def note_micro_batch(self) -> None:
        """Leave word of how many clips to begin with, where no checkpoint can be written."""
        value = {"binding": self._binding, "micro_batch": self._training.micro_batch}
        write_json(self._folder / NOTE.format(self._training.world.rank), value)

    def _take_noted_micro_batch(self) -> None:
        for source in self._folder.glob(NOTE.format("*")):
            note = read_json(source, "train")
            if note["binding"] == self._binding:
                self._training.micro_batch = min(self._training.micro_batch, note["micro_batch"])

    @property
    def _writes(self) -> bool:
        return self._training.world.rank == 0

    @property
    def is_due(self) -> bool:
        """Whether the last one is so old that a stop would cost too much."""
        return time.monotonic() - self._saved >= self._seconds

    def best(self) -> dict[str, Tensor]:
        """The weights of the best epoch; every rank has to call this."""
        self._training.world.barrier()
        if self._writes:
            # Not earlier: another rank may be about to leave one.
            for note in self._folder.glob(NOTE.format("*")):
                note.unlink()
        return load_best_weights(self._folder, self._binding)

    @property
    def newest(self) -> Path:
        """The file of the last one."""
        return newest_checkpoint(self._folder, self._binding)


def best_epoch(history: History, best_by: str) -> int:
    """The epoch with the lowest loss or the highest score; the first of equal ones.

    Raises:
        ValueError: There is no epoch.
    """
    sign = 1 if best_by.endswith("loss") else -1
    return min(range(len(history)), key=lambda epoch: sign * history[epoch][best_by])


def is_finished(history: History, config: TrainConfig) -> bool:
    """Whether all epochs were run, or the best one, and the last to free a stage, lies far back.

    That is `patience` epochs.
    """
    if not history:
        return False
    # A stage that was freed a moment ago has had no time to help.
    freed = config.unfreeze_epochs if config.fine_tuning == "gradual" else ()
    last = max([0, *(epoch for epoch in freed if epoch < config.epochs)])
    waited = len(history) - 1 - max(best_epoch(history, config.best_by), last)
    return len(history) >= config.epochs or waited >= config.patience
