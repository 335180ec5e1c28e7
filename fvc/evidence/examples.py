"""Single videos to look at: the surest hits and misses, and what no verdict was given on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fvc.clip_files import load_clips, read_stamp
from fvc.config import ClipsConfig
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration
from fvc.evidence.explain import Explained, randomisation_check
from fvc.evidence.explainers import explainer_of
from fvc.evidence.metrics import DECIMALS
from fvc.networks import ClipClassifier, load_network
from fvc.predict import clip_logits, video_logit
from fvc.sampling import views_of
from fvc.seeding import seed_for

PER_KIND = 2
"""Examples of each kind."""
DRAWS = 3
"""Networks with random weights that the maps are compared with."""
LARGEST_DEVIATION = 0.05
"""Of a probability, between the device that trained and the one that explains."""
LARGEST_DENOMINATOR = 10**5
"""Above the ticks in a second of any container: durations are exact multiples of one."""

KINDS: Mapping[str, pl.Expr] = {
    "hit": pl.col("called") == pl.col("label"),
    "miss": pl.col("called") != pl.col("label"),
    "abstention": pl.col("verdict") == "uncertain",
}
"""What there are examples of, by what is true of them, in the order of the report."""

Span = tuple[float, float]
"""Start and end in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One tested video: what was said of it, and where the network looked."""

    kind: str
    """One of `KINDS`."""
    video: Mapping[str, Any]
    """Its row of OUT_OF_FOLD, with its `platform`."""
    calibration: Calibration
    """Of the fold that tested it."""
    probabilities: tuple[float, ...]
    """That a clip is fake, of each clip in the order of time, calibrated as the video's is."""
    spans_s: tuple[Span, ...] | None
    """Where each clip lies in the video; None where the decoder found another length than the
    index states, so that nobody knows."""
    number: int
    """Of the clip that spoke most for the side that the video was called, from 0."""
    explained: Explained
    """That clip."""
    content: tuple[int, int, int, int] | None
    """Where its picture lies between black bars: top, left, height and width in pixels."""

    @property
    def bars(self) -> tuple[float, dict[str, float]]:
        """The share of the clip that is black bars, and by layer the share of its map there."""
        height, width = self.explained.clip.shape[2:]
        top, left, rows, columns = self.content or (0, 0, height, width)
        outside = np.ones((height, width), bool)
        outside[top : top + rows, left : left + columns] = False
        inside = {
            name: float(found.values[:, outside].sum() / found.values.sum())
            for name, found in self.explained.maps.items()
            if not found.is_blank
        }
        return float(outside.mean()), inside


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """The examples, and whether their maps may be read."""

    examples: Sequence[Example]
    likeness: Mapping[str, float | None]
    """What `randomisation_check` found of their maps, by layer."""


