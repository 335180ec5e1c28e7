"""What the steps of an epoch showed, put down step by step and summed up at its end."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import get_total_norm

from fvc.memory import RAISED, is_out_of_memory
from fvc.training.diagnostics import SERIES, STAGE_SERIES
from fvc.validation import roc_auc

BUNDLE = 64
"""So many small tensors are put together into one: an allocator gives each at least 512 bytes."""

UPDATE_EVERY = 16
"""The update of every so many steps is measured: it takes a copy of the weights."""

ByHand = Callable[[Float[np.ndarray, "N"], Float[np.ndarray, "N"]], Float[np.ndarray, "N"]]
"""The losses of logits and targets, computed in another way than the one that trains."""


class _Bundles:
    """Tensors that are joined along their last dimension; few of them, however many are added."""

    def __init__(self, first: Tensor | None = None) -> None:
        self._joined: list[Tensor] = [] if first is None else [first]
        self._new: list[Tensor] = []

    def add(self, tensor: Tensor) -> None:
        self._new.append(tensor)
        if len(self._new) == BUNDLE:
            self._joined.append(torch.cat(self._new, dim=-1))
            self._new = []

    def whole(self) -> Tensor | None:
        """All of them on the CPU; those of an earlier process were there already."""
        # Joined where they are, since each copy from a device waits for it.
        new = [torch.cat(self._new, dim=-1)] if self._new else []
        parts = [part.cpu() for part in (*self._joined, *new)]
        return torch.cat(parts, dim=-1) if parts else None


class Tally:
    """What the steps of one epoch showed, kept on the device so that no step waits for it.

    A step that is made again, after the memory was short, is noted when it has
    succeeded. The clock runs from the beginning, or from `load_state_dict`.
    """

    def __init__(self) -> None:
        self._clips = _Bundles()
        self._steps = _Bundles()
        self._stages: tuple[str, ...] | None = None
        self._num_steps = 0
        self._looked_at = (0, 0)
        self._update_ratio: Tensor | None = None
        self._waited_s = 0.0
        self._earlier_s = 0.0
        self._started = time.perf_counter()

    def add_batch(
        self,
        losses: Float[Tensor, "B"],
        logits: Float[Tensor, "B"],
        targets: Float[Tensor, "B"],
        labels: Float[Tensor, "B"],
    ) -> None:
        """Note the loss, logit, target (in [0, 1]) and label of every clip that went through."""
        # Copied, since the memory of a batch may be used again for the next one.
        rows = [losses.detach(), logits.detach(), targets.to(logits), labels.to(logits)]
        self._clips.add(torch.stack(rows).float())

    def add_step(self, gradient_norms: Mapping[str, Float[Tensor, ""]], total: Tensor) -> None:
        """Note the norms of an optimizer step's gradient, before it was clipped.

        Args:
            gradient_norms: Of each stage of the network that trains; the same
                stages in all steps of an epoch.
            total: Of all of them together.

        Raises:
            ValueError: The stages are others than before.
        """
        stages = tuple(gradient_norms)
        if self._stages not in (None, stages):
            raise ValueError(f"stages {stages} train after {self._stages} in one epoch")
        self._stages = stages
        total = total.detach()
        ratio = torch.full_like(total, torch.nan)
        if self._update_ratio is not None:
            ratio = self._update_ratio.to(total)
        row = torch.stack([total, ratio, *(norm.detach() for norm in gradient_norms.values())])
        self._steps.add(row.float()[:, None])
        self._num_steps += 1
        self._update_ratio = None

    @contextmanager
    def watching_update(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Hold the block in which an optimizer changes `weights`; `add_step` comes after it.

        In every `UPDATE_EVERY`th step of the epoch the length of their change
        is noted as a share of their own.
        """
        if self._num_steps % UPDATE_EVERY:
            yield
            return
        before = _copies(weights)
        yield
        if not before:
            return
        for earlier, weight in zip(before, weights, strict=True):
            earlier.sub_(weight.detach())
        length = get_total_norm([weight.detach() for weight in weights])
        self._update_ratio = get_total_norm(before) / length

    def add_wait(self, seconds: float) -> None:
        """Note how long the next batch was waited for."""
        self._waited_s += seconds

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which torch.load takes with weights_only."""
        return {
            "clips": self._clips.whole(),
            "steps": self._steps.whole(),
            "stages": None if self._stages is None else list(self._stages),
            "num_steps": self._num_steps,
            "waited_s": self._waited_s,
            "seconds": self._seconds(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; the time since then does not count."""
        self._clips, self._steps = _Bundles(state["clips"]), _Bundles(state["steps"])
        self._stages = None if state["stages"] is None else tuple(state["stages"])
        self._num_steps = state["num_steps"]
        self._looked_at = (_columns(state["clips"]), _columns(state["steps"]))
        self._update_ratio = None
        self._waited_s, self._earlier_s = state["waited_s"], state["seconds"]
        self._started = time.perf_counter()

    def stretch(self) -> "Tally":
        """What was noted since the last call, or since `load_state_dict`; its clock is ours."""
        state = self.state_dict()
        clips, steps = state["clips"], state["steps"]
        since, self._looked_at = self._looked_at, (_columns(clips), _columns(steps))
        if steps is not None:
            state["clips"], state["steps"] = clips[:, since[0] :], steps[:, since[1] :]
        part = Tally()
        part.load_state_dict(state | {"num_steps": self._looked_at[1] - since[1]})
        return part

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were noted."""
        return self._num_steps

    @classmethod
    def gathered(cls, states: Sequence[Mapping[str, Any]]) -> "Tally":
        """Make one of the states of several processes that trained one network together.

        They saw different clips and the same gradients; the slowest one says how
        long it took. After an interruption the first holds what all of them
        saw before it.
        """
        clips = [state["clips"] for state in states if state["clips"] is not None]
        tally = cls()
        tally.load_state_dict(
            {
                **states[0],
                "clips": torch.cat(clips, dim=-1) if clips else None,
                "waited_s": float(np.mean([state["waited_s"] for state in states])),
                "seconds": max(state["seconds"] for state in states),
            }
        )
        return tally

    def series(self, *, by_hand: ByHand, skips_overflow: bool) -> dict[str, float]:
        """Summarise the epoch.

        `train/logit_unique` is the number of distinct logits: a network that
        has collapsed gives one for all clips. `train/roc_auc` is left out where
        all clips are of one class.

        Args:
            by_hand: Gives `train/loss_by_hand`.
            skips_overflow: Steps with infinite gradients were not made, as a
                loss scaler has it, and enter neither the norms nor
                `train/update_ratio`; those are left out where no step was made.

        Raises:
            ValueError: No batch was added, or no step.
        """
        clips, steps = self._clips.whole(), self._steps.whole()
        if clips is None or steps is None:
            raise ValueError("an epoch without a batch and a step has no series")
        seconds = self._seconds()
        losses, logits, targets, labels = clips.double().numpy()
        called_fake = logits >= 0
        # A loss that is no number is refused by whoever reads the series.
        with np.errstate(invalid="ignore", over="ignore"):
            loss_by_hand = float(by_hand(logits, targets).mean())
        series = {
            "train/loss": float(losses.mean()),
            "train/loss_by_hand": loss_by_hand,
            "train/accuracy": float((called_fake == (labels == 1)).mean()),
            "train/called_fake": float(called_fake.mean()),
            "train/logit_min": float(logits.min()),
            "train/logit_max": float(logits.max()),
            "train/logit_mean": float(logits.mean()),
            "train/logit_std": float(logits.std()),
            "train/logit_unique": float(len(np.unique(logits))),
            **self._step_series(steps.double().numpy(), skips_overflow=skips_overflow),
            "train/clips_per_s": len(losses) / max(seconds, 1e-9),
            "train/data_wait_share": self._waited_s / max(seconds, 1e-9),
        }
        if 0 < labels.sum() < len(labels):
            series["train/roc_auc"] = roc_auc(logits, labels)
        known = [name for name in SERIES if name in series]
        return {name: series[name] for name in dict.fromkeys([*known, *series])}

    def _step_series(
        self, steps: Float[np.ndarray, "S N"], *, skips_overflow: bool
    ) -> dict[str, float]:
        if skips_overflow:
            steps = steps[:, np.isfinite(steps[0])]
        total, ratios, *stages = steps
        ratios = ratios[~np.isnan(ratios)]
        series = {"train/update_ratio": float(ratios.mean())} if len(ratios) else {}
        if len(total):
            series["train/grad_norm"] = float(total.mean())
            for name, norms in zip(self._stages or (), stages, strict=True):
                series[STAGE_SERIES + name] = float(norms.mean())
        return series

    def _seconds(self) -> float:
        return self._earlier_s + time.perf_counter() - self._started


def _columns(joined: Tensor | None) -> int:
    return 0 if joined is None else joined.shape[-1]


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    """Nothing where memory does not suffice: a training must not end for a number to look at."""
    try:
        return [weight.detach().clone() for weight in weights]
    except RAISED as error:
        if not is_out_of_memory(error):
            raise
        return []
