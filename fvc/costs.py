"""What a network costs: its size, and the time that one clip takes on this machine."""

import statistics
import time
from dataclasses import dataclass, replace

import torch

from fvc.config import ClipsConfig, ModelConfig
from fvc.networks import build_network
from fvc.networks.counting import gmacs, parameters
from fvc.predict import clip_logits

MIB = 2**20
WARM_UP = 2
"""Clips before the clock runs: the first ones choose algorithms and fetch memory."""
TIMED = 9
"""Clips behind a latency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one network, head and all."""

    parameters: int
    """Numbers that train."""
    gmacs: float
    """Multiply-adds of one clip as the network takes it, in 1e9, without the last layer's few."""
    weights_mib: float
    """The size of its weights and statistics."""
    latency_ms: float
    """From the pixels of one clip to its logit, the median of several."""


def cost_of(model: ModelConfig, clips: ClipsConfig, device: torch.device) -> Cost:
    """Count and time a network; its weights are drawn anew, as they change neither.

    Raises:
        FvcError: It cannot take such clips, or memory does not suffice for one of them.
    """
    blank = replace(model, pretrained="none")
    with torch.device("meta"):
        counted = build_network(blank, clips)
    kept = counted.state_dict().values()
    return Cost(
        parameters=parameters(counted),
        gmacs=gmacs(counted.features, clips.num_frames, clips.side_px, len(counted.mean)),
        weights_mib=sum(value.numel() * value.element_size() for value in kept) / MIB,
        latency_ms=_latency_ms(blank, clips, device),
    )


def _latency_ms(model: ModelConfig, clips: ClipsConfig, device: torch.device) -> float:
    with torch.random.fork_rng():
        network = build_network(model, clips).to(device)
    shape = (1, clips.num_frames, 3, clips.side_px, clips.side_px)
    # Measured features and flow find nothing to do in a clip that is black all over.
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator)
    taken = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        # Its result is on the CPU: no work is left behind on a GPU.
        clip_logits(network, pixels)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken[WARM_UP:])


def place_of(device: torch.device) -> str:
    """Where latencies were measured, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"a CPU with {threads} thread" + ("" if threads == 1 else "s")
