"""Compare cross-validations: two on the videos that both tested, or many in one table."""

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import torch

from fvc.config import Params, load_params
from fvc.costs import cost_of, place_of
from fvc.ensembles import ensemble_of
from fvc.errors import FvcError
from fvc.evidence.ensemble import out_of_fold
from fvc.evidence.paired import in_common, mcnemar, pair_as_dict, paired
from fvc.evidence.shelf import standings
from fvc.files import replacing, write_json
from fvc.precision import choose_precision
from fvc.pricing import network_of, price_of, together_price
from fvc.report.comparison import Comparison, as_text
from fvc.report.shelf import Member, Shelf, as_markdown, as_page
from fvc.report.shelf import as_json as shelf_as_json
from fvc.report.shelf import as_text as shelf_as_text
from fvc.seeding import generator_for
from fvc.tracking.comparisons import COMPARISON, log_together
from fvc.tracking.finished import SAME, CrossValidation, check_same_test, read_cross_validation
from fvc.tracking.store import connect


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


def tabulate(
    params: Params,
    names: Sequence[str],
    ensembles: Sequence[str],
    *,
    markdown: Path | None,
    html: Path | None,
    json: Path | None,
) -> None:
    """Print a table of many, keep it in MLflow, and write it where that is wanted.

    Args:
        params: How to measure.
        names: Of the members; the others are held against the first.
        ensembles: Of each its members, as `chosen` takes them.
        markdown: Where to write it as Markdown.
        html: Where to write it as a page.
        json: Where to write it for programs.

    Raises:
        FvcError: A name is of no finished cross-validation, or of one that was tested otherwise.
    """
    client = connect()
    runs = {name: read_cross_validation(client, name) for name in names}
    first = runs[names[0]]
    if len({run.run_id for run in runs.values()}) < len(names):
        raise FvcError(", ".join(names), "name a cross-validation twice", "Name each of them once")
    for run in runs.values():
        check_same_test(first, run)
    together = {text: chosen(text, runs) for text in ensembles}
    shelf = shelf_of(params, list(runs.values()), list(together.values()))
    sys.stdout.write(shelf_as_text(shelf))
    keep(shelf, markdown=markdown, html=html, json=json)


def chosen(text: str, runs: Mapping[str, CrossValidation]) -> list[CrossValidation]:
    """The members of an ensemble.

    Args:
        text: Separated by commas, each as it was named or by its id, its name or its network.
        runs: Those that are compared, as they were named.

    Raises:
        FvcError: One is none of them, or could be several.
    """
    found = []
    for name in text.split(","):
        fitting = [
            run
            for given, run in runs.items()
            if name in (given, run.run_id, run.name, run.tags.get("fvc.network"))
        ]
        if len(fitting) != 1:
            cause = f"is {len(fitting)} of the cross-validations that are compared"
            raise FvcError(f"--ensemble {name}", cause, "Name one of them, by its id if need be")
        found += fitting
    return found


def shelf_of(
    params: Params,
    runs: Sequence[CrossValidation],
    ensembles: Sequence[Sequence[CrossValidation]],
) -> Shelf:
    """Measure cross-validations and ensembles of them, and what they cost on this machine."""
    device = choose_precision(params.train.mixed_precision).device
    names = names_of(runs)
    sees, prices = {}, {}
    for run in runs:
        model, clips = network_of(run)
        sees[run.run_id] = f"{clips.num_frames} x {clips.side_px} px"
        cost = cost_of(model, clips, device)
        prices[run.run_id] = price_of(run, cost)
    tables = [run.out_of_fold for run in runs]
    for together in ensembles:
        folds = ensemble_of(together, params.evaluate)
        tables.append(out_of_fold(folds, runs[0].out_of_fold))
    found = standings(tables, params.evaluate, params.seed)
    members = [
        Member(
            name=" + ".join(names[run.run_id] for run in own),
            runs=[run.run_id for run in own],
            sees=" + ".join(dict.fromkeys(sees[run.run_id] for run in own)),
            standing=standing,
            price=together_price([prices[run.run_id] for run in own]),
        )
        for own, standing in zip([*([run] for run in runs), *ensembles], found, strict=True)
    ]
    return Shelf(
        members=members,
        num_videos=tables[0].height,
        num_groups=tables[0]["group"].n_unique(),
        confidence=params.evaluate.confidence,
        place=place_of(device),
        made=f"{datetime.now(UTC):%Y-%m-%d}, with PyTorch {torch.__version__}",
    )


def names_of(runs: Sequence[CrossValidation]) -> dict[str, str]:
    """What each is called in the table, by its id: its network, and where that is not enough,
    its run."""
    networks = Counter(run.tags.get("fvc.network", "") for run in runs)
    titles = Counter((run.tags.get("fvc.network", ""), run.name) for run in runs)
    found = {}
    for run in runs:
        network = run.tags.get("fvc.network", "")
        alone = titles[network, run.name] == 1
        told = f"{network}, {run.name if alone else run.run_id}"
        found[run.run_id] = network if network and networks[network] == 1 else told
    return found


def keep(
    shelf: Shelf,
    *,
    markdown: Path | None,
    html: Path | None,
    json: Path | None,
) -> None:
    """Keep the table in a run of MLflow, and copies where they are wanted."""
    texts = {"comparison.md": as_markdown(shelf), "comparison.html": as_page(shelf)}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        write_json(folder / "comparison.json", shelf_as_json(shelf))
        members = [member.runs for member in shelf.members]
        title = " ".join(member.name for member in shelf.members)
        name = shorten(f"compare {title}", 120, placeholder=" ...")
        note = texts["comparison.md"]
        run_id = log_together(COMPARISON, members, name, note, sorted(folder.iterdir()))
        for ending, wanted in ((".md", markdown), (".html", html), (".json", json)):
            if wanted is not None:
                with replacing(wanted) as partial:
                    copyfile(folder / f"comparison{ending}", partial)
    sys.stderr.write(f"compare: the table is in MLflow, run {run_id}\n")


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc compare", description=__doc__)
    told = (
        "a cross-validation, by its run's id or name or DVC's, or a version: models:/fvc/3; "
        "more than two make a table, in which all are held against the first"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"read: {told}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--table", action="store_true", help="make a table of two, or of one")
    parser.add_argument(
        "--ensemble",
        action="append",
        default=[],
        metavar="A,B",
        help="another row of the table: these of its members together, by name or by network",
    )
    parser.add_argument("--markdown", type=Path, help="written: the table for documents")
    parser.add_argument("--html", type=Path, help="written: the table as a page")
    parser.add_argument("--json", type=Path, help="written: the same for programs")
    args = parser.parse_args(argv)
    params, wanted = load_params(args.params), (args.markdown, args.html)
    if len(args.runs) > 2 or args.table or args.ensemble or any(wanted):
        written = {name: getattr(args, name) for name in ("markdown", "html", "json")}
        tabulate(params, args.runs, args.ensemble, **written)
    elif len(args.runs) == 2:
        run(params, args.runs, json=args.json)
    else:
        parser.error("name two cross-validations, or more")
