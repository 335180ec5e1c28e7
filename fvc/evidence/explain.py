"""Where a network looked: maps over a clip, and whether they depend on what was learned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import interpolate

from fvc.networks import ClipClassifier
from fvc.networks.explained import explained_layers

Side = Literal["real", "fake"]

MOST_ALIKE = 0.5
"""Maps whose mean rank correlation with those of random weights reaches this say nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeatMap:
    """Where the output of one layer spoke for a side."""

    values: Float32[np.ndarray, "T H W"]
    """In [0, 1]; 1 is the largest of this map. All are 0 where nothing spoke for the side."""
    cells: tuple[int, int, int]
    """The layer's own resolution (t, h, w): what is finer in `values` is interpolated."""
    within: tuple[slice, slice] = (slice(None), slice(None))
    """The rows and columns that could speak at all; elsewhere all values are 0."""

    @property
    def is_blank(self) -> bool:
        """Nothing in the layer's output spoke for the side."""
        return not self.values.any()


Maps = Mapping[str, HeatMap]
"""By the name of the layer."""

Explainer = Callable[[ClipClassifier, Tensor, Side], Maps]
"""What makes the maps of a clip, as `grad_cam` does."""


def grad_cam(network: ClipClassifier, clip: Tensor, side: Side) -> dict[str, HeatMap]:
    """Map where the layers of a network spoke for calling a clip real or fake.

    Computed in float32 on the device that holds the network, in evaluation
    mode; equal arguments give equal maps on a CPU, and on a GPU up to rounding.
    The network is left as it was. Black bars are part of the clip and of the
    map: a network that reads them is to be seen doing so.

    Args:
        network: Any whose `explained_layers` give (N, channels, t, h, w).
        clip: RGB, (T, C, H, W) of uint8; one at a time, for the sake of memory.
        side: `fake` explains the logit, `real` what lowers it.

    Returns:
        A map for each of the network's `explained_layers`.

    Raises:
        ValueError: The clip is of another shape than the network is made for,
            or a layer gives no positions to map.

    Source:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
        Gradient-based Localization", arXiv:1610.02391, equations 1 and 2, with
        time as a third axis of the positions.
    """
    if clip.ndim != 4 or clip.dtype != torch.uint8:
        raise ValueError(f"clip is {tuple(clip.shape)} of {clip.dtype}, not (T, C, H, W) of uint8")
    device = network.mean.device
    with _undisturbed(network), torch.autocast(device.type, enabled=False):
        logit, outputs = _outputs(network, network.normalise(clip[None].to(device)))
        score = logit.sum() if side == "fake" else -logit.sum()
        gradients = torch.autograd.grad(score, list(outputs.values()))
    shape = (clip.shape[0], *clip.shape[2:])
    return {
        name: _heat_map(output.detach(), gradient, shape)
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True)
    }


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients, whatever the caller's mode; then as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def _outputs(
    network: ClipClassifier, clips: Float[Tensor, "1 C T H W"]
) -> tuple[Float[Tensor, "1 1"], dict[str, Tensor]]:
    """The logit, and what each explained layer gave; gradients reach these from the logit.

    The weights take part as constants, so nothing is kept for gradients of
    what comes before the first of the layers, and none reaches a weight.
    """
    outputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., Tensor]:
        def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
            if output.ndim != 5:
                shape = tuple(output.shape)
                raise ValueError(f"layer {name} gives {shape}, not (N, channels, t, h, w)")
            outputs[name] = output if output.requires_grad else output.requires_grad_()
            # What follows may change its input in place.
            return output.clone()

        return keep

    layers = explained_layers(network)
    hooks = [layer.register_forward_hook(keeper(name)) for name, layer in layers.items()]
    try:
        constants = {name: value.detach() for name, value in network.named_parameters()}
        logit = functional_call(network, constants, (clips,))
    finally:
        for hook in hooks:
            hook.remove()
    return logit, outputs


def _heat_map(
    output: Float[Tensor, "1 K t h w"],
    gradient: Float[Tensor, "1 K t h w"],
    shape: tuple[int, int, int],
) -> HeatMap:
    weights = gradient.mean((2, 3, 4), keepdim=True)
    coarse = (weights * output).sum(1, keepdim=True).relu()
    fine = interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0, 0]
    peak = fine.max()
    values = fine / peak if peak > 0 else fine
    _, _, *cells = coarse.shape
    return HeatMap(values=values.cpu().numpy(), cells=(cells[0], cells[1], cells[2]))


def randomised(network: ClipClassifier, seed: int) -> ClipClassifier:
    """A copy of which every layer has forgotten what it learned, on the same device.

    A layer that can draws its weights as it did before training. Parameters of
    a module that has no such way, as class tokens and tables of positions, get
    their own values in a random order: what was learned is which value is where,
    and their size, which suits the layers around them, is kept. One whose values
    are all equal stays as it is.
    """
    copy = deepcopy(network).cpu()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for layer in copy.modules():
            draw: Callable[[], None] | None = getattr(layer, "reset_parameters", None)
            if draw is not None:
                draw()
                continue
            for values in layer.parameters(recurse=False):
                order = torch.randperm(values.numel())
                values.copy_(values.flatten()[order].view_as(values))
    return copy.to(network.mean.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """A clip with its maps."""

    clip: UInt8[Tensor, "T C H W"]
    side: Side
    maps: Maps


def randomisation_check(
    network: ClipClassifier,
    explained: Sequence[Explained],
    seeds: Sequence[int],
    explain: Explainer = grad_cam,
) -> dict[str, float | None]:
    """How much the maps of a network are like those of random weights.

    All layers are randomised at once. The rank correlation is that of a map
    with its successor, averaged over clips and draws, since by chance a coarse
    map may be like another, or its opposite. A map that has become blank
    repeats nothing and counts as 0; one that was blank is left out. Where no
    map of this kind could speak, their likeness says nothing, and is left out.

    Args:
        network: Of the kind that made the maps; its weights do not matter.
        explained: Clips with the maps of trained networks.
        seeds: One for each draw of random weights.
        explain: What made the maps.

    Returns:
        By layer, in [-1, 1]; maps tell what was learned below `MOST_ALIKE`.
        None where every map was blank.

    Source:
        Adebayo et al., "Sanity Checks for Saliency Maps", arXiv:1810.03292,
        section 4, the model parameter randomization test, with Spearman's rank
        correlation of maps that are positive already.
    """
    found: dict[str, list[float]] = {name: [] for one in explained for name in one.maps}
    for seed in seeds:
        forgetful = randomised(network, seed)
        for one in explained:
            others = explain(forgetful, one.clip, one.side)
            for name, own in one.maps.items():
                if not own.is_blank:
                    both = (each.values[(..., *own.within)] for each in (own, others[name]))
                    found[name].append(_rank_correlation(*both))
    return {name: float(np.mean(values)) if values else None for name, values in found.items()}


def _rank_correlation(
    first: Float[np.ndarray, "T H W"], second: Float[np.ndarray, "T H W"]
) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first.ravel(), second.ravel()).statistic)
