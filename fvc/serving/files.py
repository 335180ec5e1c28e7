"""Many files to score: which they are, their answers in order, and never many in memory."""

import errno
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from fvc.errors import FvcError
from fvc.serving.answering import Answerer, Wishes
from fvc.video import VideoError

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf"),
        *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".gif", ".mxf", ".dv"),
    }
)
"""What a file of a folder ends in that is scored; files that are named are scored in any case."""
IN_ADVANCE = 2
"""Files that wait to be decoded, so that no process waits for a disk."""


def video_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files themselves, and those of folders and their subfolders, sorted by name.

    Raises:
        FvcError: A path is neither.
    """
    for path in paths:
        if path.is_dir():
            yield from _within(path)
        elif path.is_file():
            yield path
        else:
            raise FvcError(path, "is neither a file nor a folder", "Name existing ones")


def _within(folder: Path) -> Iterator[Path]:
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: _note(error, closed)):
        # In place: os.walk goes on with them in this order.
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)
    # As if they were files: each is an answer with the reason.
    yield from closed


def _note(error: OSError, closed: list[Path]) -> None:
    closed.append(Path(error.filename))


def answers_of(
    files: Iterable[Path], answerer: Answerer, wishes: Wishes
) -> Generator[dict[str, Any]]:
    """Answer to each file, in order: `file` and what `Answerer.answer` gives.

    As many are decoded at once as there are processes for it. A file that cannot be
    read costs only its own answer.
    """
    at_once = answerer.decoders.count + IN_ADVANCE
    waiting: deque[Future[dict[str, Any]]] = deque()
    threads = ThreadPoolExecutor(at_once, "score")
    try:
        for file in files:
            if len(waiting) == 2 * at_once:
                yield waiting.popleft().result()
            waiting.append(threads.submit(_answer, file, answerer, wishes))
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _answer(file: Path, answerer: Answerer, wishes: Wishes) -> dict[str, Any]:
    name = shown_name(file)
    try:
        found = file.stat()
        # A named pipe would be waited for, and a device read, for ever; a folder says itself why.
        if not S_ISREG(found.st_mode) and not S_ISDIR(found.st_mode):
            raise OSError(errno.EINVAL, "it is neither a file nor a folder")
        answerer.decoders.require_size(found.st_size)
        content = file.read_bytes()
    except VideoError as error:
        return {"file": name, **answerer.refusal(f"{error.reason}: {error.detail}", wishes)}
    # The second one: there is a null character in its name.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return {"file": name, **answerer.refusal(f"unreadable: {reason}", wishes)}
    return {"file": name, **answerer.answer(content, wishes)}


def shown_name(file: Path) -> str:
    r"""The name of a file as every format can hold it: what is no UTF-8 as `\xe9`."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")
