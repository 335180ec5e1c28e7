"""Compare two cross-validations on the videos that both tested: which is better, by how much."""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fvc.config import Params, load_params
from fvc.errors import FvcError
from fvc.evidence.paired import in_common, mcnemar, pair_as_dict, paired
from fvc.files import write_json
from fvc.report.comparison import Comparison, as_text
from fvc.seeding import generator_for
from fvc.tracking.finished import CrossValidation, read_cross_validation
from fvc.tracking.store import connect

SAME = {"fvc.data_sha256": "videos or labels", "fvc.folds_sha256": "folds"}
"""Tags in which two runs may differ and yet be compared."""


def compare(first: CrossValidation, second: CrossValidation, params: Params) -> Comparison:
    """Measure both on the videos in common.

    Raises:
        ValueError: They have none.
    """
    common = in_common(first.out_of_fold, second.out_of_fold)
    video, cascade = (
        paired(
            common.first,
            common.second,
            per_group=each,
            config=params.evaluate,
            generator=generator_for(params.seed, "compare"),
        )
        for each in (False, True)
    )
    notes = [
        f"They differ in their {what}."
        for tag, what in SAME.items()
        if first.tags.get(tag) != second.tags.get(tag)
    ]
    left_out = {
        "videos that the first alone scored": common.num_only_first,
        "videos that the second alone scored": common.num_only_second,
        "videos with another label in each": common.num_relabelled,
    }
    notes += [f"Left out: {number} {what}." for what, number in left_out.items() if number]
    return Comparison(
        titles=(title_of(first), title_of(second)),
        notes=notes,
        common=common,
        video=video,
        cascade=cascade,
        mcnemar=mcnemar(common.first, common.second),
        params=differing(first.params, second.params),
        confidence=params.evaluate.confidence,
    )


def title_of(run: CrossValidation) -> str:
    """The run's name and id, and what its parameters changed of the committed ones."""
    changed = run.tags.get("fvc.changed", "none")
    special = "" if changed in ("none", "unknown") or changed in run.name else f"; {changed}"
    return f"{run.name} ({run.run_id}{special})"


def differing(
    first: Mapping[str, str], second: Mapping[str, str]
) -> dict[str, tuple[str | None, str | None]]:
    """The parameters that two runs do not share, with the value of each."""
    return {
        name: (first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    }


def as_json(found: Comparison, runs: Sequence[CrossValidation]) -> dict[str, Any]:
    """The same for programs."""
    common = found.common
    return {
        "runs": [run.run_id for run in runs],
        "videos": len(common.first.is_fake),
        "groups": len(set(common.first.groups.tolist())),
        "only_first": common.num_only_first,
        "only_second": common.num_only_second,
        "relabelled": common.num_relabelled,
        "video": {name: pair_as_dict(pair) for name, pair in found.video.items()},
        "cascade": {name: pair_as_dict(pair) for name, pair in found.cascade.items()},
        "mcnemar": asdict(found.mcnemar),
        "params": {name: list(values) for name, values in found.params.items()},
    }


def run(params: Params, names: Sequence[str], *, json: Path | None) -> None:
    """Print the comparison, and write it where that is wanted.

    Raises:
        FvcError: A name is of no finished cross-validation, or the two have no video in common.
    """
    client = connect()
    first, second = (read_cross_validation(client, name) for name in names)
    try:
        found = compare(first, second, params)
    except ValueError as error:
        remedy = "Compare cross-validations of one corpus"
        raise FvcError(" and ".join(names), str(error), remedy) from error
    sys.stdout.write(as_text(found))
    if json is not None:
        write_json(json, as_json(found, [first, second]))


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc compare", description=__doc__)
    told = "a cross-validation, by its run's id or name or DVC's, or a version: models:/fvc/3"
    parser.add_argument("runs", nargs=2, metavar="RUN", help=f"read: {told}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--json", type=Path, help="written: the same for programs")
    args = parser.parse_args(argv)
    run(load_params(args.params), args.runs, json=args.json)
