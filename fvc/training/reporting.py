"""How a training goes, told to everyone who wants to know: people, the log and its run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from fvc.config import TrainConfig
from fvc.tracking.open_run import OpenRun
from fvc.training.conditions import Condition, conditions_of, conditions_within, diverged
from fvc.training.diagnostics import Diverged, EpochRow
from fvc.training.progress import LiveLine, epoch_line

WARNING_TAG = "fvc.warning."

BestOf = Callable[[Sequence[EpochRow], str], int]
"""Gives the best epoch by a series."""

logger = logging.getLogger(__name__)


class Reporter:
    """Takes what a training calls after steps and epochs."""

    def __init__(
        self, run: OpenRun, fold: int, config: TrainConfig, best_of: BestOf, live: LiveLine
    ) -> None:
        self._run, self._fold, self._config = run, fold, config
        self._best_of = best_of
        self._live = live
        # They tell what an earlier process has said; the run outlives it.
        self._told = {name for name in run.tags() if name.startswith(WARNING_TAG)}
        self._history: Sequence[EpochRow] = ()
        self._stretches: list[EpochRow] = []

    def on_step(
        self, epoch: int, step: int, steps: int, loss: float | Tensor, shown: dict[str, float]
    ) -> None:
        """Draw the live line, and warn of what the last steps show without waiting for the epoch.

        Args:
            epoch: Counted from 0.
            step: How many of the epoch are done, so 1 after the first.
            steps: How many the epoch has.
            loss: Of this step; it is read only when the line is drawn.
            shown: Every so often the series of the steps since the last time; else nothing.
        """
        self._live.on_step(epoch, step, steps, loss)
        if shown:
            self._stretches.append({"epoch": epoch, **shown})
            self._warn(conditions_within([*self._history, *self._stretches], step))

    def on_epoch(self, history: Sequence[EpochRow]) -> None:
        """Say how the last epoch ended, track it, and warn of what has not been warned of.

        Args:
            history: All epochs so far, those before an interruption included.
        """
        self._live.clear()
        best = self._best_of(history, self._config.best_by)
        self._history, self._stretches = history, []
        logger.info(epoch_line(self._fold, history, self._config.epochs, best))
        self._run.log_history(history)
        self._warn(conditions_of(history))

    def on_divergence(self, error: Diverged) -> None:
        """Leave a mark on the run that it ended with a number that is none."""
        self._live.clear()
        self._tell(diverged(error, len(self._history)))

    def _warn(self, conditions: Sequence[Condition]) -> None:
        for condition in conditions:
            if WARNING_TAG + condition.name not in self._told:
                self._tell(condition)

    def _tell(self, condition: Condition) -> None:
        tag, text = WARNING_TAG + condition.name, str(condition)
        logger.warning("%s: %s", condition.name.replace("_", " "), text)
        self._run.set_tags({tag: text})
        self._told.add(tag)


@contextmanager
def reporting(
    run: OpenRun, fold: int, config: TrainConfig, *, best_of: BestOf, clips_per_step: int
) -> Iterator[Reporter]:
    """Report a training for the length of the block, and how it ended if it diverged.

    Args:
        run: Tracks the training.
        fold: Which fold is trained.
        config: How it is trained.
        best_of: Tells which epoch is the best so far.
        clips_per_step: Behind one optimizer step, for the live line.
    """
    with LiveLine(fold, config.epochs, clips_per_step=clips_per_step) as live:
        reporter = Reporter(run, fold, config, best_of, live)
        try:
            yield reporter
        except Diverged as error:
            reporter.on_divergence(error)
            raise
