"""Files that are whole or absent: every artefact is written through this module."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fvc.errors import FvcError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that takes its place when the block ends.

    The folder is made if need be. If the block raises, the temporary file is
    removed and `target` stays as it was. A file left by a killed process has
    a name that starts with a dot and ends in `.partial`; it is overwritten by
    the next attempt at the same target.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` with sorted keys, so that equal values give equal bytes.

    Raises:
        ValueError: A number is not finite; JSON has no name for it.
    """
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with replacing(target) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def read_json(source: Path, stage: str) -> Any:
    """Read what `write_json` wrote; `stage` is the one whose output it is.

    Raises:
        FvcError: The file is missing or is no JSON.
    """
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FvcError(source, "is missing", f"Run 'dvc repro {stage}'") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        remedy = f"Delete it and run 'dvc repro {stage}'"
        raise FvcError(source, f"is no JSON ({error})", remedy) from error


def sha256_of_file(source: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes, read in blocks."""
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_code(names: Iterable[str]) -> list[str]:
    """The digests of our own modules, or of all in one of our folders, by their paths in fvc/."""
    sources = [Path(__file__).parent / name for name in names]
    modules = [sorted(each.rglob("*.py")) if each.is_dir() else [each] for each in sources]
    return [sha256_of_file(module) for each in modules for module in each]


def sha256_of(value: Any) -> str:
    """The hexadecimal SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
