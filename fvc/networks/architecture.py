"""What a network says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor, nn

from fvc.config import ClipsConfig

Stages = Callable[[nn.Module], Mapping[str, nn.Module]]
"""Gives the parts of a backbone that are frozen and freed as one, from the input on."""

Added = Callable[[UInt8[Tensor, "N T 3 H W"]], UInt8[Tensor, "N T K H W"]]
"""Gives more channels of clips than red, green and blue."""


def children(backbone: nn.Module) -> Mapping[str, nn.Module]:
    """The stages of a backbone that is made of them."""
    return dict(backbone.named_children())


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What is stated of a backbone, without its classification layer, and where."""

    parameters: int
    """Numbers that train."""
    gmacs: float
    """Multiply-adds of one clip, in 1e9."""
    num_frames: int
    """Frames of that clip."""
    side_px: int
    """Height and width of that clip, in pixels."""
    source: str
    """The paper, or the library's table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A backbone, and what those around it need to know; which clips it takes, `TAKES` has."""

    build: Callable[[ClipsConfig], nn.Module]
    """Makes what gives features (N, channels, t, h, w) for clips (N, 3, T, H, W), with weights
    drawn from torch's global random state."""
    channels: int
    """Of the features."""
    mean: tuple[float, ...]
    """Subtracted from red, green and blue in [0, 1], and from what `added` adds to them."""
    std: tuple[float, ...]
    """What the rest is divided by."""
    stages: Stages
    """For gradual unfreezing."""
    weights: Callable[[str, ClipsConfig], Mapping[str, Tensor]]
    """Gives the weights that `model.pretrained` names, but for `none`, by the backbone's own names,
    fitted to such clips and without those of a classification layer. Raises FvcError where they
    cannot be had."""
    published: Published | None
    """None where nobody has stated anything."""
    added: Added | None = None
    """Where pixels are not enough; the bytes depend on those of the clips alone."""
    classifier: Callable[[int], nn.Module] | None = None
    """Makes what is fitted, without gradients, to so many averaged features and gives the logit;
    nothing before it trains, so no head may stand there. None: a linear layer, which trains."""
    requirements: tuple[str, ...] = ()
    """Packages that a served model needs for it, besides those that every one needs."""
