"""SlowFast: one pathway sees few frames in many channels, the other one all of them in few."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fvc.config import ClipsConfig
from fvc.networks.architecture import Architecture, Published, children
from fvc.networks.pretrained import downloaded_weights

ALPHA = 4
"""Frames of the fast pathway for each one of the slow pathway."""
BETA = 8
"""Channels of the slow pathway for each one of the fast pathway."""
FUSED = 2
"""Channels of a lateral connection for each one of the fast pathway, where it begins."""
STEM = 64
"""Channels of the slow pathway after its first layer."""
RESIDUAL = {"res2": (3, 1), "res3": (4, 1), "res4": (6, 3), "res5": (3, 3)}
"""Blocks of each stage, and the frames that its slow ones see at once: early features of frames
so far apart have little to do with each other. Those of the fast pathway see three everywhere."""
WIDTH = 32 * STEM
"""Channels that the slow pathway ends with."""

URL = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/SLOWFAST_8x8_R50.pyth"
CLASSIFIER = (WIDTH + WIDTH // BETA) * 400 + 400
"""Numbers of pytorchvideo's last layer, which its table counts and a backbone lacks."""
TRANSLATION = {
    "multipathway_blocks.0.": "slow.",
    "multipathway_blocks.1.": "fast.",
    "multipathway_fusion.conv_fast_to_slow.": "lateral.conv.",
    "multipathway_fusion.": "lateral.",
    "res_blocks.": "",
    "branch1_": "shortcut.",
    **{
        f"branch2.{kind}_{at}.": f"residual.{at}.{kind}."
        for kind in ("conv", "norm")
        for at in "abc"
    },
    **{f"blocks.{at}.": f"{stage}." for at, stage in enumerate(("stem", *RESIDUAL))},
}
"""From pytorchvideo's parts of a name to ours, in this order: the last are within earlier ones."""


