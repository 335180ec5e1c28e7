"""What may go wrong in a training, by name: told from its series alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fvc.training.diagnostics import STAGE_SERIES, Diverged, EpochRow

SAME_LOGIT = 1.0e-4
"""Logits that spread less give probabilities within 0.00003 of each other, which no threshold tells
apart. An untrained network spreads clips of nothing but noise sixty times as far."""

DEAD_SHARE = 1.0e-6
"""Of the whole gradient. A stage is so far below it by an error alone (a blocked gradient, a ReLU
that is never passed): in float32 its part of the sum is lost in rounding."""

DEAD_NORM = 1.0e-8
"""What Adam adds to its divisor: gradients below it change nothing, however long the training."""

ABSURD_LOSS = 3.0
"""A mean cross-entropy that needs the truth to be given 5% on average; guessing has 0.7, and the
other losses weigh clips by 1 on average or less."""

RISE = 3.0
"""Times the lowest loss so far. A mean over an epoch's clips wavers by tenths of itself."""

RISE_OVER_FIRST = 1.5
"""Times the first loss, as well: one that was nearly 0 may treble and mean nothing."""

WAIT_SHARE = 0.25
"""Of an epoch's time. A faster loader gains as much at most; below it is not worth the trouble."""

GAP = 0.25
"""In ROC-AUC, which does not depend on the loss or the balance of classes. A score of ten videos
of a class has a standard error of about 0.1."""

LASTING = 3
"""Epochs in a row. A network that has barely trained calls all videos alike for an epoch or two,
and one validation set is small enough for luck."""

STILL_FALLS = 0.99
"""Of the loss that those epochs began with: below it, the network is on its way. It may sort all
videos well by then, and have them on one side of the threshold yet."""

HAND_SHARE = 1.0e-3
"""Of the loss. Rounding in float32 makes a difference of 1e-6; a clip counted twice, a weight left
out or a mean over batches of unequal size makes one of 1e-2."""

HAND_FLOOR = 1.0e-2
"""A loss below it is compared as if it were this large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Something that a training should be looked at for."""

    name: str
    """As in the tag `fvc.warning.<name>`."""
    epoch: int
    """The first at which it held, counted from 0."""
    text: str
    remedy: str
    step: int | None = None
    """Optimizer steps of that epoch after which it showed; None: at its end."""

    def __str__(self) -> str:
        within = "" if self.step is None else f", step {self.step}"
        return f"epoch {self.epoch + 1}{within}: {self.text}. {self.remedy}."


def conditions_of(history: Sequence[EpochRow]) -> list[Condition]:
    """Every condition that has held after some epoch, once, in the order of appearance.

    Args:
        history: All epochs so far. Earlier ones decide alike however many
            follow, so a resumed training has the same conditions.
    """
    found: dict[str, Condition] = {}
    for epoch in range(len(history)):
        for name, (check, remedy) in CHECKS.items():
            text = None if name in found else check(history[: epoch + 1])
            if text is not None:
                found[name] = Condition(name=name, epoch=epoch, text=text, remedy=remedy)
    return list(found.values())


def conditions_within(rows: Sequence[EpochRow], step: int) -> list[Condition]:
    """The conditions that hold in the midst of an epoch, of those that can be told there.

    Args:
        rows: All whole epochs, then stretches of steps of the one under way,
            the last of which is judged; their `epoch` is that one's.
        step: Optimizer steps of it at the end of that stretch.
    """
    epoch, found = int(rows[-1]["epoch"]), []
    for name in TOLD_WITHIN:
        check, remedy = CHECKS[name]
        text = check(rows)
        if text is not None:
            found.append(Condition(name=name, epoch=epoch, text=text, remedy=remedy, step=step))
    return found


def diverged(error: Diverged, epoch: int) -> Condition:
    """The condition `nan`, which ends a training in an epoch and leaves no row behind."""
    _, cause, remedy = error.args
    return Condition(name="nan", epoch=epoch, text=cause, remedy=remedy)


def _collapsed(rows: Sequence[EpochRow]) -> str | None:
    row = rows[-1]
    if row.get("train/logit_unique") == 1:
        return "all training clips have the same logit"
    for part, what in (("train", "training clips"), ("validation", "validation videos")):
        spread = row.get(f"{part}/logit_std")
        if spread is not None and spread < SAME_LOGIT:
            return f"the logits of the {what} are all but one (standard deviation {spread:.2g})"
    return None


def _dead(rows: Sequence[EpochRow]) -> str | None:
    row = rows[-1]
    whole = row.get("train/grad_norm")
    if whole is None:
        return None
    limit = max(DEAD_SHARE * whole, DEAD_NORM)
    norms = {name: row[name] for name in row if name.startswith(STAGE_SERIES)}
    dead = [name.removeprefix(STAGE_SERIES) for name, norm in norms.items() if norm <= limit]
    if not dead and whole > DEAD_NORM:
        return None
    where = " and ".join(dead) if dead else "the whole network"
    return f"no gradient arrives at {where}, of {whole:.2g} in all"


