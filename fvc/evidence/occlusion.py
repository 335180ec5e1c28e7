"""Where a classifier without gradients looked: what its logit loses with each part of a clip."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn.functional import interpolate

from fvc.evidence.explain import HeatMap, Side
from fvc.networks import ClipClassifier
from fvc.residuals import picture_of

CELLS = (2, 4, 4)
"""Into so many parts a clip is divided, in time, height and width; each costs a scoring."""
SMOOTHING_PX = 5
"""Side of the square that a pixel is replaced by the mean of: noise and grids are gone, the
scene stays. A grey square would itself be a trace."""


def occlusion(network: ClipClassifier, clip: Tensor, side: Side) -> dict[str, HeatMap]:
    """Map which parts of a clip spoke for calling it real or fake.

    A part spoke for a side as far as the logit moves away from it when that
    part is smoothed. Black bars stay black. Equal arguments give equal maps.

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
    """
    if clip.ndim != 4 or clip.dtype != torch.uint8:
        raise ValueError(f"clip is {tuple(clip.shape)} of {clip.dtype}, not (T, C, H, W) of uint8")
    pixels = clip.numpy()
    smooth = _smoothed(pixels)
    frames, _, height, width = pixels.shape
    ends = [
        np.linspace(0, length, min(count, length) + 1).astype(int)
        for count, length in zip(CELLS, (frames, height, width), strict=True)
    ]
    cells = tuple(len(each) - 1 for each in ends)
    whole = _logit(network, pixels)
    lost = np.zeros(cells, np.float32)
    for place in np.ndindex(*cells):
        time, rows, columns = (
            slice(each[at], each[at + 1]) for each, at in zip(ends, place, strict=True)
        )
        without = pixels.copy()
        without[time, :, rows, columns] = smooth[time, :, rows, columns]
        lost[place] = whole - _logit(network, without)
    return {"occlusion": _heat_map(lost if side == "fake" else -lost, (frames, height, width))}


def _logit(network: ClipClassifier, pixels: UInt8[np.ndarray, "T C H W"]) -> float:
    network.eval()
    with torch.inference_mode():
        given = torch.from_numpy(pixels)[None].to(network.mean.device)
        return float(network(network.normalise(given)))


def _smoothed(pixels: UInt8[np.ndarray, "T C H W"]) -> UInt8[np.ndarray, "T C H W"]:
    rows, columns = picture_of(pixels)
    smooth = pixels.copy()
    picture = pixels[:, :, rows, columns]
    if picture.size:
        smooth[:, :, rows, columns] = uniform_filter(picture, size=(1, 1, *(SMOOTHING_PX,) * 2))
    return smooth


def _heat_map(spoke: Float[np.ndarray, "t h w"], shape: tuple[int, int, int]) -> HeatMap:
    coarse = torch.from_numpy(spoke)[None, None].relu()
    fine = interpolate(coarse, size=shape, mode="trilinear", align_corners=False)[0, 0]
    peak = fine.max()
    values = fine / peak if peak > 0 else fine
    frames, height, width = spoke.shape
    return HeatMap(values=values.numpy(), cells=(frames, height, width))
