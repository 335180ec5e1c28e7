"""What a network is held against: labels smoothed, and clips mixed in pairs with their labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fvc.batches import Batch

Normalise = Callable[[Tensor, Tensor | None], Tensor]
"""Turns stored pixels, and the mask of padded ones, into what the network takes."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """With which clip of its batch each clip is mixed, and how much of it stays.

    Source:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization",
        arXiv:1710.09412, section 2 and figure 1.
    """

    share: float
    """What stays of a clip, in [0, 1]; the rest is its partner's."""
    partners: Int[np.ndarray, " B"]
    """Each clip's partner, as a place in the whole batch; a permutation."""

    def blend(self, own: Float[Tensor, "*shape"], partners: Float[Tensor, "*shape"]) -> Tensor:
        """Mix normalised clips, or targets, with those of their partners."""
        return torch.lerp(partners, own, self.share)


def mixing_of(batch_size: int, alpha: float, generator: np.random.Generator) -> Mixing | None:
    """Draw how one batch is mixed: one share from Beta(alpha, alpha), and random pairs.

    Args:
        batch_size: Clips in the whole batch, before it is cut.
        alpha: Above 0; the larger, the nearer the share is to one half. 0 mixes nothing.
        generator: Moved by the draw; not used where alpha is 0.
    """
    if alpha == 0:
        return None
    return Mixing(float(generator.beta(alpha, alpha)), generator.permutation(batch_size))


def mixed_part(
    batch: Batch, mixing: Mixing, normalise: Normalise, *, first: int, last: int
) -> tuple[Float[Tensor, "B C T H W"], Float[Tensor, " B"], Bool[Tensor, "B H W"] | None]:
    """The clips [first, last) of a batch, mixed with their partners from all of it.

    Cut into any parts, a batch gives the same mixed clips as whole. Where
    clips differ in size, a mixed clip has the pixels that either of its two
    has; the one that has none there counts as the mean colour.

    Args:
        batch: The whole batch, on the device; its labels may be smoothed.
        mixing: Of the whole batch.
        normalise: The network's.
        first: The first clip.
        last: The one after the last clip.

    Returns:
        Clips, targets and mask, as the network and the loss take them.
    """
    own = slice(first, last)
    places = torch.from_numpy(mixing.partners[own]).to(batch.pixels.device)

    def normalised(chosen: slice | Tensor) -> Tensor:
        return normalise(batch.pixels[chosen], None if batch.mask is None else batch.mask[chosen])

    clips = mixing.blend(normalised(own), normalised(places))
    targets = mixing.blend(batch.labels[own], batch.labels[places])
    mask = None if batch.mask is None else batch.mask[own] | batch.mask[places]
    return clips, targets, mask


def part_of(
    batch: Batch, mixing: Mixing | None, normalise: Normalise, *, first: int, last: int
) -> tuple[Float[Tensor, "_B C T H W"], Float[Tensor, "_B"], Bool[Tensor, "_B H W"] | None]:
    """The clips [first, last) of a batch, mixed where that is asked for: see `mixed_part`."""
    if mixing is not None:
        return mixed_part(batch, mixing, normalise, first=first, last=last)
    mask = None if batch.mask is None else batch.mask[first:last]
    return normalise(batch.pixels[first:last], mask), batch.labels[first:last], mask


def smoothed(labels: Float[Tensor, " B"], share: float) -> Float[Tensor, " B"]:
    """Labels drawn towards one half, by `share` of their distance to it.

    Source:
        Szegedy et al., "Rethinking the Inception Architecture for Computer
        Vision", arXiv:1512.00567, section 7, for two classes.
    """
    return labels * (1 - share) + share / 2
