"""The head of the networks: four views of the same features, side by side."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class InceptionBlock(nn.Module):
    """Four parallel branches with receptive fields of 1, 3, 5 and 3 positions.

    Every convolution is followed by batch normalisation and ReLU; those of the
    four last ones are one layer over the concatenation.

    Source:
        Szegedy et al., "Going Deeper with Convolutions", arXiv:1409.4842,
        figure 2(b), in three dimensions; its 5x5 as two 3x3 after "Rethinking
        the Inception Architecture", arXiv:1512.00567, figure 5.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        if out_channels % 4:
            raise ValueError(f"out_channels is {out_channels}, no multiple of 4")
        super().__init__()
        width = out_channels // 4
        self.point = _convolution(in_channels, width, 1)
        self.small = nn.Sequential(
            _convolution(in_channels, width, 1),
            *_normalisation(width),
            _convolution(width, width, 3),
        )
        self.large = nn.Sequential(
            _convolution(in_channels, width, 1),
            *_normalisation(width),
            _convolution(width, width, 3),
            *_normalisation(width),
            _convolution(width, width, 3),
        )
        self.pooled = nn.Sequential(
            nn.MaxPool3d(3, stride=1, padding=1), _convolution(in_channels, width, 1)
        )
        self.normalisation = nn.Sequential(*_normalisation(out_channels))

    def forward(self, features: Float[Tensor, "N C t h w"]) -> Float[Tensor, "N D t h w"]:
        """Map (N, in_channels, t, h, w) to (N, out_channels, t, h, w)."""
        branches = (self.point, self.small, self.large, self.pooled)
        return self.normalisation(torch.cat([branch(features) for branch in branches], dim=1))


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv3d:
    # No bias: the normalisation that follows would subtract it.
    return nn.Conv3d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


def _normalisation(channels: int) -> tuple[nn.BatchNorm3d, nn.ReLU]:
    return nn.BatchNorm3d(channels), nn.ReLU(inplace=True)
