"""What a lookup table without any pixels scores under a random split, and under ours.

    python benchmarks/split_leakage.py [ANNOTATIONS]

It gives a test video the commonest label of its cascades in training, or of all training where
they are unknown. Only the annotation files are read.
"""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.model_selection import KFold

from fvc.annotations import label_problem, read_annotations, ties
from fvc.config import SplitConfig, load_params
from fvc.groups import connected
from fvc.leakage import guess_labels
from fvc.records import part_in
from fvc.stages.split import divide

Pair = tuple[pl.DataFrame, pl.DataFrame]
"""Training and test videos."""


def read_corpus(annotations: Path) -> pl.DataFrame:
    """The real and fake videos, in the groups that the annotations alone tell of."""
    annotated = read_annotations(annotations)
    videos = annotated.videos
    groups = connected([*((video_id, video_id) for video_id in videos), *ties(annotated)])
    rows = [
        {
            "video_id": video_id,
            "platform": video.platform,
            "label": label,
            "group": groups[video_id],
            "cascade_ids": sorted(video.cascades),
        }
        for video_id, video in sorted(videos.items())
        if label_problem(video.labels) is None
        for label in video.labels
    ]
    return pl.DataFrame(rows)


def random_folds(videos: pl.DataFrame, config: SplitConfig, seed: int) -> Iterator[Pair]:
    """As many folds as ours has, by video."""
    splitter = KFold(len(config.folds), shuffle=True, random_state=seed)
    for training, test in splitter.split(np.zeros(videos.height)):
        yield videos[training], videos[test]


def our_folds(videos: pl.DataFrame, config: SplitConfig, seed: int) -> Iterator[Pair]:
    """Those of `work/folds.parquet`; nothing of the locked test."""
    places = divide(videos, config, seed).drop("group", "label")
    placed = videos.join(places, on="video_id")
    for fold in config.folds:
        yield placed.filter(part_in(fold) == "train"), placed.filter(part_in(fold) == "test")


def accuracies(folds: Iterator[Pair]) -> tuple[float, float]:
    """Shares of the test videos that the lookup and the majority of training get right."""
    looked_up, majority = [], []
    for training, test in folds:
        labels = test["label"]
        looked_up += (pl.Series(guess_labels(training, test)) == labels).to_list()
        # Where no cascade is known, the lookup is the majority.
        unknown = test.with_columns(cascade_ids=pl.lit([], dtype=pl.List(pl.String)))
        majority += (pl.Series(guess_labels(training, unknown)) == labels).to_list()
    return float(np.mean(looked_up)), float(np.mean(majority))


def main(argv: Sequence[str] | None = None) -> None:
    """Print both, as means over seeds."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("annotations", type=Path, nargs="?", default=Path("data/annotations"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args(argv)
    config, videos = load_params(args.params).split, read_corpus(args.annotations)
    print(f"{videos.height} videos in {videos['group'].n_unique()} groups, {args.seeds} seeds")
    print(f"{'':24}{'cascade lookup':>16}{'majority':>12}{'ratio':>10}")
    for name, split in (("random, by video", random_folds), ("ours, by group", our_folds)):
        found = np.mean([accuracies(split(videos, config, seed)) for seed in range(args.seeds)], 0)
        lookup, majority = found.tolist()
        print(f"{name:24}{lookup:>16.1%}{majority:>12.1%}{lookup / majority:>10.2f}")


if __name__ == "__main__":
    main()
