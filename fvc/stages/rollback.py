"""Put the previous champion back into service; a second time, undo that."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from fvc.errors import FvcError
from fvc.tracking import registry
from fvc.tracking.store import connect


def run() -> None:
    """Swap the aliases `champion` and `previous`, or finish a swap that was stopped.

    Raises:
        FvcError: One of the aliases is missing, both are of one version, or the files of
            the previous champion are gone.
    """
    client = connect()
    stopped = registry.finish(client)
    if stopped is not None and stopped.command == "rollback":
        sys.stderr.write(f"rollback: finished what was stopped: {_now(stopped)}\n")
        return
    champion = registry.version_of(client, "champion")
    previous = registry.version_of(client, "previous")
    if champion is None:
        remedy = "Give it to the version that shall serve, in 'mlflow ui'"
        raise FvcError(registry.NAME, "no version has the alias 'champion'", remedy)
    if previous is None:
        cause = "no version has the alias 'previous', as no champion was replaced yet"
        remedy = "Give that alias to the version that shall serve, in 'mlflow ui', and run it again"
        raise FvcError(registry.NAME, cause, remedy)
    if champion.version == previous.version:
        cause = f"version {champion.version} is 'champion' and 'previous'"
        remedy = "Give one alias to another version in 'mlflow ui', and run it again"
        raise FvcError(registry.NAME, cause, remedy)
    registry.check_files(registry.number_of(previous))
    change = registry.rollback(champion, previous)
    registry.make(client, change)
    sys.stderr.write(f"rollback: {_now(change)}\n")


def _now(change: registry.Change) -> str:
    serving, left = change.aliases["champion"], change.aliases["previous"]
    return f"version {serving} is champion again, version {left} is 'previous'"


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    ArgumentParser(prog="fvc rollback", description=__doc__).parse_args(argv)
    run()
