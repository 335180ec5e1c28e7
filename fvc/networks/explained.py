"""Which parts of a network tell where on a clip it looked."""

from torch import nn

from fvc.networks import ClipClassifier


def explained_layers(network: ClipClassifier) -> dict[str, nn.Module]:
    """The parts whose outputs are worth a map, by name, from the input on.

    Features with a `backbone` give what it ends in and, where a `head` follows,
    what that makes of it. Other features are a single part, by the name
    `features`. The outputs are of shape (N, channels, t, h, w).
    """
    parts = dict(network.features.named_children())
    return parts if "backbone" in parts else {"features": network.features}
