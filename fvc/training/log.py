"""The log of a training: what is said on standard error and beside the checkpoints alike."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tqdm import tqdm

from fvc.errors import FvcError

LOG = "train.log"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger(__name__)


class _Terminal(logging.Handler):
    """Standard error: news as they are, warnings as such, and no live line disturbed."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if record.levelno > logging.INFO:
            text = f"{record.levelname.lower()}: {text}"
        tqdm.write(text, file=sys.stderr)


class _File(logging.FileHandler):
    """Beside the checkpoints; a full disk ends the training, as it does everywhere else."""

    def handleError(self, record: logging.LogRecord) -> None:
        del record
        raise


@contextmanager
def training_log(target: Path, run_id: str, keep: Callable[[Path], None]) -> Iterator[None]:
    """Log what the block says, and what Python warns of, to standard error and to a file.

    A training that goes on after an interruption goes on in the same file; one
    with another run begins it anew.

    Args:
        target: The file; its folder is made if need be.
        run_id: Of the run that tracks the training.
        keep: Called with the file when the block ends, however it does.
    """
    title = f"MLflow run {run_id}\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    _begin(target, title)
    written = _File(target, encoding="utf-8")
    written.setFormatter(logging.Formatter(FORMAT))
    handlers = (_Terminal(), written)
    root, ours = logging.getLogger(), logging.getLogger("fvc")
    level = ours.level
    ours.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    logging.captureWarnings(True)
    end: BaseException | None = None
    try:
        yield
    except BaseException as error:
        end = error
        raise
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            root.removeHandler(handler)
        ours.setLevel(level)
        try:
            with closing(written):
                if end is not None:
                    written.handle(_record(_said_of(end)))
            keep(target)
        except Exception as error:
            # On a full disk, or without MLflow: what ended the training matters more.
            if end is None:
                raise
            sys.stderr.write(f"warning: {target} is not whole, or not in MLflow: {error}\n")


def _begin(target: Path, title: str) -> None:
    """Leave a file with the same title as it is; make a new one of any other."""
    if target.is_file():
        with target.open(encoding="utf-8", errors="replace") as stream:
            if stream.readline() == title:
                return
    target.write_text(title, encoding="utf-8")


def _said_of(end: BaseException) -> str:
    # The command line prints the first kind on standard error as it is.
    return f"{end}" if isinstance(end, FvcError) else f"ended by {type(end).__name__}: {end}"


def _record(message: str) -> logging.LogRecord:
    return logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None)
