"""How a training goes, told to everyone who wants to know: people, the log and its run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fvc.config import TrainConfig
from fvc.tracking.open_run import OpenRun
from fvc.training.conditions import Condition, conditions_of, diverged
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
        self._warnings = run.tags()
        self._epochs_done = 0
        self.on_step = live.on_step

    def on_epoch(self, history: Sequence[EpochRow]) -> None:
        """Say how the last epoch ended, track it, and warn of what has not been warned of.

        Args:
            history: All epochs so far, those before an interruption included.
        """
        self._live.clear()
        best = self._best_of(history, self._config.best_by)
        self._epochs_done = len(history)
        logger.info(epoch_line(self._fold, history, self._config.epochs, best))
        self._run.log_history(history)
        for condition in conditions_of(history):
            self._warn(condition)

    def on_divergence(self, error: Diverged) -> None:
        """Leave a mark on the run that it ended with a number that is none."""
        self._live.clear()
        self._warn(diverged(error, self._epochs_done))

    def _warn(self, condition: Condition) -> None:
        # The tags tell what an earlier process has said; the run outlives it.
        tag, text = WARNING_TAG + condition.name, str(condition)
        if self._warnings.get(tag) != text:
            logger.warning("%s: %s", condition.name.replace("_", " "), text)
            self._run.set_tags({tag: text})
            self._warnings[tag] = text


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