def _exploding(rows: Sequence[EpochRow]) -> str | None:
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    if not losses:
        return None
    now, lowest = losses[-1], min(losses)
    if now > max(RISE * lowest, RISE_OVER_FIRST * losses[0]):
        return f"the training loss rose to {now:.3g} from {lowest:.3g}"
    return f"the training loss is {now:.3g}, far above guessing" if now > ABSURD_LOSS else None


def _single_class(rows: Sequence[EpochRow]) -> str | None:
    for part, what in (("train", "training clips"), ("validation", "validation videos")):
        # Where the labels are of one class, calling all videos alike is right.
        known = [row for row in rows[-LASTING:] if f"{part}/roc_auc" in row]
        shares = {row.get(f"{part}/called_fake") for row in known}
        if len(known) < LASTING or shares not in ({0}, {1}):
            continue
        if known[-1][f"{part}/loss"] > STILL_FALLS * known[0][f"{part}/loss"]:
            called = "fake" if shares == {1} else "real"
            return f"all {what} were called {called} for {LASTING} epochs without a lower loss"
    return None


def _gap(rows: Sequence[EpochRow]) -> str | None:
    gaps = [
        row["train/roc_auc"] - row["validation/roc_auc"]
        for row in rows[-LASTING:]
        if row.keys() >= {"train/roc_auc", "validation/roc_auc"}
    ]
    if len(gaps) < LASTING or min(gaps) <= GAP:
        return None
    row = rows[-1]
    scores = f"{row['train/roc_auc']:.2f} in training and {row['validation/roc_auc']:.2f} beyond"
    return f"the ROC-AUC is {scores}: it learns its videos by heart"


def _disagreeing(rows: Sequence[EpochRow]) -> str | None:
    row = rows[-1]
    if not row.keys() >= {"train/loss", "train/loss_by_hand"}:
        return None
    loss, by_hand = row["train/loss"], row["train/loss_by_hand"]
    if abs(loss - by_hand) <= HAND_SHARE * max(abs(by_hand), HAND_FLOOR):
        return None
    return f"the training loss is {loss:.6g}, and {by_hand:.6g} computed by hand"


def _waiting(rows: Sequence[EpochRow]) -> str | None:
    # The first epoch waits for the workers of the loader to start.
    shares = [row.get("train/data_wait_share", 0) for row in rows[1:][-2:]]
    if len(shares) < 2 or min(shares) <= WAIT_SHARE:
        return None
    return f"training waited for data {shares[-1]:.0%} of the time, in two epochs in a row"


def _short_of_memory(rows: Sequence[EpochRow]) -> str | None:
    at_once, batch = (rows[-1].get(f"train/{name}") for name in ("micro_batch_size", "batch_size"))
    if at_once is None or batch is None or at_once >= batch:
        return None
    return f"memory ran out: {at_once:.0f} clips pass at once, and still {batch:.0f} make a batch"


Check = Callable[[Sequence[EpochRow]], str | None]
"""What is wrong after the last of the rows, if something is."""

CHECKS: dict[str, tuple[Check, str]] = {
    "collapsed_logits": (
        _collapsed,
        "Lower train.learning_rate, lengthen train.warmup_epochs, or start from a pretrained model",
    ),
    "dead_gradients": (
        _dead,
        "Set train.mixed_precision to false; if it stays, look for an activation that is always "
        "off or a part of the network that its output does not depend on",
    ),
    "exploding_loss": (
        _exploding,
        "Lower train.learning_rate or train.gradient_clip_norm, or lengthen train.warmup_epochs",
    ),
    "single_class": (
        _single_class,
        "Set train.imbalance to balanced_batches, and train.learning_rate lower",
    ),
    "validation_gap": (
        _gap,
        "Raise augment.versions, model.dropout or train.weight_decay, or train less of the network "
        "with train.fine_tuning",
    ),
    "loss_by_hand": (
        _disagreeing,
        "Do not trust this run: the loss that trains is not the one that train.loss names",
    ),
    "data_wait": (
        _waiting,
        "Raise loader.num_workers or loader.prefetch_factor, or set loader.cache",
    ),
    "out_of_memory": (
        _short_of_memory,
        "Nothing has to be done; end other programs that use the device to be faster",
    ),
}
"""By name: what is looked for, and what helps."""

TOLD_WITHIN = ("collapsed_logits", "dead_gradients", "exploding_loss", "loss_by_hand")
"""What a few hundred clips can show; the others need a validation, or several epochs."""
