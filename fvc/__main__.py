"""`fvc <command>`: finds the command, fills in flags from dvc.yaml, prints an error as one line."""

import errno
import importlib
import os
import pkgutil
import re
import shlex
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import yaml

from fvc import process, stages
from fvc.config import as_overrides, differences, load_params
from fvc.errors import FvcError
from fvc.files import sha256_of

PIPELINE = Path("dvc.yaml")
WRONG_USAGE = 2
"""What argparse exits with, after it has said what is wrong."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What may happen to any stage wherever it writes."""
SETTABLE: Mapping[str, Mapping[str, str]] = {
    "train": {"--model": "model", "--checkpoints": "checkpoints", "--runs": "."}
}
"""Stages that take --set: the flags of what they write, and what that is called in a folder apart.
Such a stage has --runs, below which these folders lie."""
MADE_BEFORE = ("extract", "index", "split", "clips", "augment")
"""Sections that earlier stages have read, into files that a stage with --set reads as they are."""

TAKES_TURNS: Mapping[str, str] = {"rollback": "register", "ensemble": "register"}
"""Commands that change what a stage changes, and never do so at the same time."""

READS: Mapping[str, tuple[str, frozenset[str]]] = {
    "trace": ("register", frozenset({"--index", "--folds"}))
}
"""Commands that read what a stage reads: the stage, and the flags whose paths dvc.yaml has."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: exit code 0, 1 for a known error, 2 for wrong usage, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = sorted(module.name for module in pkgutil.iter_modules(stages.__path__))
    # A module's name has no dash; a command may be written with one.
    command, flags = "".join(arguments[:1]).replace("-", "_"), arguments[1:]
    if command not in commands:
        asked_for_help = arguments[:1] in (["-h"], ["--help"])
        listed = ", ".join(commands).replace("_", "-")
        usage = f"usage: fvc <command> [flags]; commands: {listed}\n"
        unknown = f"error: fvc {arguments[0]}: there is no such command\n" if arguments else ""
        sys.stderr.write("" if asked_for_help else unknown)
        (sys.stdout if asked_for_help else sys.stderr).write(usage)
        return 0 if asked_for_help else 2
    try:
        return _run(command, flags)
    except FvcError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"error: fvc {command}: was interrupted. Run it again to go on.\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read what was printed, as `head`, has seen enough; Python must not try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except SystemExit as end:
        if end.code == WRONG_USAGE:
            sys.stderr.write(_usage_hint(command))
        raise
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        cause = f"{error.filename or 'the disk'}: {error.strerror}"
        sys.stderr.write(f"error: {cause}. Make it writable, free space, then run again.\n")
        return 1


def _run(command: str, flags: list[str]) -> int:
    started = time.monotonic()
    process.end_with_parent()
    pipeline = stage_commands(PIPELINE)
    planned, locked = pipeline.get(command), TAKES_TURNS.get(command, command)
    helps = "-h" in flags or "--help" in flags
    filled = [] if planned is None else planned_flags(command, planned, flags)
    if command in READS:
        stage, shared = READS[command]
        filled = flags_in_common(stage, pipeline.get(stage, stage), shared)
    fold = [number for number in _fold(flags) if number.isdecimal()]
    # A project run writes to folders of its own, and disturbs nobody.
    project_run = [os.environ["MLFLOW_RUN_ID"]] if "MLFLOW_RUN_ID" in os.environ else []
    name = "@".join([command, *fold])
    apart = None if planned is None or helps else folder_apart(command, filled, flags)
    filled += flags_apart(command, apart / "".join(fold)) if apart else []
    lock = "@".join([locked, *fold, *project_run, *([apart.name] if apart else [])])
    # Processes that torchrun started do one piece of work together, and the first one holds it.
    speaks = process.is_first_rank()
    alone = locked in pipeline and not helps and speaks
    with process.only_one(lock, process.LOCKS) if alone else nullcontext():
        _call(command, [*filled, *flags])
    if planned is not None and speaks:
        sys.stderr.write(f"fvc {name} took {time.monotonic() - started:.1f} s\n")
    return 0


def _call(command: str, flags: list[str]) -> None:
    """Call a command; a server of MLflow that refuses or is away is known, wherever it is met."""
    try:
        importlib.import_module(f"fvc.stages.{command}").main(flags)
    except Exception as error:
        if "mlflow" not in sys.modules:
            raise
        known = importlib.import_module("fvc.tracking.answers").refusal(error)
        if known is None:
            raise
        raise known from error


def _usage_hint(command: str) -> str:
    """Where the flags come from that were missing or unknown, if the user has not typed them."""
    if not PIPELINE.is_file():
        cause = f"{PIPELINE}, which gives a stage its flags, is not here"
        return f"fvc {command}: {cause}. Run from the repository root.\n"
    if "MLFLOW_RUN_ID" in os.environ:
        return f"fvc {command}: MLproject has the names that 'mlflow run -P' takes.\n"
    return ""


def stage_commands(pipeline: Path) -> dict[str, str]:
    """Map each stage of dvc.yaml to its command line; empty where there is no pipeline.

    Raises:
        FvcError: The file is no valid YAML.
    """
    if not pipeline.is_file():
        return {}
    try:
        content = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        cause = f"is no valid YAML ({' '.join(str(error).split())})"
        raise FvcError(pipeline, cause, "Mend it, or restore it with 'git checkout'") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), dict):
        raise FvcError(pipeline, "has no stages", "Restore it with 'git checkout'")
    return {name: " ".join(stage["cmd"].split()) for name, stage in content["stages"].items()}


def planned_flags(command: str, planned: str, given: Sequence[str]) -> list[str]:
    """The flags that dvc.yaml gives to a command, those of a matrix stage for the given fold.

    They go before the user's own, and the last of two equal flags counts.

    Raises:
        FvcError: The stage runs once per fold and no fold was given.
    """
    fold = _fold(given)
    if "${item.fold}" in planned and not fold:
        if "-h" in given or "--help" in given:
            return []
        raise FvcError(f"fvc {command}", "needs a fold", "Add --fold, for example '--fold 0'")
    words = shlex.split(re.sub(r"\$\{item\.fold\}", "".join(fold), planned))
    return words[words.index(command) + 1 :]


def flags_in_common(stage: str, planned: str, shared: Collection[str]) -> list[str]:
    """Those flags of a stage's command, with their values, that another command takes, too."""
    words = shlex.split(planned)
    words = words[words.index(stage) + 1 :]
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for flag, value in pairs if flag in shared for word in (flag, value)]


