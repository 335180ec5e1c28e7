"""Score what chooses the best epoch, each of several processes its part."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from fvc.distributed import World, part_of
from fvc.errors import Stopped
from fvc.networks import ClipClassifier
from fvc.predict import video_logits
from fvc.training.state import Validate
from fvc.validation import validation_series

Item = TypeVar("Item")


def validation_by(
    videos: Sequence[UInt8[Tensor, "_n T C _H _W"]],
    labels: Sequence[int],
    ranks: World,
    is_stopped: Callable[[], bool],
) -> Validate:
    """What gives a network's `validation/` series, each rank scoring its part of the videos."""
    own = part_of(videos, ranks.rank, ranks.size)

    def validate(network: ClipClassifier) -> dict[str, float]:
        logits = video_logits(network, until(is_stopped, own, ranks))
        return validation_series(np.concatenate(ranks.gather(logits)), np.array(labels))

    return validate


def until(is_stopped: Callable[[], bool], videos: Sequence[Item], ranks: World) -> Iterator[Item]:
    """Pass this rank's videos on; raises `Stopped` on all ranks once one of them is to stop."""
    # Where this rank has fewer than another, the others still ask it.
    for number in range(ranks.agree_max(len(videos))):
        if ranks.agree_max(int(is_stopped())):
            raise Stopped("validation", "was stopped", "Start again: no step is made twice")
        yield from videos[number : number + 1]
