"""Which parts of a network train, from when on, how fast, and with whose statistics."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fvc.config import TrainConfig
from fvc.networks import ClipClassifier

logger = logging.getLogger(__name__)

HEAD = "head"
FEW = 0.01
"""A share of the parameters below which it is worth asking whether that was meant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainable:
    """What of a network trains in an epoch."""

    trainable: int
    """Numbers that gradients change."""
    total: int
    """Numbers that the network has; statistics of batch normalisation are none."""
    stages: tuple[str, ...]
    """The names of the stages that train, from the input to the head."""

    @property
    def share(self) -> float:
        """Of the parameters, those that train, in [0, 1]."""
        return self.trainable / self.total

    def __str__(self) -> str:
        share = f"{100 * self.share:.3g}%: {', '.join(self.stages)}"
        return f"{self.trainable:,} of {self.total:,} parameters train ({share})"


def stages_of(network: ClipClassifier) -> list[tuple[str, nn.Module]]:
    """The parts that are frozen and freed as one, from the input to the head.

    Features with a `backbone` give a stage for each part that the network
    declares of it, by its name; other features are a single stage. All that
    follows is the head, with the classifier.
    """
    parts = dict(network.features.named_children())
    backbone = parts.pop("backbone", None)
    if backbone is None:
        stages, after = [("features", network.features)], []
    else:
        stages, after = list(network.stages(backbone).items()), list(parts.values())
    others = [part for name, part in network.named_children() if name != "features"]
    return [*stages, (HEAD, nn.ModuleList([*after, *others]))]


def parameter_groups(network: ClipClassifier, config: TrainConfig) -> list[dict[str, Any]]:
    """All parameters, for an optimizer: the backbone's and the head's, each with its own rate.

    Those of frozen stages are there from the start. An optimizer passes over
    parameters that have no gradient, weight decay included, so it need not
    know when they are freed.
    """
    head = list(dict(stages_of(network))[HEAD].parameters())
    own = {id(parameter) for parameter in head}
    backbone = [parameter for parameter in network.parameters() if id(parameter) not in own]
    rate = config.learning_rate
    return [
        {"name": "backbone", "params": backbone, "lr": rate * config.backbone_rate_factor},
        {"name": HEAD, "params": head, "lr": rate},
    ]


def set_trainable(network: ClipClassifier, config: TrainConfig, epoch: int) -> Trainable:
    """Freeze and free the stages of a network as an epoch wants them.

    Logs how many parameters train in the first epoch and wherever that
    changes, with a warning where even the last epoch trains very few.

    Args:
        network: Changed in place: `requires_grad` of its parameters, no value.
        config: How to train.
        epoch: Counted from 0.
    """
    before = [parameter.requires_grad for parameter in network.parameters()]
    stages = dict(stages_of(network))
    wanted = _trained_stages(tuple(stages), config, epoch)
    # What belongs to no stage trains only with everything else.
    network.requires_grad_(config.fine_tuning == "full")
    for name, stage in stages.items():
        stage.requires_grad_(name in wanted)
    after = [parameter.requires_grad for parameter in network.parameters()]
    trained = Trainable(
        trainable=_numbers(each for each in network.parameters() if each.requires_grad),
        total=_numbers(network.parameters()),
        stages=wanted,
    )
    late = [start for start in config.unfreeze_epochs if start >= config.epochs]
    if epoch == 0 and late and config.fine_tuning == "gradual":
        logger.warning(
            "train.unfreeze_epochs %s are never reached: epochs are counted from 0, and "
            "train.epochs is %d. Raise it, or free these stages earlier.",
            *(late, config.epochs),
        )
    if epoch == 0 or before != after:
        logger.info("%s", trained)
        last = _trained_stages(tuple(stages), config, config.epochs - 1)
        _warn_of_few(_numbers(each for name in last for each in stages[name].parameters()), trained)
    return trained


def set_train_mode(network: ClipClassifier, config: TrainConfig, clips_at_once: int) -> None:
    """Put a network into training mode, less the batch normalisation that keeps its statistics.

    That is the one of frozen stages, whose features would drift else, and all
    of it where too few clips pass through the network at once to tell their
    mean and deviation. Scale and offset train on in stages that train.

    Args:
        network: With `requires_grad` as `set_trainable` left it.
        config: How to train.
        clips_at_once: Clips in one forward pass.
    """
    network.train()
    too_few = clips_at_once < config.frozen_batch_norm_below
    for _, stage in stages_of(network):
        trains = [parameter.requires_grad for parameter in stage.parameters()]
        if too_few or (trains and not any(trains)):
            _keep_statistics(stage.modules())


def _trained_stages(stages: tuple[str, ...], config: TrainConfig, epoch: int) -> tuple[str, ...]:
    if config.fine_tuning == "full":
        return stages
    starts = config.unfreeze_epochs if config.fine_tuning == "gradual" else ()
    *backbone, head = stages
    freed = sum(start <= epoch for start in starts)
    return (*backbone[max(len(backbone) - freed, 0) :], head)


def _warn_of_few(at_last: int, trained: Trainable) -> None:
    """Warn where the last epoch, which trains most, trains too little."""
    if at_last < FEW * trained.total:
        logger.warning(
            "only %s of %s parameters (%.2g%%) train in any epoch, which can hardly learn. "
            "Set train.fine_tuning to full, or to gradual with train.unfreeze_epochs below "
            "train.epochs.",
            *(f"{at_last:,}", f"{trained.total:,}", 100 * at_last / trained.total),
        )


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _keep_statistics(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        if isinstance(module, _BatchNorm):
            module.eval()
