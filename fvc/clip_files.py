"""Clip tensors on disk: one uint8 tensor a file, with a key that says what it was made from."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from fvc.errors import FvcError
from fvc.files import replacing

if TYPE_CHECKING:
    from torch import Tensor


def save_clips(target: Path, pixels: UInt8[np.ndarray, "N T C H W"], key: str) -> None:
    """Write a tensor and its key, atomically; equal arguments give equal bytes.

    The file is what `torch.save` writes, with the key as the zip comment. It
    is saved to memory first: torch would write a path's name into the file.
    """
    # Imported here: workers that only decode have no use for torch.
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(pixels)), buffer)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = key.encode()
    with replacing(target) as partial:
        partial.write_bytes(buffer.getbuffer())


def read_key(source: Path) -> str | None:
    """The key of a tensor file, or None where it is missing or damaged."""
    try:
        with zipfile.ZipFile(source) as archive:
            return archive.comment.decode()
    except (FileNotFoundError, zipfile.BadZipFile, UnicodeDecodeError):
        return None


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
    """Read a tensor file into an array without torch, which takes seconds to import.

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
