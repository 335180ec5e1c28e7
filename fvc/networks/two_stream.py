"""Two streams: one sees what is in a frame, one how it moves; their verdicts are averaged."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, resnet18

from fvc.config import ClipsConfig
from fvc.networks.architecture import Architecture, children
from fvc.networks.frame_r18 import over_frames, over_frames_weights
from fvc.networks.pretrained import torchvision_weights

CHANNELS = 512
RGB_CHANNELS = 3
STACKED = 5
"""Flows that the stream of movement sees at once: this frame's and those after it."""
IMAGENET = ResNet18_Weights.IMAGENET1K_V1
RGB = IMAGENET.transforms()
FLOW_MEAN = 128 / 255
"""The byte that stands for no movement."""
FLOW_STD = 0.226
"""The mean of those of red, green and blue, as in TSN's public code: a flow fills the bytes no
more than a picture does."""


class TwoStreams(nn.Module):
    """A ResNet-18 of single frames beside one of the flow around them.

    The published network has VGG-like streams, whose class scores are averaged
    after softmax, sees one frame and ten flows of a video at a time, and trains
    its streams apart. Here both are ResNet-18, see every frame of the clip, and
    train together; before the logistic function, the last layer over both
    streams' features is the sum of a last layer for each: their late fusion.

    Source:
        Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in
        Videos", arXiv:1406.2199; ResNets in the place of its streams after Feichtenhofer et
        al., "Spatiotemporal Residual Networks", arXiv:1611.02155.
    """

    def __init__(self) -> None:
        super().__init__()
        frame, motion = _backbone(RGB_CHANNELS), _backbone(2 * STACKED)
        # A stage of the network is that of both streams, so that both are freed as one.
        for name in frame:
            streams = nn.ModuleDict({"frame": frame[name], "motion": motion[name]})
            self.add_module(name, streams)

    def forward(self, clips: Float[Tensor, "N 5 T H W"]) -> Float[Tensor, "N 1024 T h w"]:
        """Compute both streams' features of every frame."""
        return torch.cat(
            [
                self._stream("frame", clips[:, :RGB_CHANNELS]),
                self._stream("motion", stacked(clips[:, RGB_CHANNELS:])),
            ],
            1,
        )

    def _stream(self, name: str, clips: Float[Tensor, "N C T H W"]) -> Float[Tensor, "N D T h w"]:
        features = clips
        for stage in self.children():
            features = stage[name](features)  # type: ignore[index]
        return features


def _backbone(channels: int) -> dict[str, nn.Module]:
    """The stages of a ResNet-18 whose first layer sees so many channels."""
    network = resnet18(weights=None)
    if channels != RGB_CHANNELS:
        network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    over_frames(network)
    layers = dict(network.named_children())
    stem = nn.Sequential(*(layers[name] for name in ("conv1", "bn1", "relu", "maxpool")))
    return {"stem": stem} | {f"layer{number}": layers[f"layer{number}"] for number in range(1, 5)}


def stacked(flow: Float[Tensor, "N 2 T H W"]) -> Float[Tensor, "N 10 T H W"]:
    """The flow of each frame and of those after it; the last one's stands for what is missing."""
    last = flow[:, :, -1:].expand(-1, -1, STACKED - 1, -1, -1)
    longer = torch.cat([flow, last], 2)
    frames = flow.shape[2]
    return torch.cat([longer[:, :, first : first + frames] for first in range(STACKED)], 1)


def both_streams(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of an RGB ResNet-18 for both streams.

    Source:
        The first layer's are averaged over colours for the flow: "cross modality
        initialization" of Wang et al., arXiv:1608.00859, section 3.3.
    """
    given = over_frames_weights(weights)
    first = given["conv1.weight"]
    movement = first.mean(1, keepdim=True).expand(-1, 2 * STACKED, -1, -1, -1).contiguous()
    adapted: dict[str, Tensor] = {}
    for name, value in given.items():
        head, _, rest = name.partition(".")
        stem = {"conv1": "0", "bn1": "1"}.get(head)
        for stream in ("frame", "motion"):
            place = f"stem.{stream}.{stem}.{rest}" if stem else f"{head}.{stream}.{rest}"
            adapted[place] = movement if name == "conv1.weight" and stream == "motion" else value
    return adapted


def flow_of(pixels: UInt8[Tensor, "N T 3 H W"]) -> UInt8[Tensor, "N T 2 H W"]:
    """The flow that stage `flow` would have stored for these clips, on their device."""
    # Imported here: a machine that only trains has no OpenCV.
    from fvc.flow import clip_flow

    found = [torch.from_numpy(clip_flow(clip)) for clip in pixels.cpu().numpy()]
    return torch.stack(found).to(pixels.device)


def _build(clips: ClipsConfig) -> nn.Module:
    del clips
    return TwoStreams()


TWO_STREAM = Architecture(
    build=_build,
    channels=2 * CHANNELS,
    mean=(*RGB.mean, FLOW_MEAN, FLOW_MEAN),
    std=(*RGB.std, FLOW_STD, FLOW_STD),
    stages=children,
    weights=torchvision_weights(IMAGENET, both_streams),
    published=None,
    added=flow_of,
    requirements=("opencv-python-headless",),
)
