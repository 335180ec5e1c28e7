"""Register networks of several cross-validations as one model, which nobody has weighed yet."""

import sys
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from fvc.config import Params, load_params
from fvc.ensembles import ensemble_of, said_by
from fvc.errors import FvcError
from fvc.evidence import locked
from fvc.evidence.ensemble import EnsembleFold, best_fold, out_of_fold
from fvc.evidence.metrics import estimate
from fvc.evidence.paired import in_common
from fvc.files import sha256_of
from fvc.networks import read_description
from fvc.networks.ensemble import describe_ensemble, weights_sha256
from fvc.report.ensemble_card import CardMember, EnsembleFacts, ensemble_card
from fvc.seeding import generator_for
from fvc.serving.packaging import log_model
from fvc.serving.settings import Settings
from fvc.tracking import git_commit, registry
from fvc.tracking.comparisons import ENSEMBLE, log_together
from fvc.tracking.finished import CrossValidation, read_cross_validation
from fvc.tracking.finished_folds import finished_folds
from fvc.tracking.store import connect


def members_of(runs: Sequence[CrossValidation], fold: int) -> list[CardMember]:
    """The network that each cross-validation trained in a fold."""
    return [
        CardMember(
            network=run.tags["fvc.network"],
            run_id=run.run_id,
            temperature=said_by(run)[fold].calibration.temperature,
            weights_sha256=finished_folds(run)[fold].weights_sha256,
        )
        for run in runs
    ]


def gather(
    runs: Sequence[CrossValidation], members: Sequence[CardMember], fold: int, folder: Path
) -> None:
    """Fill the folder of an ensemble with the networks of one fold.

    Raises:
        FvcError: The store has lost one, or it sees other clips than the first.
    """
    places = []
    with ExitStack() as held:
        for number, run in enumerate(runs):
            source = held.enter_context(finished_folds(run)[fold].network())
            copytree(source, folder / str(number))
            places.append((str(number), members[number].temperature))
            sees, first = (read_description(folder / str(each))[1] for each in (number, 0))
            if sees != first:
                cause = f"sees other clips ({sees}) than {runs[0].name} ({first})"
                raise FvcError(run.name, cause, "Name members whose section 'clips' is equal")
    describe_ensemble(folder, places)


def card_of(
    runs: Sequence[CrossValidation],
    members: Sequence[CardMember],
    folds: Mapping[int, EnsembleFold],
    fold: int,
    params: Params,
) -> str:
    """What the version says of itself."""
    table = out_of_fold(folds, runs[0].out_of_fold)
    outcomes = in_common(table, table).first
    measured = estimate(
        outcomes,
        per_group=False,
        config=params.evaluate,
        generator=generator_for(params.seed, "compare"),
    )
    learned = folds[fold].calibration
    facts = EnsembleFacts(
        members=members,
        fold=fold,
        roc_auc=measured["roc_auc"],
        macro_f1=measured["macro_f1"],
        num_videos=table.height,
        num_groups=len(set(outcomes.groups.tolist())),
        num_validation=learned.num_real + learned.num_fake,
        confidence=params.evaluate.confidence,
    )
    return ensemble_card(facts)


def tags_of(
    runs: Sequence[CrossValidation], members: Sequence[CardMember], fold: int, weights: str
) -> dict[str, str]:
    """What the version is known by; of tags that differ among the members, all values."""
    shared = ("fvc.data_sha256", "fvc.folds_sha256", "fvc.network", "fvc.params_sha256")
    values = {
        name: "+".join(dict.fromkeys(run.tags.get(name, "unknown") for run in runs))
        for name in shared
    }
    return {
        **values,
        **git_commit(),
        "fvc.kind": ENSEMBLE,
        "fvc.members": " ".join(member.run_id for member in members),
        "fvc.fold": str(fold),
        "fvc.weights_sha256": weights,
        "fvc.promotion": "not weighed",
    }


def version_of(folder: Path, settings: Settings, members: Sequence[CardMember], card: str) -> str:
    """The number of the ensemble's version, which is made if it is new."""
    weights = weights_sha256(folder)
    key = sha256_of([weights, settings.calibration.as_dict(), repr(settings.limits)])
    client = connect()
    if known := registry.find_version(client, key):
        return registry.number_of(known)
    runs, name = [[member.run_id] for member in members], "+".join(m.network for m in members)
    run_id = log_together(ENSEMBLE, runs, f"ensemble {name}", card, [])
    with TemporaryDirectory() as scratch:
        # Of a locked test it has no scores: whoever weighs against it scores it anew.
        unread = Path(scratch) / locked.LOCKED
        locked.no_scores().write_parquet(unread)
        tags = {registry.CANDIDATE: key}
        return log_model(registry.NAME, folder, settings, [unread], run_id=run_id, tags=tags)


def run(params: Params, names: Sequence[str]) -> str:
    """Register an ensemble as `challenger`; whoever serves goes on serving.

    Returns:
        The number of the version; that of an earlier one, where it is the same ensemble.

    Raises:
        FvcError: A name is of no finished cross-validation, or the members do not fit together.
    """
    client = connect()
    runs = [read_cross_validation(client, name) for name in names]
    folds = ensemble_of(runs, params.evaluate)
    fold = best_fold(folds)
    members = members_of(runs, fold)
    card = card_of(runs, members, folds, fold, params)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        gather(runs, members, fold, folder)
        settings = Settings(
            clips=read_description(folder / "0")[1],
            calibration=folds[fold].calibration,
            limits=params.serving,
        )
        if stopped := registry.finish(client):
            sys.stderr.write(f"ensemble: finished '{stopped.command}', which had been stopped\n")
        number = version_of(folder, settings, members, card)
        tags = tags_of(runs, members, fold, weights_sha256(folder))
    client.update_model_version(registry.NAME, number, description=card)
    change = registry.Change(
        command="ensemble", aliases={"challenger": number}, tags={number: tags}
    )
    registry.make(client, change)
    sys.stderr.write(f"ensemble: models:/{registry.NAME}/{number} is challenger, not weighed\n")
    return number


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc ensemble", description=__doc__)
    told = "a cross-validation, by its run's id or name or DVC's; at least two"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=f"read: {told}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args(argv)
    run(load_params(args.params), args.runs)