def folder_apart(command: str, planned: Sequence[str], given: Sequence[str]) -> Path | None:
    """Where a stage whose parameters --set changes writes: DVC's outputs are of params.yaml.

    The folder's name follows from the parameters, so the same command goes on
    where it was. One line says what differs, and where the folder is unless the
    user has named others.

    Returns:
        None where nothing differs from params.yaml.

    Raises:
        FvcError: The parameters are not valid.
    """
    if command not in SETTABLE:
        return None
    parser = ArgumentParser(prog=f"fvc {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--runs", type=Path, required=True)
    args, _ = parser.parse_known_args([*planned, *given])
    changed, written = load_params(args.params, args.set), load_params(args.params)
    if changed == written:
        return None
    folder: Path = args.runs / sha256_of(asdict(changed))[:12]
    settings = differences(changed, asdict(written))
    line = f"fvc {command}: with {as_overrides(settings)}, unlike {args.params}"
    named = any(word.split("=")[0] in SETTABLE[command] for word in given)
    line += "" if named else f", below {folder}"
    if any(key.split(".")[0] in MADE_BEFORE for key in settings):
        line += "; what earlier stages made stays as it is"
    if process.is_first_rank():
        sys.stderr.write(f"{line}\n")
    return folder


def flags_apart(command: str, folder: Path) -> list[str]:
    """The flags that make a stage write below a folder of its own, not where dvc.yaml says."""
    return [word for flag, name in SETTABLE[command].items() for word in (flag, str(folder / name))]


def _fold(flags: Sequence[str]) -> list[str]:
    for position, flag in enumerate(flags):
        if flag == "--fold" and position + 1 < len(flags):
            return [flags[position + 1]]
        if flag.startswith("--fold="):
            return [flag.removeprefix("--fold=")]
    return []


if __name__ == "__main__":
    sys.exit(main())
