import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8

from fvc.clip_files import (
    Stamp,
    load_clips,
    read_key,
    read_pixels,
    read_stamp,
    remove_others,
    save_clips,
)
from fvc.errors import FvcError

KEY = "0123456789abcdef" * 4


@pytest.fixture
def pixels() -> UInt8[np.ndarray, "N T C H W"]:
    return np.random.default_rng(0).integers(0, 256, (2, 4, 3, 16, 24), dtype=np.uint8)


def test_a_tensor_and_its_key_come_back(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"]
) -> None:
    target = tmp_path / "folder" / "video.pt"
    save_clips(target, pixels, KEY)
    loaded = load_clips(target, "clips")
    assert loaded.dtype == torch.uint8
    assert np.array_equal(loaded.numpy(), pixels)
    assert np.array_equal(read_pixels(target, "clips"), pixels)
    assert read_stamp(target) == Stamp(KEY, num_clips=2, remark=None)
    facts: dict[str, Any] = {"remark": "decoded in sequence", "content": (3, 0, 10, 24)}
    save_clips(target, pixels, KEY, **facts)
    assert read_stamp(target) == Stamp(KEY, num_clips=2, **facts)


def test_the_file_is_a_plain_torch_file(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"]
) -> None:
    save_clips(tmp_path / "video.pt", pixels, KEY)
    assert np.array_equal(torch.load(tmp_path / "video.pt").numpy(), pixels)


@given(shape=st.tuples(*[st.integers(1, 3)] * 4, st.sampled_from([1, 255, 256, 65536])))
def test_the_file_describes_its_tensor_as_torch_does(shape: tuple[int, ...]) -> None:
    pixels = np.zeros(shape, np.uint8)
    theirs, folder = io.BytesIO(), TemporaryDirectory()
    torch.save(torch.from_numpy(pixels), theirs)
    with folder:
        save_clips(Path(folder.name) / "video.pt", pixels, KEY)
        ours = (Path(folder.name) / "video.pt").read_bytes()
    described = [
        zipfile.ZipFile(io.BytesIO(content)).read("archive/data.pkl")
        for content in (theirs.getvalue(), ours)
    ]
    assert pickletools.optimize(described[0]) == described[1]


def test_equal_tensors_give_equal_bytes_under_any_name(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"]
) -> None:
    save_clips(tmp_path / "a.pt", pixels, KEY)
    save_clips(tmp_path / "another.pt", pixels.copy(order="F"), KEY)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_view_is_stored_without_what_it_is_a_view_of(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"]
) -> None:
    save_clips(tmp_path / "view.pt", pixels[:1, ::2], KEY)
    assert np.array_equal(read_pixels(tmp_path / "view.pt", "clips"), pixels[:1, ::2])
    assert (tmp_path / "view.pt").stat().st_size < pixels.nbytes


def test_reading_a_key_does_not_read_the_pixels(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a record of the file is read")

    save_clips(tmp_path / "video.pt", pixels, KEY)
    for name in ("open", "read"):
        monkeypatch.setattr(zipfile.ZipFile, name, refuse)
    assert read_key(tmp_path / "video.pt") == KEY


@pytest.mark.parametrize("content", [b"", b"no zip file at all", None])
def test_a_missing_or_damaged_file_has_no_key(tmp_path: Path, content: bytes | None) -> None:
    target = tmp_path / "video.pt"
    if content is not None:
        target.write_bytes(content)
    assert read_key(target) is None
    for read in (load_clips, read_pixels):
        with pytest.raises(FvcError, match=r"video\.pt: is (missing|damaged).*dvc repro augment"):
            read(target, "augment")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_cut_short_is_damaged(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"], share: float
) -> None:
    target = tmp_path / "video.pt"
    save_clips(target, pixels, KEY)
    os.truncate(target, int(share * target.stat().st_size))
    assert read_key(target) is None
    for read in (load_clips, read_pixels):
        with pytest.raises(FvcError, match="is damaged"):
            read(target, "clips")


def test_changed_pixels_are_found_when_they_are_read(
    tmp_path: Path, pixels: UInt8[np.ndarray, "N T C H W"]
) -> None:
    target = tmp_path / "video.pt"
    save_clips(target, pixels, KEY)
    content = bytearray(target.read_bytes())
    place = content.index(pixels.tobytes()[:64])
    content[place] ^= 255
    target.write_bytes(content)
    with pytest.raises(FvcError, match="is damaged"):
        read_pixels(target, "clips")


def test_reading_pixels_runs_nothing_of_the_file(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(os.getcwd))
        archive.writestr("archive/data/0", b"")
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    with pytest.raises(FvcError, match="is damaged"):
        read_pixels(tmp_path / "evil.pt", "clips")


def test_only_the_files_of_the_named_videos_stay(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    remove_others(folder, {"kept"})
    assert folder.is_dir()
    for name in ("kept.pt", "stale.pt", ".kept.pt.partial"):
        (folder / name).touch()
    remove_others(folder, {"kept": KEY})
    assert [file.name for file in folder.iterdir()] == ["kept.pt"]
