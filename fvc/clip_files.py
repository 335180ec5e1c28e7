"""Clip tensors on disk: one uint8 tensor a file, stamped with what it was made from.

Workers write these files, and torch takes seconds to import: they are written and
read here without it.
"""

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from fvc.errors import FvcError
from fvc.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor file that a worker has to make."""

    source: Path
    """What it is made of."""
    target: Path
    key: str
    """Goes into its stamp."""


class Stamp(NamedTuple):
    """What a tensor file says of itself, readable without its pixels."""

    key: str
    """What the pixels depend on: another key means other pixels."""
    num_clips: int
    """The length of the tensor's first axis."""
    remark: str | None = None
    """How the pixels were come by, where that was not the usual way."""
    content: tuple[int, int, int, int] | None = None
    """Where the picture lies between black bars, where that is known: top, left, height and width
    in pixels. What is explained of a clip is mapped back to the video by it."""


def save_clips(
    target: Path,
    pixels: UInt8[np.ndarray, "N T C H W"],
    key: str,
    *,
    remark: str | None = None,
    content: tuple[int, int, int, int] | None = None,
) -> None:
    """Write a tensor and its stamp, atomically; equal arguments give equal bytes.

    The file is one that `torch.load` opens, `mmap=True` and `weights_only=True`
    included, with the stamp as the zip comment.

    Source:
        torch's `docs/source/notes/serialization.rst` for the records of the zip
        file; the pickle in it is what `torch.save` gives for such a tensor.
    """
    pixels = np.ascontiguousarray(pixels)
    records: dict[str, bytes | memoryview] = {
        "data.pkl": _description(pixels.shape),
        "byteorder": b"little",
        "data/0": pixels.reshape(-1).data,
        "version": b"3\n",
    }
    stamp = Stamp(key, len(pixels), remark, content)
    with replacing(target) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, record in records.items():
            # ZipInfo's own date is fixed, and not the time of day.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), record)
        archive.comment = json.dumps(stamp._asdict()).encode()


def read_stamp(source: Path) -> Stamp | None:
    """The stamp of a tensor file, or None where the file is missing or damaged."""
    try:
        with zipfile.ZipFile(source) as archive:
            facts = json.loads(archive.comment)
        content = facts.pop("content")
        return Stamp(**facts, content=content and tuple(content))
    except (FileNotFoundError, zipfile.BadZipFile, ValueError, TypeError, KeyError):
        return None


def read_key(source: Path) -> str | None:
    """The key of a tensor file, or None where the file is missing or damaged."""
    stamp = read_stamp(source)
    return stamp and stamp.key


def require_key(source: Path, stage: str) -> str:
    """The key of a tensor file.

    Args:
        source: Written by `save_clips`.
        stage: The one whose output it is, named in errors.

    Raises:
        FvcError: The file is missing or damaged.
    """
    stamp = read_stamp(source)
    if stamp is None:
        raise (_damaged if source.exists() else _missing)(source, stage)
    return stamp.key


def load_clips(source: Path, stage: str) -> "UInt8[Tensor, 'N T C H W']":
    """Map a tensor file into memory; pages are read when they are used.

    Args:
        source: Written by `save_clips`.
        stage: The one whose output it is, named in errors.

    Raises:
        FvcError: The file is missing or damaged.
    """
    import torch

    try:
        return torch.load(source, mmap=True, weights_only=True)
    except FileNotFoundError:
        raise _missing(source, stage) from None
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise _damaged(source, stage) from error


def read_pixels(source: Path, stage: str) -> UInt8[np.ndarray, "N T C H W"]:
    """Read a tensor file into an array.

    Args:
        source: Written by `save_clips`.
        stage: The one whose output it is, named in errors.

    Raises:
        FvcError: The file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            description = io.BytesIO(archive.read("archive/data.pkl"))
            shape = _ShapeReader(description).load()
            data = archive.read("archive/data/0")
        return np.frombuffer(data, np.uint8).reshape(shape)
    except FileNotFoundError:
        raise _missing(source, stage) from None
    except (zipfile.BadZipFile, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise _damaged(source, stage) from error


def remove_others(folder: Path, video_ids: Container[str]) -> None:
    """Remove the files of all other videos, and what a killed process left; make the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.suffix != ".pt" or file.stem not in video_ids:
            file.unlink()


def _description(shape: tuple[int, ...]) -> bytes:
    """The pickle by which torch describes a contiguous uint8 tensor (protocol 2)."""
    size = math.prod(shape)
    strides = [size // math.prod(shape[: axis + 1]) for axis in range(len(shape))]
    storage = _tuple(
        _text("storage"), b"ctorch\nByteStorage\n", _text("0"), _text("cpu"), _number(size)
    )
    arguments = _tuple(
        storage + pickle.BINPERSID,
        _number(0),
        _tuple(*map(_number, shape)),
        _tuple(*map(_number, strides)),
        pickle.NEWFALSE,
        b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE,
    )
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return pickle.PROTO + b"\x02" + rebuild + arguments + pickle.REDUCE + pickle.STOP


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def _number(value: int) -> bytes:
    """As an opcode: a pickle of it without its first two bytes (protocol) and its last (end)."""
    return pickle.dumps(value, 2)[2:-1]


class _ShapeReader(pickle.Unpickler):
    """Reads the shape from torch's description of a contiguous tensor; runs nothing of torch."""

    KNOWN = {  # noqa: RUF012  the base class leaves no room for a class variable's type
        ("torch._utils", "_rebuild_tensor_v2"): lambda _storage, _offset, shape, *_: shape,
        ("torch", "ByteStorage"): None,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a uint8 tensor")
        return self.KNOWN[module, name]

    def persistent_load(self, _: Any) -> None:
        return None


def _missing(source: Path, stage: str) -> FvcError:
    return FvcError(source, "is missing", f"Run 'dvc repro {stage}'")


def _damaged(source: Path, stage: str) -> FvcError:
    return FvcError(source, "is damaged", f"Delete it and run 'dvc repro {stage}'")
