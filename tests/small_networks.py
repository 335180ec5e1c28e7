"""A network that is made in a moment, for tests of what surrounds it."""

import torch
from settings import clips_config
from torch import nn

from fvc.networks import ClipClassifier

CLIPS = clips_config(1, 8, 32)


def small_network(seed: int = 0) -> ClipClassifier:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4))
    return ClipClassifier(features, channels=4, dropout=0.5, clips=CLIPS)
