"""Convolutions of a single clip on a CPU: torch leaves small ones of them to a slow kernel."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv3d
from torch.overrides import TorchFunctionMode


class OneDnnConvolutions(TorchFunctionMode):
    """Within it, 3D convolutions of one float32 clip on a CPU are computed by oneDNN.

    torch takes oneDNN only if a batch has several members, or one that is large,
    and a slow kernel of its own for the others: r3d_18 takes 320 ms in place of 80
    for a clip of 8 x 64 x 64 on one core. The results differ by rounding. There are
    no gradients within it.

    Source:
        `ConvParams::use_mkldnn` in aten/src/ATen/native/Convolution.cpp.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute one function of torch."""
        del types
        if func is conv3d and not kwargs and _is_single(*args):
            return _convolved(*args)
        return func(*args, **(kwargs or {}))


def _is_single(clips: Tensor, weight: Tensor, *rest: Any) -> bool:
    del rest
    usual = clips.device.type == "cpu" and clips.dtype == weight.dtype == torch.float32
    return usual and clips.ndim == 5 and len(clips) == 1 and not torch.is_autocast_enabled("cpu")


def _convolved(
    clips: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    if isinstance(padding, str):
        return conv3d(clips, weight, bias, stride, padding, dilation, groups)
    # It takes padding before stride.
    return torch.mkldnn_convolution(clips, weight, bias, padding, stride, dilation, groups)
