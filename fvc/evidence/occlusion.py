"""Where a classifier without gradients looked: what its logit loses with each part of a clip."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn.functional import interpolate

from fvc.evidence.explain import HeatMap, Side
from fvc.networks import ClipClassifier
from fvc.predict import clip_logits
from fvc.residuals import picture_of

CELLS = (2, 4, 4)
"""Into so many parts a clip is divided, in time, height and width."""
ORDERS = 4
"""In so many orders the parts are smoothed, each second one being the one before it backwards."""
SMOOTHING_PX = 5
"""Side of the square that a pixel is replaced by the mean of: noise and grids are gone, the
scene stays. A grey square would itself be a trace."""


def occlusion(network: ClipClassifier, clip: Tensor, side: Side) -> dict[str, HeatMap]:
    """Map which parts of a clip spoke for calling it real or fake.

    Part after part is smoothed until all are, in several orders that are the
    same for every clip. A part spoke for a side as far as the logit moved away
    from it when its turn came, on average. Smoothed alone, a part would often
    change nothing at all: trees have thresholds. Black bars are not smoothed,
    and no part of them speaks. Equal arguments give equal maps.

    Args:
        network: Any.
        clip: RGB, (T, C, H, W) of uint8.
        side: `fake` explains the logit, `real` what lowers it.

    Returns:
        One map, by the name `occlusion`.

    Raises:
        ValueError: The clip is of another shape than the network is made for.

    Source:
        Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks",
        arXiv:1311.2901, section 4.2, with smoothing in the place of a grey square.
        Orders: Castro, Gomez and Tejada, "Polynomial calculation of the Shapley
        value based on sampling", 2009.
    """
    if clip.ndim != 4 or clip.dtype != torch.uint8:
        raise ValueError(f"clip is {tuple(clip.shape)} of {clip.dtype}, not (T, C, H, W) of uint8")
    pixels = clip.numpy()
    box = picture_of(pixels)
    smooth = _smoothed(pixels, box)
    parts = _parts(slice(0, len(pixels)), *box)
    lost = np.zeros(parts.shape, np.float32)
    for order in _orders(parts.size):
        steps = [pixels.copy()]
        for number in order:
            time, rows, columns = parts.flat[number]
            steps.append(steps[-1].copy())
            steps[-1][time, :, rows, columns] = smooth[time, :, rows, columns]
        logits = clip_logits(network, torch.from_numpy(np.stack(steps))).numpy()
        lost.flat[order] += logits[:-1] - logits[1:]
    signed = lost if side == "fake" else -lost
    return {"occlusion": _heat_map(signed, (len(pixels), *pixels.shape[2:]), box)}


def _parts(*extents: slice) -> np.ndarray:
    """A grid of slices in time, height and width; without a picture, of a single empty one."""
    cuts = []
    for extent, count in zip(extents, CELLS, strict=True):
        length = extent.stop - extent.start
        ends = np.linspace(extent.start, extent.stop, max(min(count, length), 1) + 1).astype(int)
        cuts.append([slice(*pair) for pair in pairwise(ends.tolist())])
    parts = np.empty([len(each) for each in cuts], object)
    for place in np.ndindex(*parts.shape):
        parts[place] = tuple(each[at] for each, at in zip(cuts, place, strict=True))
    return parts


def _orders(count: int) -> Iterator[Int[np.ndarray, "N"]]:
    generator = np.random.default_rng(0)
    for _ in range(ORDERS // 2):
        order = generator.permutation(count)
        yield order
        yield order[::-1]


def _smoothed(
    pixels: UInt8[np.ndarray, "T C H W"], box: tuple[slice, slice]
) -> UInt8[np.ndarray, "T C H W"]:
    smooth = pixels.copy()
    picture = pixels[(..., *box)]
    if picture.size:
        smooth[(..., *box)] = uniform_filter(picture, size=(1, 1, *(SMOOTHING_PX,) * 2))
    return smooth


def _heat_map(
    spoke: Float[np.ndarray, "t h w"], shape: tuple[int, int, int], box: tuple[slice, slice]
) -> HeatMap:
    values = torch.zeros(shape)
    own = values[(..., *box)]
    if own.numel():
        coarse = torch.from_numpy(spoke)[None, None].relu()
        own[:] = interpolate(coarse, size=own.shape, mode="trilinear", align_corners=False)[0, 0]
    peak = values.max()
    frames, height, width = spoke.shape
    return HeatMap(
        values=(values / peak if peak > 0 else values).numpy(),
        cells=(frames, height, width),
        within=box,
    )
