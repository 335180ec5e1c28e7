"""The same model on parts of the corpus: where it can be trusted, and where nobody knows."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from fvc.config import EvaluateConfig
from fvc.evidence.excess import Excess, excesses
from fvc.evidence.metrics import Estimate, Outcomes, estimate
from fvc.seeding import generator_for

BINS: Mapping[str, Mapping[float, str]] = {
    "resolution": {
        240: "up to 240 px",
        360: "241 to 360 px",
        480: "361 to 480 px",
        720: "481 to 720 px",
        math.inf: "over 720 px",
    },
    "duration": {
        10: "up to 10 s",
        30: "10 to 30 s",
        60: "30 to 60 s",
        180: "60 to 180 s",
        math.inf: "over 180 s",
    },
    "bitrate": {
        300e3: "up to 300 kbit/s",
        700e3: "300 to 700 kbit/s",
        1500e3: "700 to 1500 kbit/s",
        3000e3: "1500 to 3000 kbit/s",
        math.inf: "over 3000 kbit/s",
    },
    "cascade_size": {1: "1", 3: "2 to 3", 9: "4 to 9", math.inf: "10 or more"},
}
"""Upper end, inclusive, and name of each bin: of the displayed shorter side, of the
duration, of the bits per second, and of the number of videos in a group."""

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The videos that share one value of one property."""

    by: str
    """The property, as `slice_names` calls it."""
    name: str
    """Its value, or its bin with the unit."""
    num_videos: int
    num_groups: int
    num_fake: int
    roc_auc: Estimate
    accuracy: Estimate
    excess: Excess
    """Whether more of its calls are wrong than of all other videos'."""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "by": self.by,
            "name": self.name,
            "videos": self.num_videos,
            "groups": self.num_groups,
            "fake": self.num_fake,
            "roc_auc": self.roc_auc.as_dict(),
            "accuracy": self.accuracy.as_dict(),
            "excess_error": self.excess.as_dict(),
        }


def slice_all(
    videos: pl.DataFrame, outcomes: Outcomes, *, config: EvaluateConfig, seed: int
) -> list[Slice]:
    """Measure every slice of every property, per video, and compare each with the rest.

    Args:
        videos: Columns of the index, and `group`; one row per video of `outcomes`, in
            its order.
        outcomes: What the model said of them.
        config: How intervals are drawn; tests have what `confidence` leaves to chance.
        seed: The seed of params.yaml; each slice draws its own resamples.
    """
    inside = {
        (by, name): np.array((names == name).to_list())
        for by, names in slice_names(videos).items()
        for name in _in_order(by, names)
    }
    compared = excesses(
        outcomes.is_fake != outcomes.called_fake,
        np.stack(list(inside.values())),
        outcomes.groups,
        level=1 - config.confidence,
        generator=generator_for(seed, "bootstrap", "slices"),
    )
    found = []
    for ((by, name), members), excess in zip(inside.items(), compared, strict=True):
        chosen = outcomes.select(members)
        generator = generator_for(seed, "bootstrap", "slice", by, name)
        estimates = estimate(chosen, per_group=False, config=config, generator=generator)
        found.append(
            Slice(
                by=by,
                name=name,
                num_videos=len(chosen.is_fake),
                num_groups=len(np.unique(chosen.groups)),
                num_fake=int(chosen.is_fake.sum()),
                roc_auc=estimates["roc_auc"],
                accuracy=estimates["accuracy"],
                excess=excess,
            )
        )
    return found


def slice_names(videos: pl.DataFrame) -> Mapping[str, pl.Series]:
    """For each property, the slice that each video is in; what is not known is `unknown`."""
    short_side = videos.select(pl.min_horizontal("width", "height")).to_series()
    cascade_size = videos.select(pl.len().over("group")).to_series()
    return {
        "platform": videos["platform"].fill_null(UNKNOWN),
        "subset": videos["subset"].fill_null(UNKNOWN),
        "resolution": _binned("resolution", short_side),
        "duration": _binned("duration", videos["duration_s"]),
        "codec": videos["codec"].fill_null(UNKNOWN),
        "bitrate": _binned("bitrate", videos["bitrate_bps"]),
        "raw_label": videos["raw_label"].fill_null(UNKNOWN),
        "cascade_size": _binned("cascade_size", cascade_size),
    }


def _binned(by: str, values: pl.Series) -> pl.Series:
    ends, names = list(BINS[by]), list(BINS[by].values())
    return pl.Series(
        [
            UNKNOWN if value is None else names[bisect_left(ends, value)]
            for value in values.to_list()
        ]
    )


def _in_order(by: str, names: pl.Series) -> list[str]:
    """Bins from small to large, values from frequent to rare, the unknown last."""
    counts = dict(names.value_counts().iter_rows())
    if by in BINS:
        return [name for name in [*BINS[by].values(), UNKNOWN] if name in counts]
    return sorted(counts, key=lambda name: (name == UNKNOWN, -counts[name], name))
