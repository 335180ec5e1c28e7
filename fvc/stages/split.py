"""Divide the groups into a locked test and folds, or a single division, and audit the result."""

import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fvc.annotations import LABELS
from fvc.config import IndexConfig, Params, SplitConfig, load_params
from fvc.division import Profile, draw, parts, profiles, take
from fvc.errors import FvcError
from fvc.files import write_json
from fvc.leakage import CHANCE, KEYS, Leak, find_leaks, look_up_cascades
from fvc.near_duplicates import KEPT_MATCHES
from fvc.records import FOLDS, INDEX, part_in
from fvc.seeding import seed_for

COLUMNS = (*("video_id", "group", "label", "platform"), *KEYS[1:], "fingerprint")
"""Of the index, what divides and what is audited."""
PARTS = ("train", "validation", "test")

LOOKUP_TOLERANCE = 0.01
"""How far above chance the cascade lookup may be: one known video in fifty. A clean split
gives chance to the last digit."""

MAX_LEAKS_SHOWN = 3
"""In the error; standard error has more."""
MAX_LEAKS_LISTED = 1000


def divide(index: pl.DataFrame, config: SplitConfig, seed: int) -> pl.DataFrame:
    """Give every video of an index its place, equal for all videos of a group.

    Nothing depends on the order of the rows.

    Args:
        index: At least `video_id`, `group`, `label` and `platform`.
        config: Scheme, folds and shares.
        seed: Of the whole pipeline.

    Returns:
        A `FOLDS` table.

    Raises:
        ValueError: There are too few groups of a label.
    """
    videos = index.select("video_id", "group", "label", "platform").sort("video_id")
    groups = profiles(videos)
    locked = draw(groups, config.locked_share, seed_for(seed, "split", "locked"))
    check_groups([groups[group] for group in groups.keys() - locked], config)
    open_videos = videos.filter(~pl.col("group").is_in(locked))
    fold_of = assign_folds(open_videos, config, seed)
    validates = defaultdict(list)
    for fold in config.folds:
        tested = [group for group, other in fold_of.items() if other == fold]
        training = open_videos.filter(~pl.col("group").is_in(tested))
        purpose = seed_for(seed, "split", "validation", fold)
        for group in take(training, config.validation_share, purpose):
            validates[group].append(fold)
    names = list(groups)
    kind_of = {kind: number for number, kind in enumerate({(), *map(tuple, validates.values())})}
    kinds = pl.Series(map(list, kind_of), dtype=FOLDS.columns["validates"])
    places = pl.DataFrame(
        {
            "group": names,
            "part": ["locked" if group in locked else "fold" for group in names],
            "fold": [fold_of.get(group) for group in names],
            # One list for all groups alike: a list for each of a million takes seconds.
            "validates": kinds.gather(
                [kind_of[tuple(validates.get(group, ()))] for group in names]
            ),
        },
        schema={name: FOLDS.columns[name] for name in ("group", "part", "fold", "validates")},
    )
    placed = videos.join(places, on="group", how="left", maintain_order="left")
    return placed.select(*FOLDS.columns)


def assign_folds(videos: pl.DataFrame, config: SplitConfig, seed: int) -> dict[str, int]:
    """Map the groups that are tested to the fold that tests them.

    With several folds these are all groups; of a single one, its test part.
    """
    if config.scheme == "single":
        return dict.fromkeys(take(videos, config.test_share, seed_for(seed, "split", "test")), 0)
    return parts(videos, len(config.folds), seed_for(seed, "split", "folds"))


def check_groups(groups: Sequence[Profile], config: SplitConfig) -> None:
    """Refuse a corpus in which not every part can have a group of either label.

    Args:
        groups: Those outside the locked test.
        config: Scheme and folds.

    Raises:
        ValueError: The first such label is named.
    """
    needed, why = len(config.folds), f"{len(config.folds)} folds need {len(config.folds)}"
    if config.scheme == "single" or needed < 3:
        needed, why = 3, "training, validation and test need 3"
    for label in LABELS:
        found = sum(profile.label == label for profile in groups)
        if found < needed:
            raise ValueError(f"{found} groups outside the locked test are mostly {label}; {why}")


def count(folds: pl.DataFrame, numbers: Sequence[int]) -> dict[str, Any]:
    """Count groups and the videos of each label, in the locked test and each part of each fold."""
    locked = _counts(folds.filter(part="locked").with_columns(of=pl.lit("locked")))
    by_fold = [_counts(folds.with_columns(of=part_in(number))) for number in numbers]
    return {
        "locked": locked["locked"],
        "folds": [{part: found[part] for part in PARTS} for found in by_fold],
    }


