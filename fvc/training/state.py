"""What changes while a network is trained, in one place: it can be stopped, saved and resumed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fvc.config import TrainConfig
from fvc.distributed import World, not_averaged, share_statistics, wrapped
from fvc.errors import FvcError
from fvc.networks import ClipClassifier
from fvc.precision import Precision, choose_precision, compiled, lay_out, make_bf16_safe, tune_cuda
from fvc.training.fine_tuning import parameter_groups, set_train_mode, set_trainable, stages_of

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class OutOfMemoryOnRank(FvcError):
    """One of several ranks had to give up, and knows with how many clips to go on."""


Validate = Callable[[ClipClassifier], Mapping[str, float]]
"""Gives the `validation/` series of a network."""


@runtime_checkable
class ClipLoss(Protocol):
    """What a network is trained to lower."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each clip, of shape (B,)."""

    def by_hand(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The same in another way, to hold it against."""


@dataclass(kw_only=True)
class Training:
    """A network and all that changes with it."""

    network: ClipClassifier
    average: AveragedModel | None
    """The moving average of the network, where there is one."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: Precision
    world: World
    loss: ClipLoss
    config: TrainConfig
    micro_batch: int
    """Clips that pass through the network at once; less than a batch once memory ran out."""
    seed: int
    """Every random choice is derived from it."""
    called: Callable[..., Tensor] = field(init=False)
    """What is called in the network's place: it may be compiled, or average over ranks."""
    _averaged: nn.Module = field(init=False)
    _few: bool | None = field(init=False, default=None)
    """Whether the last pass had too few clips for statistics of its own."""
    _prepared_for: int = field(init=False, default=0)
    """How many weights trained when that was made; stages that train stay trained."""

    @property
    def scored(self) -> ClipClassifier:
        """The network that is validated and kept: the average, where there is one."""
        return self.network if self.average is None else cast(ClipClassifier, self.average.module)

    def begin_epoch(self, epoch: int) -> None:
        """Let those parameters train that do in this epoch, counted from 0."""
        set_trainable(self.network, self.config, epoch)
        self._few = None
        moving = len(self.moving)
        if moving != self._prepared_for:
            self._averaged = wrapped(self.network, self.world)
            self.called = compiled(self._averaged, self.config)
            self._allocate_optimizer_state()
            self._prepared_for = moving

    def forward(
        self, clips: Float[Tensor, "B C T H W"], mask: Bool[Tensor, "B H W"] | None
    ) -> Float[Tensor, "B"]:
        """The logits of normalised clips in training, in float32."""
        # Between GPUs, batch normalisation sees the clips of all ranks.
        together = len(clips) * (self.world.size if clips.is_cuda else 1)
        few = together < self.config.frozen_batch_norm_below
        # It takes half a millisecond, so only where something is to change.
        if not self.network.training or few != self._few:
            set_train_mode(self.network, self.config, together)
            self._few = few
        with self.precision.autocast():
            logits = self.called(clips.contiguous(memory_format=self.precision.memory_format), mask)
        return logits.squeeze(1).float()

    def averaging(self, wanted: bool) -> AbstractContextManager[None]:
        """The context in which a backward pass averages over the ranks, or does not."""
        return nullcontext() if wanted else not_averaged(self._averaged)

    @property
    def share(self) -> int:
        """The most clips of a batch that this rank is given."""
        return -(-self.config.batch_size // self.world.size)

    def require_alone(self) -> None:
        """Refuse to begin a step anew that other ranks are in the midst of.

        Raises:
            FvcError: There are other ranks.
        """
        if self.world.size > 1:
            cause = f"ran out of memory; {self.micro_batch} clips at once are the next try"
            remedy = "Start it again, or let torchrun do so with --max-restarts"
            raise OutOfMemoryOnRank(f"rank {self.world.rank}", cause, remedy)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Put back what a forward and backward pass changed, should the block fail.

        A loss scaler changes after it, and its state is not read here: on a GPU that would wait,
        in each step, for all that the device still has to do.
        """
        buffers = list(self.network.buffers())
        saved = [buffer.clone() for buffer in buffers]
        try:
            yield
        except BaseException:
            self.optimizer.zero_grad()
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)
            raise

    def unscale(self) -> None:
        """Make the gradients those of the loss itself, which a loss scaler made larger."""
        self.scaler.unscale_(self.optimizer)

    def step(self, gradient_norm: Float[Tensor, ""], factor: float) -> None:
        """Change the weights by the gradients that were added up.

        Args:
            gradient_norm: Of all gradients together; they are clipped by it.
            factor: Of the learning rate.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        clip_grads_with_norm_(self.moving, self.config.gradient_clip_norm, gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        share_statistics(self.network, self.world)
        if self.average is not None:
            self.average.update_parameters(self.network)

    @property
    def moving(self) -> list[nn.Parameter]:
        """The weights that train."""
        return [each for each in self.network.parameters() if each.requires_grad]

    @property
    def moving_stages(self) -> dict[str, list[nn.Parameter]]:
        """The weights that train, by the stage of the network that has them."""
        stages = {
            name: [each for each in stage.parameters() if each.requires_grad]
            for name, stage in stages_of(self.network)
        }
        return {name: weights for name, weights in stages.items() if weights}

    def is_finite(self) -> bool:
        """Whether no weight and no statistic is NaN or infinite; reading it waits for the device.

        After an overflow in fp16 a scaler skips the step: the weights are as before, what batch
        normalisation has averaged is not.
        """
        tensors = (*self.network.parameters(), *self.network.buffers())
        return all(bool(each.detach().isfinite().all()) for each in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, which torch.load takes with weights_only."""
        return {
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "micro_batch": self.micro_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, in the midst of a step as well."""
        self.optimizer.zero_grad()
        # What the optimizer remembers may be less than it was given room for.
        self._prepared_for = 0
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        # Else there would be two of it for a moment, and memory may be what is short.
        self.optimizer.state.clear()
        self.optimizer.load_state_dict(state["optimizer"])
        # Made anew: the one in use may remember gradients that it has unscaled.
        self.scaler = self.precision.scaler()
        self.scaler.load_state_dict(state["scaler"])
        self.micro_batch = state["micro_batch"]

    def _allocate_optimizer_state(self) -> None:
        """Give the optimizer its memory before the first step, which then cannot fail halfway.

        A step with no gradient and a learning rate of 0 does it, and changes nothing else.
        """
        missing = [each for each in self.moving if each not in self.optimizer.state]
        if not missing:
            return
        for parameter in missing:
            parameter.grad = torch.zeros_like(parameter)
        groups = self.optimizer.param_groups
        settings = [(group["lr"], group["weight_decay"]) for group in groups]
        for group in groups:
            group["lr"] = group["weight_decay"] = 0.0
        self.optimizer.step()
        for group, (rate, decay) in zip(groups, settings, strict=True):
            group["lr"], group["weight_decay"] = rate, decay
        for parameter in missing:
            if "step" in self.optimizer.state[parameter]:
                self.optimizer.state[parameter]["step"].zero_()
        self.optimizer.zero_grad()


def start_training(
    network: ClipClassifier,
    loss: ClipLoss,
    config: TrainConfig,
    *,
    seed: int,
    world: World | None = None,
) -> Training:
    """Move the network to the device that will train it, and give it an optimizer.

    Args:
        network: Trained in place.
        loss: Of each clip, weighted.
        config: How to train.
        seed: Every random choice is derived from it.
        world: The ranks that train it together; None where there is one.
    """
    precision = choose_precision(config.mixed_precision)
    tune_cuda(fixed_size=network.clips.fit == "letterbox")
    world = World.single(precision.device) if world is None else world
    make_bf16_safe(network)
    lay_out(network.to(precision.device), precision.memory_format)
    # Fused: one pass over all weights; on a CPU the default takes 40 times as long.
    optimizer = OPTIMIZERS[config.optimizer](
        parameter_groups(network, config), weight_decay=config.weight_decay, fused=True
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return Training(
        network=network,
        average=_average_of(network, config.ema_decay),
        optimizer=optimizer,
        scaler=precision.scaler(),
        precision=precision,
        world=world,
        loss=loss,
        config=config,
        micro_batch=config.batch_size,
        seed=seed,
    )


def _average_of(network: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    # Batch-norm statistics are moving averages already, and are taken over as they are.
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
