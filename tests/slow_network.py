"""A network that is made in a moment and takes a while for each batch, so that it can be stopped.

Written after what fvc/networks/__init__.py has, in a copy of the repository.
"""

SOURCE = '''

class Slow(nn.Module):
    """A layer that waits."""

    def forward(self, values: Tensor) -> Tensor:
        import time

        time.sleep(0.05)
        return values


def build_features(model: ModelConfig, clips: ClipsConfig) -> nn.Module:
    """The smallest backbone that has a state, and a head."""
    layers = [Slow(), nn.Conv3d(3, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4), nn.ReLU()]
    backbone = nn.Sequential(*layers)
    return nn.Sequential(OrderedDict(backbone=backbone, head=nn.Conv3d(4, model.head_channels, 1)))
'''
