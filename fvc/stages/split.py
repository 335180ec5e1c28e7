"""Divide the groups into a locked test and cross-validation folds, and audit the result."""

from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from sklearn.model_selection import StratifiedGroupKFold

from fvc.annotations import LABELS
from fvc.config import Params, SplitConfig, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of_file, write_json
from fvc.leakage import cascade_lookup_accuracy, find_leaks
from fvc.records import FOLDS, INDEX
from fvc.seeding import seed_for

MAX_LEAKS_SHOWN = 3


def divide(index: pl.DataFrame, config: SplitConfig, seed: int) -> pl.DataFrame:
    """Give every video of an index its place, equal for all videos of a group.

    Nothing depends on the order of the rows.

    Args:
        index: At least `video_id`, `group` and `label`.
        config: Folds and shares.
        seed: Of the whole pipeline.

    Returns:
        A `FOLDS` table.

    Raises:
        ValueError: There are too few groups of a label, or a part of a fold
            would lack one.
    """
    videos = index.select("video_id", "group", "label").sort("video_id")
    labels = group_labels(videos)
    num_folds = len(config.folds)
    for label in LABELS:
        count = sum(held == label for held in labels.values())
        if count < num_folds + 1:
            needs = f"{num_folds} folds and a locked test need {num_folds + 1}"
            raise ValueError(f"{count} groups are mostly {label}; {needs}")
    locked = draw(labels, config.locked_share, seed_for(seed, "split", "locked"))
    open_videos = videos.filter(~pl.col("group").is_in(locked))
    fold_of = assign_folds(open_videos, num_folds, seed_for(seed, "split", "folds"))
    validates = defaultdict(list)
    for fold in config.folds:
        training = {group: labels[group] for group, other in fold_of.items() if other != fold}
        purpose = seed_for(seed, "split", "validation", fold)
        for group in draw(training, config.validation_share, purpose):
            validates[group].append(fold)
    rows = [
        {
            **video,
            "part": "locked" if video["group"] in locked else "fold",
            "fold": fold_of.get(video["group"]),
            "validates": validates.get(video["group"], []),
        }
        for video in videos.iter_rows(named=True)
    ]
    return FOLDS.frame(rows)


def group_labels(videos: pl.DataFrame) -> dict[str, str]:
    """Map each group to the label of most of its videos; of equally many, the first by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in videos.select("group", "label").iter_rows():
        counts[group][label] += 1
    return {
        group: min(found, key=lambda label: (-found[label], label))
        for group, found in sorted(counts.items())
    }


def draw(labels: Mapping[str, str], share: float, seed: int) -> set[str]:
    """Choose a share of the groups of each label, at least one.

    Each group has a random rank of its own and the lowest are taken, so one
    more group changes the choice by at most one.
    """
    chosen = set()
    for label in set(labels.values()):
        groups = [group for group, held in labels.items() if held == label]
        groups.sort(key=lambda group: seed_for(seed, group))
        chosen.update(groups[: max(1, round(share * len(groups)))])
    return chosen


def assign_folds(videos: pl.DataFrame, num_folds: int, seed: int) -> dict[str, int]:
    """Map each group to the fold that tests it, with the labels spread evenly.

    Args:
        videos: `group` and `label`, in an order that is always the same.
        num_folds: Neither label may have fewer groups.
        seed: For the order in which groups of equal composition are dealt.
    """
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed % 2**32)
    labels, groups = videos["label"].to_numpy(), videos["group"].to_numpy()
    parts = splitter.split(labels, labels, groups)
    return {groups[row]: fold for fold, (_, test) in enumerate(parts) for row in test}


def count(folds: pl.DataFrame) -> dict[str, Any]:
    """Count groups and the videos of each label, in the locked test and each part of each fold."""
    fold, validates = pl.col("fold"), pl.col("validates")
    counts: dict[str, Any] = {"locked": _counts(folds.filter(part="locked"))}
    for number in folds["fold"].drop_nulls().unique().sort().to_list():
        outside = folds.filter(fold != number)
        counts[f"fold_{number}"] = {
            "train": _counts(outside.filter(~validates.list.contains(number))),
            "validation": _counts(outside.filter(validates.list.contains(number))),
            "test": _counts(folds.filter(fold == number)),
        }
    return counts


def _counts(videos: pl.DataFrame) -> dict[str, int]:
    labels = {label: len(videos.filter(label=label)) for label in LABELS}
    return {"groups": videos["group"].n_unique(), **labels}


def check_labels(counts: Mapping[str, Any]) -> None:
    """Refuse a split in which the locked test or a part of a fold lacks a label.

    Raises:
        ValueError: The first such part is named.
    """
    parts = {"the locked test": counts["locked"]}
    for name in counts.keys() - {"locked"}:
        parts |= {f"{part} of {name}": found for part, found in counts[name].items()}
    for part in sorted(parts):
        for label in LABELS:
            if not parts[part][label]:
                raise ValueError(f"{part} would hold no {label} video")


def run(params: Params, *, index: Path, folds: Path, summary: Path) -> None:
    """Read the index, divide it, audit the division, write it and its counts."""
    videos = INDEX.read(index)
    try:
        divided = divide(videos, params.split, params.seed)
        counts = count(divided)
        check_labels(counts)
    except ValueError as error:
        cause = f"its {videos['group'].n_unique()} groups cannot be divided: {error}"
        remedy = "Shorten split.folds in params.yaml, or add videos"
        raise FvcError(index, cause, remedy) from error
    leaks = find_leaks(divided, videos)
    if leaks:
        shown = "; ".join(str(leak) for leak in leaks[:MAX_LEAKS_SHOWN])
        cause = f"the split leaks {len(leaks)} times: {shown}"
        raise FvcError(index, cause, "Run 'dvc repro -f -s index', which forms the groups")
    accuracy = cascade_lookup_accuracy(divided, videos)
    FOLDS.write(folds, divided)
    audit = {"leaks": len(leaks), "cascade_lookup_balanced_accuracy": accuracy}
    write_json(summary, {**counts, "audit": audit, "folds_sha256": sha256_of_file(folds)})


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc split", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--folds", type=Path, required=True, help="written: one row per video")
    parser.add_argument("--summary", type=Path, required=True, help="written: counts and audit")
    args = parser.parse_args(argv)
    run(load_params(args.params), index=args.index, folds=args.folds, summary=args.summary)