def choose_examples(tested: pl.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Choose `PER_KIND` videos of each kind, of both labels where there are, one of a group.

    Of hits and misses those with a verdict come first, then the surest; of
    abstentions those nearest to the middle between the sides.

    Args:
        tested: OUT_OF_FOLD, with any further columns.

    Returns:
        Kinds and rows, in the order of `KINDS`; fewer where there are no more.
    """
    fake = pl.col("probability_fake")
    sureness = pl.when(pl.col("called") == "fake").then(fake).otherwise(1 - fake)
    ranked = tested.with_columns(
        doubt=(pl.col("verdict") == "uncertain").cast(pl.Int64), distance=1 - sureness
    )
    chosen: dict[str, list[dict[str, Any]]] = {}
    taken: set[str] = set()
    # What is rare takes its pick of the groups first.
    for kind in ("miss", "abstention", "hit"):
        distance = sureness if kind == "abstention" else pl.col("distance")
        order = ["doubt", "distance", "video_id"]
        rows = ranked.filter(KINDS[kind]).with_columns(distance=distance).sort(order)
        rows = rows.with_columns(place=pl.int_range(pl.len()).over("label"))
        chosen[kind] = []
        for row in rows.sort("place", *order).select(tested.columns).rows(named=True):
            if len(chosen[kind]) < PER_KIND and row["group"] not in taken:
                taken.add(row["group"])
                chosen[kind].append(row)
    return [(kind, row) for kind in KINDS for row in chosen[kind]]


def clip_spans(duration_s: float, num_clips: int, config: ClipsConfig) -> tuple[Span, ...] | None:
    """Where the clips of a video lie, in seconds; None where so many do not fit its duration."""
    exact = Fraction(duration_s).limit_denominator(LARGEST_DENOMINATOR)
    tick_s = Fraction(1, exact.denominator)
    views = views_of(exact.numerator, tick_s, config)
    if len(views) != num_clips:
        return None
    return tuple((float(start * tick_s), float(end * tick_s)) for start, end in views)


def explain_examples(
    tested: pl.DataFrame,
    index: pl.DataFrame,
    calibrations: Mapping[int, Calibration],
    *,
    models: Path,
    clips: Path,
    config: ClipsConfig,
    seed: int,
) -> Examples:
    """Explain examples of what the folds' networks said of the videos that they tested.

    Each is explained by the network of the fold that tests it, on the CPU,
    where equal networks and clips give equal maps.

    Args:
        tested: OUT_OF_FOLD.
        index: INDEX.
        calibrations: Of each fold.
        models: A folder per fold.
        clips: A tensor per video.
        config: How the clips were made.
        seed: Of the networks with random weights.

    Raises:
        FvcError: A file is missing or damaged, or the network of a fold says
            something else of a video than its predictions do.
    """
    videos = tested.join(index.select("video_id", "platform", "duration_s"), on="video_id")
    chosen = choose_examples(videos)
    found: dict[str, Example] = {}
    network: ClipClassifier | None = None
    for fold in sorted({row["fold"] for _, row in chosen}):
        network = load_network(models / str(fold))
        for kind, row in chosen:
            if row["fold"] == fold:
                found[row["video_id"]] = _explain(
                    network, kind, row, calibration=calibrations[fold], clips=clips, config=config
                )
    examples = [found[row["video_id"]] for _, row in chosen]
    seeds = [seed_for(seed, "explain", draw) for draw in range(DRAWS)]
    explained = [example.explained for example in examples]
    # Any of the networks: they are of one kind, and its weights are forgotten.
    likeness: Mapping[str, float | None] = {}
    if network is not None:
        likeness = randomisation_check(network, explained, seeds, explainer_of(network))
    return Examples(examples=examples, likeness=likeness)


def _explain(
    network: ClipClassifier,
    kind: str,
    row: Mapping[str, Any],
    *,
    calibration: Calibration,
    clips: Path,
    config: ClipsConfig,
) -> Example:
    source = clips / f"{row['video_id']}.pt"
    pixels, stamp = load_clips(source, "clips"), read_stamp(source)
    logits = clip_logits(network, pixels)
    said, now = row["probability_fake"], calibration.probability(video_logit(logits))
    if abs(said - now) > LARGEST_DEVIATION:
        cause = f"the network of fold {row['fold']} gives {now:.3f}, its predictions {said:.3f}"
        raise FvcError(source, cause, f"Run 'dvc repro -f -s train@{row['fold']}'")
    side = row["called"]
    number = int((logits if side == "fake" else -logits).argmax())
    clip = pixels[number].clone()
    return Example(
        kind=kind,
        video=row,
        calibration=calibration,
        probabilities=tuple(map(calibration.probability, logits.tolist())),
        spans_s=clip_spans(row["duration_s"], len(pixels), config),
        number=number,
        explained=Explained(clip=clip, side=side, maps=explainer_of(network)(network, clip, side)),
        content=None if stamp is None else stamp.content,
    )


def numbers_of(found: Examples) -> dict[str, Any]:
    """For JSON: all but the pixels, rounded."""
    likeness = {
        name: None if value is None else round(value, DECIMALS)
        for name, value in found.likeness.items()
    }
    return {
        "rank_correlation_with_random_weights": likeness,
        "examples": [dict(_numbers(example)) for example in found.examples],
    }


def _numbers(example: Example) -> Iterator[tuple[str, Any]]:
    names = ("video_id", "platform", "fold", "group", "label", "called", "verdict")
    yield "kind", example.kind
    yield from ((name, example.video[name]) for name in names)
    yield "probability_fake", round(example.video["probability_fake"], DECIMALS)
    yield "clip_probabilities_fake", [round(value, DECIMALS) for value in example.probabilities]
    yield "clip_spans_s", example.spans_s
    yield "explained_clip", example.number
    share, by_layer = example.bars
    rounded = {name: round(value, DECIMALS) for name, value in by_layer.items()}
    yield "bars", {"of_clip": round(share, DECIMALS), "of_map": rounded}
