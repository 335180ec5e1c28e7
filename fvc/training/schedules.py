"""How the learning rate changes: from the number of the step alone, so nothing is to be saved."""

import math

from fvc.config import TrainConfig


def rate_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied with at one optimizer step.

    It rises linearly to 1, which the last step of the warm-up has, and then
    stays, falls along half a cosine to 0 at the end of the last epoch, or is
    multiplied with `step_factor` after each `step_epochs` epochs; these are
    counted from the end of the warm-up. Early stopping does not change it.

    Args:
        config: Which schedule, for how many epochs.
        step: Counted from 0 over all epochs.
        steps_per_epoch: Optimizer steps in one epoch.

    Returns:
        In [0, 1], unless `step_factor` is above 1.

    Raises:
        ValueError: The step is negative, or an epoch has none.

    Source:
        Warm-up: Goyal et al., "Accurate, Large Minibatch SGD", arXiv:1706.02677,
        section 2.2. Cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient
        Descent with Warm Restarts", arXiv:1608.03983, equation 5, without restarts.
    """
    if step < 0 or steps_per_epoch < 1:
        raise ValueError(f"step {step} of epochs of {steps_per_epoch} steps does not exist")
    # Whole steps, or none of them would have the highest rate.
    warmup = int(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            span = config.epochs * steps_per_epoch - warmup
            return (1 + math.cos(math.pi * min((step - warmup) / span, 1.0))) / 2
        case "step":
            return config.step_factor ** ((step - warmup) // (config.step_epochs * steps_per_epoch))
