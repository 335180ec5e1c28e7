"""The bytes of videos in, verdicts out; a video that cannot be scored costs only its own answer."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration
from fvc.networks.ensemble import Network
from fvc.predict import video_logit
from fvc.serving.decoders import Decoders
from fvc.serving.scorer import Scorer
from fvc.serving.settings import Settings
from fvc.video import Clips, VideoError

MOST_CLIPS = 64
"""A request may ask for so many clips of a video at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """What one request asks for besides the usual.

    Raises:
        ValueError: It is out of range.
    """

    clips: int | None = None
    """Views of each video; None as many as in training."""
    threshold: float | None = None
    """The probability above which a video is called fake, and below which real, in place of the
    band that was chosen on validation videos."""
    explain: bool = False
    """Whether to show where the network looked."""

    def __post_init__(self) -> None:
        if self.clips is not None and not 1 <= self.clips <= MOST_CLIPS:
            raise ValueError(f"clips is {self.clips}, not between 1 and {MOST_CLIPS}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, not between 0 and 1")


class Answerer:
    """A network with the processes that decode for it.

    Args:
        network: On the device that scores.
        settings: What it needs besides.
        version: Of the model, for the answers.
        decoders: How many processes; None for as many as there are cores.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        version: str | None = None,
        decoders: int | None = None,
    ) -> None:
        self._settings, self._version = settings, version
        self._decoders = Decoders(settings.limits, decoders)
        self._scorer = Scorer(network)
        # One more than decode, so that one is always at hand to take its result on.
        self._threads = ThreadPoolExecutor(self._decoders.count + 1, "answer")

    def answers(self, videos: Sequence[bytes], wishes: Wishes) -> list[dict[str, Any]]:
        """Answer to videos, in their order; any thread may call this.

        Returns:
            See `answer`.
        """
        if len(videos) == 1:
            return [self.answer(videos[0], wishes)]
        return list(self._threads.map(lambda video: self.answer(video, wishes), videos))

    def answer(self, video: bytes, wishes: Wishes) -> dict[str, Any]:
        """Score the bytes of one video.

        Returns:
            `probability_fake` (calibrated, of the mean logit of all clips), `verdict`
            (`real`, `fake` or `uncertain`), `threshold` (the probability between real and fake),
            `clips` (start and end in seconds from the first frame, and the probability of each),
            `model_version`, `video_sha256`, `error`; after an error the scores are None and the
            clips empty. With `explain`, also `overlay_png` (base64).
        """
        sha256 = hashlib.sha256(video).hexdigest()
        config = self._settings.clips
        if wishes.clips is not None:
            config = replace(config, num_clips=wishes.clips)
        try:
            clips = self._decoders.clips(video, config)
            pixels = torch.from_numpy(clips.pixels)
            logits = self._scorer.logits(pixels)
        except VideoError as error:
            return self.refusal(f"{error.reason}: {error.detail}", wishes, sha256)
        except FvcError as error:
            return self.refusal(f"not_scored: {error}", wishes, sha256)
        calibration = self._calibration(wishes)
        probability = calibration.probability(video_logit(logits))
        return {
            "probability_fake": probability,
            "verdict": calibration.verdict(probability),
            "threshold": calibration.threshold,
            "clips": _profile(clips, logits, calibration),
            "model_version": self._version,
            "video_sha256": sha256,
            **({"overlay_png": self._overlay(pixels, logits)} if wishes.explain else {}),
            "error": None,
        }

    def refusal(self, error: str, wishes: Wishes, sha256: str | None = None) -> dict[str, Any]:
        """The answer to a video that cannot be scored, for a reason; without its hash, unread."""
        return {
            "probability_fake": None,
            "verdict": None,
            "threshold": self._calibration(wishes).threshold,
            "clips": [],
            "model_version": self._version,
            "video_sha256": sha256,
            "error": error,
        }

    def close(self) -> None:
        """End processes and threads."""
        self._threads.shutdown()
        self._scorer.close()
        self._decoders.close()

    @property
    def version(self) -> str | None:
        """Of the model, as answers have it."""
        return self._version

    @property
    def decoders(self) -> Decoders:
        """The processes that decode."""
        return self._decoders

    def _calibration(self, wishes: Wishes) -> Calibration:
        own, chosen = self._settings.calibration, wishes.threshold
        if chosen is None:
            return own
        return replace(own, threshold=chosen, abstain_low=chosen, abstain_high=chosen)

    def _overlay(self, pixels: Tensor, logits: Tensor) -> str:
        # Imported here: it brings the drawing libraries, which take a second.
        from fvc.serving.explaining import overlay_png

        return self._scorer.call(lambda network: overlay_png(network, pixels, logits))


def _profile(
    clips: Clips, logits: Float[Tensor, "N"], calibration: Calibration
) -> list[Mapping[str, float]]:
    return [
        {
            "start_s": start_s,
            "end_s": end_s,
            "probability_fake": calibration.probability(float(logit)),
        }
        for (start_s, end_s), logit in zip(clips.spans_s, logits, strict=True)
    ]
