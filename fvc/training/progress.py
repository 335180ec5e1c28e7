"""How a training goes, for people: one line per epoch, and a live one while a long epoch runs."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import NoReturn

from torch import Tensor
from tqdm import tqdm

from fvc.training.diagnostics import EpochRow

REDRAW_S = 1.0
"""The live line is drawn at most so often: drawing reads the loss, which waits for the device."""

SHOWN = {
    "train/loss": "train loss {:.4f}",
    "validation/loss": "validation loss {:.4f}",
    "validation/roc_auc": "ROC-AUC {:.3f}",
    "validation/macro_f1": "macro-F1 {:.3f}",
    "train/learning_rate": "learning rate {:.2e}",
    "train/clips_per_s": "{:.3g} clips/s",
}
"""The series of the line of an epoch; one that is undefined is left out."""

LIVE = "{desc}, {rate_noinv_fmt}, {remaining} left"


def epoch_line(fold: int, history: Sequence[EpochRow], epochs: int, best: int) -> str:
    """Say in one line how the last epoch ended.

    Args:
        fold: Which fold is trained.
        history: All epochs so far.
        epochs: How many there will be at most.
        best: The best epoch so far, counted from 0.
    """
    row = history[-1]
    number = f"{int(row['epoch']) + 1}/{epochs}"
    values = [text.format(row[name]) for name, text in SHOWN.items() if name in row]
    place = "best so far" if best == row["epoch"] else f"best: epoch {best + 1}"
    return "  ".join([f"fold {fold}", f"epoch {number}", *values, place])


class LiveLine:
    """A line on a terminal that is drawn anew as steps are made; nothing is drawn elsewhere."""

    def __init__(self, fold: int, epochs: int, *, clips_per_step: int) -> None:
        self._fold, self._epochs = fold, epochs
        self._clips_per_step = clips_per_step
        self._shows = sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._epoch = -1
        self._drawn_s = 0.0

    def __enter__(self) -> "LiveLine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def on_step(self, epoch: int, step: int, steps: int, loss: float | Tensor) -> None:
        """Note that an optimizer step was made.

        Args:
            epoch: Counted from 0.
            step: How many of the epoch are done, so 1 after the first.
            steps: How many the epoch has.
            loss: Of this step, a single number; it is read only when the line is drawn.
        """
        if not self._shows:
            return
        now = time.monotonic()
        if self._bar is None or epoch != self._epoch:
            self._begin(epoch, step, steps, now)
        elif now - self._drawn_s >= REDRAW_S:
            self._drawn_s = now
            self._draw(self._bar, step, steps, float(loss))

    def clear(self) -> None:
        """Remove the line; the next step begins another one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, epoch: int, step: int, steps: int, now: float) -> None:
        self.clear()
        self._epoch, self._drawn_s = epoch, now
        self._bar = tqdm(
            total=steps * self._clips_per_step,
            # After an interruption an epoch goes on in its middle.
            initial=step * self._clips_per_step,
            desc=self._place(step, steps),
            unit=" clips",
            bar_format=LIVE,
            file=sys.stderr,
            leave=False,
            # Nothing until something is to be said: when to draw is decided here.
            delay=REDRAW_S / 2,
            mininterval=0,
            miniters=1,
        )

    def _draw(self, bar: "tqdm[NoReturn]", step: int, steps: int, loss: float) -> None:
        place = f"{self._place(step, steps)}, loss {loss:.4f}"
        bar.set_description_str(place, refresh=False)
        bar.update(step * self._clips_per_step - bar.n)

    def _place(self, step: int, steps: int) -> str:
        return f"fold {self._fold}  epoch {self._epoch + 1}/{self._epochs}  step {step}/{steps}"
