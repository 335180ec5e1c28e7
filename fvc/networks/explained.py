"""Which parts of a network tell where on a clip it looked."""

from torch import nn

from fvc.networks import ClipClassifier


def explained_layers(network: ClipClassifier) -> dict[str, nn.Module]:
    """The parts whose outputs are worth a map, by name, from the input on.

    Features made of a `backbone` and more give each of these parts: what the
    last convolution of the backbone ends in, with its shortcut, and what the
    layers after it make of that. Other features are a single part, by the name
    `features`. The outputs are of shape (N, channels, t, h, w).
    """
    parts = dict(network.features.named_children())
    return parts if "backbone" in parts else {"features": network.features}
