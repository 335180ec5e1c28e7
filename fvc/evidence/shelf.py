"""Many networks on the same videos: how good each is, and how far from the first of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from fvc.config import EvaluateConfig
from fvc.evidence.excess import holm
from fvc.evidence.metrics import DECIMALS
from fvc.evidence.paired import Pair, in_common, pair_as_dict, paired
from fvc.seeding import generator_for

TESTED = "roc_auc"
"""The measure, per video, whose differences are tested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One member beside the first: in each pair that is `first`, and the member `second`."""

    video: Mapping[str, Pair]
    cascade: Mapping[str, Pair]
    corrected: float | None
    """The p value of the difference in `TESTED`, for as many tests as were made; None where
    there was none, as for the first."""

    def differs(self, confidence: float) -> bool:
        """Whether more than chance tells it from the first."""
        return self.corrected is not None and self.corrected <= 1 - confidence

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        corrected = None if self.corrected is None else round(self.corrected, DECIMALS)
        return {
            "video": {name: pair_as_dict(pair) for name, pair in self.video.items()},
            "cascade": {name: pair_as_dict(pair) for name, pair in self.cascade.items()},
            "p_value_corrected": corrected,
        }


def standings(tables: Sequence[pl.DataFrame], config: EvaluateConfig, seed: int) -> list[Standing]:
    """Measure every member, and test each but the first for a difference to it.

    All are measured on the same resamples of groups.

    Args:
        tables: The OUT_OF_FOLD table of each, all of the same videos.
        config: Of resamples and intervals.
        seed: Of the resamples.

    Source:
        Holm, as in `excess`; the tests depend on each other, which it allows for.
    """
    pairs = [
        [
            paired(
                common.first,
                common.second,
                per_group=per_group,
                config=config,
                generator=generator_for(seed, "compare"),
            )
            for per_group in (False, True)
        ]
        for common in (in_common(tables[0], table) for table in tables)
    ]
    p_values = [video[TESTED].p_value for video, _ in pairs[1:]]
    corrected = iter(holm([value for value in p_values if value is not None]))
    after = [None if value is None else next(corrected) for value in p_values]
    return [
        Standing(video=video, cascade=cascade, corrected=value)
        for (video, cascade), value in zip(pairs, [None, *after], strict=True)
    ]
