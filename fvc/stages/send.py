"""Send to MLflow what waits on disk since its store was away."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from fvc.tracking.store import connect
from fvc.tracking.waiting import send_waiting


def main(argv: Sequence[str]) -> None:
    """Run the command from the command line."""
    ArgumentParser(prog="fvc send", description=__doc__).parse_args(argv)
    sys.stderr.write(f"send: sent what waited, of {send_waiting(connect())} runs\n")