def _counts(videos: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Groups and videos of each label, by `of`."""
    labels = {label: (pl.col("label") == label).sum() for label in LABELS}
    found = videos.group_by("of").agg(groups=pl.col("group").n_unique(), **labels)
    empty = dict.fromkeys(("groups", *LABELS), 0)
    return defaultdict(lambda: empty, {row.pop("of"): row for row in found.iter_rows(named=True)})


def check_labels(counts: Mapping[str, Any]) -> None:
    """Refuse a split in which the locked test or a part of a fold lacks a label.

    Raises:
        ValueError: The first such part is named.
    """
    counted = {"the locked test": counts["locked"]}
    for number, fold in enumerate(counts["folds"]):
        counted |= {f"{part} of fold {number}": found for part, found in fold.items()}
    for part, found in counted.items():
        for label in LABELS:
            if not found[label]:
                raise ValueError(f"{part} would hold no {label} video")


def audit(
    folds: pl.DataFrame, index: pl.DataFrame, config: IndexConfig, probes: Path
) -> dict[str, Any]:
    """Look for what a split must not have; this is what it has instead, for `split.json`.

    Raises:
        ValueError: The split leaks; the pairs are on standard error, the first in the message.
    """
    if leaks := find_leaks(folds, index, config, matches=probes / KEPT_MATCHES):
        raise ValueError(f"the split leaks {len(leaks)} times: {_listed(leaks)}")
    worst = max(look_up_cascades(folds, index), key=lambda found: found.balanced_accuracy)
    if worst.balanced_accuracy > CHANCE + LOOKUP_TOLERANCE:
        reached = f"{worst.balanced_accuracy:.3f} balanced accuracy on the test of {worst.test}"
        over = f"more than {LOOKUP_TOLERANCE} above chance"
        raise ValueError(f"a lookup of cascades has {reached}, {over}: {_listed(worst.known)}")
    return {"leaks": 0, "cascade_lookup_balanced_accuracy": worst.balanced_accuracy}


def _listed(leaks: Sequence[Leak]) -> str:
    lines = [f"split: {leak}\n" for leak in leaks[:MAX_LEAKS_LISTED]]
    if more := leaks[MAX_LEAKS_LISTED:]:
        lines.append(f"split: and {len(more)} more\n")
    sys.stderr.write("".join(lines))
    return "; ".join(str(leak) for leak in leaks[:MAX_LEAKS_SHOWN])


def summarise(counts: Mapping[str, Any], audited: Mapping[str, Any]) -> dict[str, Any]:
    """What `dvc metrics show` shows, and below `folds` the same in numbers.

    For each part and label one cell holds the counts of all folds in order: a cell for
    each fold would make a table of fifty columns. DVC shows no lists.
    """
    shown = {
        part: {label: _cell([fold[part][label] for fold in counts["folds"]]) for label in LABELS}
        for part in PARTS
    }
    return {**shown, **counts, "audit": audited}


def _cell(values: Sequence[int]) -> int | str:
    return values[0] if len(values) == 1 else " ".join(map(str, values))


def run(params: Params, *, index: Path, probes: Path, folds: Path, summary: Path) -> None:
    """Read the index, divide it, audit the division, write it and its counts.

    Raises:
        FvcError: The groups are too few, or the audit found a leak; nothing is written.
    """
    videos = INDEX.read(index, columns=COLUMNS)
    try:
        divided = divide(videos, params.split, params.seed)
        counts = count(divided, params.split.folds)
        check_labels(counts)
    except ValueError as error:
        cause = f"its {videos['group'].n_unique()} groups cannot be divided: {error}"
        fewer = len(params.split.folds) > 2 and set(videos["label"]) == set(LABELS)
        remedy = "Shorten split.folds in params.yaml, or add videos" if fewer else "Add videos"
        raise FvcError(index, cause, remedy) from error
    try:
        audited = audit(divided, videos, params.index, probes)
    except ValueError as error:
        remedy = "Run 'dvc repro -f -s index', which forms the groups"
        raise FvcError(index, str(error), remedy) from error
    FOLDS.write(folds, divided)
    write_json(summary, summarise(counts, audited))


def main(argv: Sequence[str]) -> None:
    """Run the stage from the command line."""
    parser = ArgumentParser(prog="fvc split", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--index", type=Path, required=True, help="read: one row per video")
    parser.add_argument("--probes", type=Path, required=True, help="kept: which videos match")
    parser.add_argument("--folds", type=Path, required=True, help="written: one row per video")
    parser.add_argument("--summary", type=Path, required=True, help="written: counts and audit")
    args = vars(parser.parse_args(argv))
    run(load_params(args.pop("params")), **args)
