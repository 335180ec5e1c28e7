"""One training on several processes, one for each GPU: torchrun starts them, each is a rank."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
from torch import distributed, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from fvc.errors import FvcError

Item = TypeVar("Item")

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others. torchrun ends all as soon as one fails, so this is for a
machine that hangs; what rank 0 alone does between two steps must take less."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train one network; with one rank nothing is exchanged.

    Every rank has to make the same calls in the same order.
    """

    rank: int
    """From 0 to `size` - 1; rank 0 writes and tracks."""
    size: int
    device: torch.device
    """Where this rank trains."""
    messages: distributed.ProcessGroup | None
    """What small values in memory travel through; None where there is one rank."""

    @classmethod
    def single(cls, device: torch.device) -> "World":
        """A process that trains alone."""
        return cls(rank=0, size=1, device=device, messages=None)

    def agree_max(self, value: int) -> int:
        """The largest value of all ranks, so that they decide alike."""
        if self.size == 1:
            return value
        largest = torch.tensor(value)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=self.messages)
        return int(largest)

    def gather(self, value: Item) -> list[Item]:
        """What each rank gave, by rank; tensors must be in memory. Every rank gets all."""
        if self.size == 1:
            return [value]
        values: list[Item] = [value] * self.size
        distributed.all_gather_object(values, value, group=self.messages)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            distributed.barrier(group=self.messages)


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Join the processes that torchrun started; without it, or with one process, be alone.

    An error leaves the group as it is: NCCL would wait for what the others
    never send, and torchrun ends them when this process ends.

    Args:
        device: What trains; of several GPUs each rank takes its own, which
            becomes its current one. Gradients travel through NCCL between
            GPUs, else through gloo.

    Raises:
        FvcError: torchrun's variables are incomplete, or there are more ranks than GPUs.
    """
    size = _variable("WORLD_SIZE") if "RANK" in os.environ else 1
    if size == 1:
        yield World.single(device)
        return
    on_gpu = device.type == "cuda"
    own = _own_gpu(_variable("LOCAL_RANK")) if on_gpu else device
    rank = _variable("RANK")
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo",
        timeout=TIMEOUT,
        store=_meeting_point(),
        rank=rank,
        world_size=size,
        device_id=own if on_gpu else None,
    )
    # Through NCCL, a number would wait for all that the device still has to do.
    messages = cast(
        distributed.ProcessGroup, distributed.new_group(backend="gloo", timeout=TIMEOUT)
    )
    yield World(rank=rank, size=size, device=own, messages=messages)
    distributed.destroy_process_group()


def _meeting_point() -> Store:
    """Where the ranks find each other.

    torchrun keeps it when it starts them again, so they would find the
    addresses of those that have ended: each start has a part of its own.
    """
    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"start {start}", store)


def _variable(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        cause = f"is {os.environ.get(name, 'not set')}, though RANK is set"
        raise FvcError(name, cause, "Start with torchrun, or unset RANK") from None


def _own_gpu(local_rank: int) -> torch.device:
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        cause = f"starts a process numbered {local_rank}, counted from 0, for {gpus} GPUs"
        raise FvcError("torchrun", cause, f"Set --nproc-per-node to {gpus} at most")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def part_of(items: Sequence[Item], rank: int, size: int) -> list[Item]:
    """One of `size` contiguous parts whose lengths differ by one at most.

    It may be empty, but rank 0's, which shows how a step went, only if all are.
    """
    first, last = (-(-len(items) * end // size) for end in (rank, rank + 1))
    return list(items[first:last])


def share_of(batch: Sequence[Item], rank: int, size: int) -> list[Item]:
    """One rank's part of a batch, made as long as the longest part by a stand-in at its end.

    Ranks with equally many clips cut them into equally many micro-batches of
    equal sizes. They need that: synchronised batch normalisation waits for
    all ranks in every pass, and DistributedDataParallel in the last of a step.
    The stand-in, a clip that the batch has anyway, must not enter the loss.
    It costs no time, as the longest part is waited for anyway.

    Raises:
        ValueError: The batch is empty.
    """
    if not batch:
        raise ValueError("an empty batch has no shares")
    own = part_of(batch, rank, size)
    return own + (own[-1:] or list(batch[:1])) * stand_ins(len(batch), rank, size)


def stand_ins(clips: int, rank: int, size: int) -> int:
    """How many stand-ins, 0 or 1, the share of a batch of so many clips ends with."""
    return -(-clips // size) - len(part_of(range(clips), rank, size))


def wrapped(network: nn.Module, world: World) -> nn.Module:
    """What to call instead of the network, so that a backward pass averages over the ranks.

    Gradients equal those of one process where each rank's loss is the sum over
    its own clips, times the number of ranks, divided by the clips of the step
    on all ranks. The weights of rank 0 replace the others'. Between GPUs,
    batch normalisation in training takes its statistics from all ranks. The
    network's modules may be replaced by that, its parameters are not, and names
    in its state stay: any number of ranks can load it.

    To be called again whenever another set of parameters is to be trained:
    only those that require a gradient now are averaged.
    """
    if world.size == 1:
        return network
    on_gpu = world.device.type == "cuda"
    if on_gpu and any(_is_local(module) for module in network.modules()):
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    # False alarm: where a kernel has one position, strides may differ and nothing else does.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return DistributedDataParallel(
        network,
        device_ids=[world.device.index] if on_gpu else None,
        # They are made equal after each step, so that any rank may save or validate then.
        forward_sync_buffers=False,
    )


def not_averaged(network: nn.Module) -> AbstractContextManager[None]:
    """The context for forward and backward of all micro-batches of a step but the last.

    Their gradients are kept, and the last one's backward pass averages the sum.
    """
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


def share_statistics(network: nn.Module, world: World) -> None:
    """Give all ranks rank 0's batch-norm statistics; to be called after each step.

    Synchronised layers have equal ones already, and layers that keep theirs always had.
    """
    if world.size == 1:
        return
    for layer in network.modules():
        if _is_local(layer) and layer.training:
            for values in layer.buffers(recurse=False):
                distributed.broadcast(values, src=0)


def _is_local(module: nn.Module) -> bool:
    """Whether it is a batch normalisation that sees its own rank's clips only."""
    return isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
