"""One network for all requests: clips that wait at the same time pass through it together."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from weakref import finalize

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fvc.networks import ClipClassifier
from fvc.predict import CLIPS_AT_ONCE, clip_logits

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Clips:
    """The clips of one video, which may pass with those of others."""

    pixels: UInt8[Tensor, "N T C H W"]
    done: "Future[Tensor]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Work:
    """Anything else, which is done alone."""

    do: Callable[[ClipClassifier], Any]
    done: "Future[Any]" = field(default_factory=Future)


Waiting = SimpleQueue[_Clips | _Work | None]
"""What is to be done, in order; None ends it."""


class Scorer:
    """A thread that alone uses a network; any other may ask it.

    It ends with `close`, or when nobody refers to this any more.

    Args:
        network: On the device that scores.
    """

    def __init__(self, network: ClipClassifier) -> None:
        self._waiting: Waiting = SimpleQueue()
        # It must not refer to this, or that would always be referred to.
        self._thread = Thread(
            target=_run, args=(network, self._waiting), name="scorer", daemon=True
        )
        self._thread.start()
        self._end = finalize(self, self._waiting.put, None)

    def logits(self, pixels: UInt8[Tensor, "N T C H W"]) -> Float[Tensor, "N"]:
        """Score the clips of one video, maybe together with those of others.

        Whether others pass with it moves a logit by rounding at most.

        Raises:
            ValueError: The clips are not of the shape that the network is made for.
            FvcError: Not even one clip at a time fits into memory.
        """
        asked = _Clips(pixels)
        self._waiting.put(asked)
        return asked.done.result()

    def call(self, work: Callable[[ClipClassifier], Result]) -> Result:
        """Do something with the network while nobody else uses it."""
        asked = _Work(work)
        self._waiting.put(asked)
        result: Result = asked.done.result()
        return result

    @property
    def waiting(self) -> int:
        """So many have asked and wait for their turn."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        self._end()
        self._thread.join()


def _run(network: ClipClassifier, waiting: Waiting) -> None:
    asked = waiting.get()
    while asked is not None:
        if isinstance(asked, _Work):
            _settle([asked.done], partial(_do, network, asked))
            asked = waiting.get()
        else:
            group, after = _grouped(asked, waiting)
            _settle([each.done for each in group], partial(_score, network, group))
            asked = after[0] if after else waiting.get()


def _grouped(first: _Clips, waiting: Waiting) -> tuple[list[_Clips], list[_Clips | _Work | None]]:
    """What waits and may pass with the first, and what came after that and may not, if any."""
    group, clips = [first], len(first.pixels)
    while clips < CLIPS_AT_ONCE:
        try:
            other = waiting.get_nowait()
        except Empty:
            break
        # Clips in their own aspect ratio may differ in size.
        if not isinstance(other, _Clips) or other.pixels.shape[1:] != first.pixels.shape[1:]:
            return group, [other]
        group.append(other)
        clips += len(other.pixels)
    return group, []


def _do(network: ClipClassifier, asked: _Work) -> list[Any]:
    return [asked.do(network)]


def _score(network: ClipClassifier, group: list[_Clips]) -> list[Tensor]:
    pixels = torch.cat([each.pixels for each in group])
    logits = clip_logits(network, pixels)
    return list(torch.split(logits, [len(each.pixels) for each in group]))


def _settle(waiting: "list[Future[Any]]", work: Callable[[], list[Any]]) -> None:
    """Give each who waits his result, or all of them the error."""
    try:
        results = work()
    except Exception as error:  # noqa: BLE001, as it is raised where it is waited for
        for done in waiting:
            done.set_exception(error)
    else:
        for done, result in zip(waiting, results, strict=True):
            done.set_result(result)
