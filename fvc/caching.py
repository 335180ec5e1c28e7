"""Clips kept in memory, or on the device that trains, for as long as they are trained on."""

from collections.abc import Sequence

import psutil
import torch
from jaxtyping import UInt8
from torch import Tensor

from fvc.errors import FvcError

SHARE = 0.8
"""Of the free memory; the rest is left to the training itself."""
GIB = 2**30


def hold_on(
    clips: Sequence[UInt8[Tensor, "..."]], device: torch.device
) -> list[UInt8[Tensor, "..."]]:
    """Copy tensors into a single one on a device, and give the place of each in it.

    Raises:
        FvcError: They do not fit; nothing was allocated.
    """
    size = sum(each.numel() for each in clips)
    free = free_bytes(device)
    if size > SHARE * free:
        cause = (
            f"the clips are {size / GIB:.1f} GiB, more than {SHARE:.0%} of the "
            f"{free / GIB:.1f} GiB that are free on {device.type}"
        )
        remedy = "Set loader.cache to none" + (" or ram" if device.type != "cpu" else "")
        raise FvcError("loader.cache", cause, remedy)
    held = torch.empty(size, dtype=torch.uint8, device=device)
    parts = held.split([each.numel() for each in clips])  # type: ignore[no-untyped-call]
    for part, each in zip(parts, clips, strict=True):
        part.copy_(each.reshape(-1))
    return [part.view(each.shape) for part, each in zip(parts, clips, strict=True)]


def free_bytes(device: torch.device) -> int:
    """Memory that can be allocated on a device without pushing anything else out."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
