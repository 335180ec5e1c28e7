"""`fvc <command>`: finds the command, fills in flags from dvc.yaml, prints an error as one line."""

import errno
import importlib
import os
import pkgutil
import re
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import yaml

from fvc import process, stages
from fvc.errors import FvcError

PIPELINE = Path("dvc.yaml")
LOCKS = Path("work/locks")
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""What may happen to any stage wherever it writes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a known error, 2 for wrong usage."""
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
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        cause = f"{error.filename or 'the disk'}: {error.strerror}"
        sys.stderr.write(f"error: {cause}. Make it writable, free space, then run again.\n")
        return 1


def _run(command: str, flags: list[str]) -> int:
    started = time.monotonic()
    process.end_with_parent()
    planned = stage_commands(PIPELINE).get(command)
    filled = flags if planned is None else [*planned_flags(command, planned, flags), *flags]
    fold = [number for number in _fold(flags) if number.isdecimal()]
    # A project run writes to folders of its own, and disturbs nobody.
    project_run = [os.environ["MLFLOW_RUN_ID"]] if "MLFLOW_RUN_ID" in os.environ else []
    name = "@".join([command, *fold])
    lock = "@".join([name, *project_run])
    helps = "-h" in flags or "--help" in flags
    with nullcontext() if planned is None or helps else process.only_one(lock, LOCKS):
        importlib.import_module(f"fvc.stages.{command}").main(filled)
    if planned is not None:
        sys.stderr.write(f"fvc {name} took {time.monotonic() - started:.1f} s\n")
    return 0


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


def _fold(flags: Sequence[str]) -> list[str]:
    for position, flag in enumerate(flags):
        if flag == "--fold" and position + 1 < len(flags):
            return [flags[position + 1]]
        if flag.startswith("--fold="):
            return [flag.removeprefix("--fold=")]
    return []


if __name__ == "__main__":
    sys.exit(main())
