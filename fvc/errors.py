"""The one exception that is shown to people as a single line."""

from pathlib import Path


class FvcError(Exception):
    """A failure with a known remedy: where it is, what is wrong, what to do.

    The three parts stay in `args`, so the error survives the pickling that
    carries it from a decoding worker to the main process.
    """

    def __init__(self, where: Path | str, cause: str, remedy: str) -> None:
        super().__init__(where, cause, remedy)

    def __str__(self) -> str:
        where, cause, remedy = self.args
        return f"{where}: {cause}. {remedy}."


class Stopped(FvcError):
    """Work that was asked to end left all it needs to go on."""
