"""How large a network is, and what a clip costs in it."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Numbers that train."""
    return sum(each.numel() for each in module.parameters())


def gmacs(module: nn.Module, num_frames: int, side_px: int, channels: int = 3) -> float:
    """Multiply-adds of one clip in convolutions and products, in 1e9.

    What papers call FLOPs is mostly this, and what a GPU's peak is stated in is twice as much.
    Nothing is computed, so weights and clips need no memory: build the module under
    `torch.device("meta")`.

    Args:
        module: Takes (1, C, T, H, W), on the device `meta`.
        num_frames: Of the clip.
        side_px: Its height and width, in pixels.
        channels: Red, green, blue, and what a network sees besides.
    """
    clip = torch.empty(1, channels, num_frames, side_px, side_px, device="meta")
    counter = FlopCounterMode(display=False)
    module.eval()
    with torch.no_grad(), counter:
        module(clip)
    return counter.get_total_flops() / 2e9
