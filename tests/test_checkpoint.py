from pathlib import Path
from typing import Any

import pytest
import torch

from fvc.checkpoint import (
    load_best_weights,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from fvc.errors import FvcError


def save(folder: Path, epoch: int, best_epoch: int, binding: str = "b") -> None:
    save_checkpoint(
        folder,
        binding,
        epoch=epoch,
        state={"history": [0.1] * epoch, "tensor": torch.full((50,), float(epoch))},
        best_epoch=best_epoch,
        weights={"weight": torch.full((3,), float(epoch))},
    )


def loaded_epoch(folder: Path, binding: str = "b") -> int | None:
    state = load_checkpoint(folder, binding)
    return None if state is None else int(state["tensor"][0])


def best_value(folder: Path) -> int:
    return int(load_best_weights(folder, "b")["weight"][0])


def damage(source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    source.write_bytes(content)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 0, 0)
    state = load_checkpoint(tmp_path, "b")
    assert state is not None
    assert state["history"] == []
    assert torch.equal(state["tensor"], torch.zeros(50))


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "absent", "b") is None
    with pytest.raises(FvcError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path, "b")


def test_the_last_two_and_their_best_weights_are_kept(tmp_path: Path) -> None:
    for epoch, best_epoch in enumerate([0, 1, 1, 1, 4]):
        save(tmp_path, epoch, best_epoch)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best-0001.pt",
        "best-0004.pt",
        "checkpoints.json",
        "epoch-0003.pt",
        "epoch-0004.pt",
    ]
    assert newest_checkpoint(tmp_path, "b") == tmp_path / "epoch-0004.pt"
    assert best_value(tmp_path) == 4


def test_best_weights_are_written_once(tmp_path: Path) -> None:
    save(tmp_path, 0, 0)
    written = (tmp_path / "best-0000.pt").stat().st_mtime_ns
    save(tmp_path, 1, 0)
    save(tmp_path, 2, 0)
    assert (tmp_path / "best-0000.pt").stat().st_mtime_ns == written
    assert best_value(tmp_path) == 0


@pytest.mark.parametrize("name", ["epoch-0002.pt", "best-0002.pt"])
@pytest.mark.parametrize("harm", [damage, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, name: str, harm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in range(3):
        save(tmp_path, epoch, epoch)
    harm(tmp_path / name)
    assert loaded_epoch(tmp_path) == 1
    assert f"{name}: damaged" in capsys.readouterr().err
    save(tmp_path, 2, 1)
    assert (loaded_epoch(tmp_path), best_value(tmp_path)) == (2, 1)


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for epoch in range(2):
        save(tmp_path, epoch, 0)
    damage(tmp_path / "best-0000.pt")
    assert load_checkpoint(tmp_path, "b") is None
    with pytest.raises(FvcError, match=r"best-0000\.pt: is damaged"):
        load_best_weights(tmp_path, "b")


def test_a_damaged_list_of_checkpoints_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 0, 0)
    (tmp_path / "checkpoints.json").write_text("{")
    assert load_checkpoint(tmp_path, "b") is None
    assert "checkpoints.json: damaged" in capsys.readouterr().err


def test_another_binding_is_never_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for epoch in range(3):
        save(tmp_path, epoch, epoch)
    assert loaded_epoch(tmp_path, "other") is None
    assert "starting anew" in capsys.readouterr().err
    save(tmp_path, 0, 0, "other")
    assert loaded_epoch(tmp_path, "other") == 0
    assert len(list(tmp_path.glob("epoch-*.pt"))) == 1, "stale checkpoints fill the disk"


def test_best_weights_must_have_been_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the weights of epoch 1 were never saved"):
        save(tmp_path, 2, 1)


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second/deeper"):
        save(tmp_path / name, 1, 1)
    for file in ("epoch-0001.pt", "best-0001.pt", "checkpoints.json"):
        contents = {(tmp_path / name / file).read_bytes() for name in ("first", "second/deeper")}
        assert len(contents) == 1


@pytest.mark.parametrize("survived", range(3))
def test_killed_while_saving_the_epoch_before_remains(
    tmp_path: Path, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 0, 0)
    replace = Path.replace
    calls: list[Path] = []

    def dying(source: Path, target: Path) -> Path:
        if len(calls) == survived:
            raise KeyboardInterrupt
        calls.append(target)
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 1, 1)
    assert (loaded_epoch(tmp_path), best_value(tmp_path)) == (0, 0)
    save(tmp_path, 1, 1)
    assert (loaded_epoch(tmp_path), best_value(tmp_path)) == (1, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-0000.pt",
        "best-0001.pt",
        "checkpoints.json",
        "epoch-0000.pt",
        "epoch-0001.pt",
    ]