class SlowFast(nn.Sequential):
    """A ResNet-50 in two pathways, over clips whose number of frames is a multiple of ALPHA.

    Gives a position for each frame of the slow pathway. What the fast one has
    of the ALPHA frames around it is averaged, so the mean over positions is
    that of each pathway over all of its own frames.

    Source:
        Feichtenhofer et al., "SlowFast Networks for Video Recognition",
        arXiv:1812.03982, table 1, with the lateral convolutions over seven
        frames that the authors use in the model they publish.
    """

    def __init__(self) -> None:
        # The slow pathway begins a stage with what the lateral connection before it adds.
        channels, width = STEM + FUSED * STEM // BETA, 4 * STEM
        stages: dict[str, nn.Module] = {
            "stem": Stage(_stem(STEM, frames=1), _stem(STEM // BETA, frames=5), STEM // BETA)
        }
        before = STEM // BETA
        for name, (blocks, frames) in RESIDUAL.items():
            stride = 1 if name == "res2" else 2
            stages[name] = Stage(
                _blocks(blocks, channels, width, frames=frames, stride=stride),
                _blocks(blocks, before, width // BETA, frames=3, stride=stride),
                # After the last stage nothing follows that could make use of it.
                0 if width == WIDTH else width // BETA,
            )
            before = width // BETA
            channels, width = width + FUSED * before, 2 * width
        super().__init__(OrderedDict(stages))
        _initialise(self)

    def forward(self, clips: Float[Tensor, "N 3 T H W"]) -> Float[Tensor, "N C t h w"]:
        """Features of both pathways, side by side."""
        slow, fast = clips.index_select(2, slow_frames(clips.shape[2], clips.device)), clips
        for stage in self:
            slow, fast = stage(slow, fast)
        return torch.cat([slow, torch.unflatten(fast, 2, (-1, ALPHA)).mean(3)], dim=1)


def slow_frames(num_frames: int, device: torch.device) -> Int[Tensor, " t"]:
    """The frames that the slow pathway sees: evenly spread, the first and the last among them.

    There is one in each ALPHA frames, counted from the first. In whole
    numbers: rounded from others, a frame may be the one before on another device.
    """
    count = num_frames // ALPHA
    return torch.arange(count, device=device) * (num_frames - 1) // max(count - 1, 1)


class Stage(nn.Module):
    """A stretch of both pathways, after which the fast one tells the slow one what it has seen.

    Nothing flows the other way: the authors tried both ways and found nothing gained.

    Args:
        slow: The stretch of the slow pathway.
        fast: That of the fast pathway, which leaves the same sides.
        lateral_channels: That `fast` ends with; 0 where it tells nothing.
    """

    def __init__(self, slow: nn.Module, fast: nn.Module, lateral_channels: int) -> None:
        super().__init__()
        self.slow = slow
        self.fast = fast
        self.lateral = None
        if lateral_channels:
            made = FUSED * lateral_channels
            self.lateral = _layer(lateral_channels, made, (7, 1, 1), (ALPHA, 1, 1))

    def forward(
        self, slow: Float[Tensor, "N C t H W"], fast: Float[Tensor, "N D T H W"]
    ) -> tuple[Float[Tensor, "N A t h w"], Float[Tensor, "N B T h w"]]:
        """Both pathways, a stage later."""
        slow, fast = self.slow(slow), self.fast(fast)
        if self.lateral is not None:
            slow = torch.cat([slow, self.lateral(fast)], dim=1)
        return slow, fast


class Bottleneck(nn.Module):
    """Convolutions over time, over space and over neither, added to what they were given."""

    def __init__(self, channels: int, width: int, *, frames: int, stride: int) -> None:
        super().__init__()
        inner, steps = width // 4, (1, stride, stride)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            a=_layer(channels, inner, (frames, 1, 1)),
            b=_layer(inner, inner, (1, 3, 3), steps),
            c=_layer(inner, width, (1, 1, 1), activation=False),
        )
        self.residual = nn.Sequential(layers)
        self.shortcut: nn.Module = nn.Identity()
        if channels != width:
            self.shortcut = _layer(channels, width, (1, 1, 1), steps, activation=False)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Float[Tensor, "N C t H W"]) -> Float[Tensor, "N D t h w"]:
        """Features of as many frames."""
        return self.activation(self.shortcut(features) + self.residual(features))


def _stem(width: int, *, frames: int) -> nn.Module:
    pool = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
    return _layer(3, width, (frames, 7, 7), (1, 2, 2)).append(pool)


def _blocks(count: int, channels: int, width: int, *, frames: int, stride: int) -> nn.Module:
    first = Bottleneck(channels, width, frames=frames, stride=stride)
    others = (Bottleneck(width, width, frames=frames, stride=1) for _ in range(count - 1))
    return nn.Sequential(first, *others)


def _layer(
    channels: int,
    width: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    activation: bool = True,
) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        # No bias: the normalisation that follows would subtract it.
        conv=nn.Conv3d(channels, width, kernel, stride, padding, bias=False),
        norm=nn.BatchNorm3d(width),
    )
    if activation:
        layers["activation"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _initialise(network: nn.Module) -> None:
    """Draw the weights as the authors do.

    The last normalisation of each block begins at zero: a block gives what it
    was given until it has learned something. So in the very first step the
    other layers of a residual have gradients of zero, and from the second on
    they train like all others.

    Source:
        He et al., "Delving Deep into Rectifiers", arXiv:1502.01852; Goyal et
        al., "Accurate, Large Minibatch SGD", arXiv:1706.02677, section 5.1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.residual.get_parameter("c.norm.weight"))


def from_pytorchvideo(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights by our names, without the classification layer; ours themselves stay as they are."""
    kept = {}
    for name, value in weights.items():
        if name.startswith("blocks.6."):
            continue
        for theirs, ours in TRANSLATION.items():
            name = name.replace(theirs, ours)
        kept[name] = value
    return kept


def _build(clips: ClipsConfig) -> nn.Module:
    del clips
    return SlowFast()


SLOWFAST_R50 = Architecture(
    build=_build,
    channels=WIDTH + WIDTH // BETA,
    mean=(0.45, 0.45, 0.45),
    std=(0.225, 0.225, 0.225),
    stages=children,
    weights=downloaded_weights(URL, from_pytorchvideo),
    published=Published(
        parameters=34_566_488 - CLASSIFIER,
        gmacs=65.71,
        num_frames=32,
        side_px=256,
        source="pytorchvideo; Feichtenhofer et al., arXiv:1812.03982",
    ),
)
"""The authors' 8x8: published for eight slow and 32 fast frames."""
