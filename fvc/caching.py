"""Clips kept in memory, or on the device that trains, for as long as they are trained on."""

from collections.abc import Sequence
from pathlib import Path

import psutil
import torch
from jaxtyping import UInt8
from torch import Tensor

from fvc.errors import FvcError

SHARE = 0.8
"""Of the free memory; the rest is left to the training itself."""
GIB = 2**30
GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux keeps the limits of groups of processes, and says which group we are in."""


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
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """What the limits of a container or a cluster's job leave, where there are any.

    The system itself would not say no: it ends a process that goes beyond.
    """
    lines = OWN_GROUP.read_text(encoding="utf-8").splitlines() if OWN_GROUP.is_file() else []
    # Version 2, which has a single hierarchy, is the line that begins so.
    paths = [GROUPS / line[len("0::/") :] for line in lines if line.startswith("0::/")]
    return [left for path in paths for group in (path, *path.parents) for left in _left_in(group)]


def _left_in(group: Path) -> list[int]:
    limit, used, details = (group / f"memory.{name}" for name in ("max", "current", "stat"))
    if not limit.is_file() or limit.read_text(encoding="ascii").strip() == "max":
        return []
    counts = dict(line.split() for line in details.read_text(encoding="ascii").splitlines())
    # Pages of files make room when memory is asked for.
    files = int(counts["inactive_file"]) + int(counts["active_file"])
    held = int(used.read_text(encoding="ascii")) - files
    return [int(limit.read_text(encoding="ascii")) - held]
