import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fvc.errors import FvcError
from fvc.training.checkpoint import (
    Position,
    load_best_weights,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def save(
    folder: Path, epochs: int, best_epoch: int | None, binding: str = "b", steps: int = 0
) -> None:
    save_checkpoint(
        folder,
        binding,
        Position(epochs, steps),
        {"history": [0.1] * epochs, "tensor": torch.full((50,), float(epochs))},
        best_epoch=best_epoch,
        weights={"weight": torch.full((3,), float(epochs))},
    )


def loaded_epochs(folder: Path, binding: str = "b") -> int | None:
    state = load_checkpoint(folder, binding)
    return None if state is None else int(state["tensor"][0])


def best_value(folder: Path) -> int:
    return int(load_best_weights(folder, "b")["weight"][0])


def damage(source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 1
    source.write_bytes(content)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, 1, 0)
    state = load_checkpoint(tmp_path, "b")
    assert state is not None
    assert state["history"] == [0.1]
    assert torch.equal(state["tensor"], torch.ones(50))


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "absent", "b") is None
    with pytest.raises(FvcError, match="holds no checkpoint"):
        newest_checkpoint(tmp_path, "b")


def test_the_last_two_and_their_best_weights_are_kept(tmp_path: Path) -> None:
    for epochs, best_epoch in enumerate([0, 1, 1, 1, 4], 1):
        save(tmp_path, epochs, best_epoch)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "best-0001.pt",
        "best-0004.pt",
        "checkpoints.json",
        "epoch-0004-step-000000.pt",
        "epoch-0005-step-000000.pt",
    ]
    assert newest_checkpoint(tmp_path, "b") == tmp_path / "epoch-0005-step-000000.pt"
    assert best_value(tmp_path) == 5


def test_within_an_epoch_the_best_weights_stay_those_of_whole_epochs(tmp_path: Path) -> None:
    save(tmp_path, 0, None, steps=3)
    with pytest.raises(FvcError, match="holds no weights: no epoch has ended"):
        load_best_weights(tmp_path, "b")
    save(tmp_path, 1, 0)
    for steps in (2, 4, 6):
        save(tmp_path, 1, 0, steps=steps)
    assert newest_checkpoint(tmp_path, "b").name == "epoch-0001-step-000006.pt"
    assert best_value(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [
        "best-0000.pt",
        "epoch-0001-step-000004.pt",
        "epoch-0001-step-000006.pt",
    ]


def test_a_position_reached_again_is_written_anew(tmp_path: Path) -> None:
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 0, steps=5)
    damage(tmp_path / "epoch-0001-step-000005.pt")
    save(tmp_path, 1, 0, steps=2)
    assert newest_checkpoint(tmp_path, "b").name == "epoch-0001-step-000002.pt"
    assert not (tmp_path / "epoch-0001-step-000005.pt").exists()


def test_best_weights_are_written_once(tmp_path: Path) -> None:
    save(tmp_path, 1, 0)
    written = (tmp_path / "best-0000.pt").stat().st_mtime_ns
    save(tmp_path, 2, 0)
    save(tmp_path, 3, 0)
    assert (tmp_path / "best-0000.pt").stat().st_mtime_ns == written
    assert best_value(tmp_path) == 1


@pytest.mark.parametrize("name", ["epoch-0003-step-000000.pt", "best-0002.pt"])
@pytest.mark.parametrize("harm", [damage, Path.unlink])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, name: str, harm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in (1, 2, 3):
        save(tmp_path, epochs, epochs - 1)
    harm(tmp_path / name)
    assert loaded_epochs(tmp_path) == 2
    assert f"{name} is damaged" in caplog.text
    save(tmp_path, 3, 1)
    assert (loaded_epochs(tmp_path), best_value(tmp_path)) == (3, 2)


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for epochs in (1, 2):
        save(tmp_path, epochs, 0)
    damage(tmp_path / "best-0000.pt")
    assert load_checkpoint(tmp_path, "b") is None
    with pytest.raises(FvcError, match="holds no checkpoint"):
        load_best_weights(tmp_path, "b")


def test_best_weights_damaged_since_they_were_found_are_named(tmp_path: Path) -> None:
    save(tmp_path, 1, 0)
    damage(tmp_path / "best-0000.pt")
    with pytest.raises(FvcError, match=r"best-0000\.pt: is damaged"):
        load_best_weights(tmp_path, "b")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\x00", b"7"])
def test_a_damaged_list_of_checkpoints_is_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1, 0)
    (tmp_path / "checkpoints.json").write_bytes(content)
    assert load_checkpoint(tmp_path, "b") is None
    assert "checkpoints.json is damaged" in caplog.text


def test_a_damaged_checkpoint_is_not_kept_in_place_of_a_good_one(tmp_path: Path) -> None:
    for steps in (1, 2):
        save(tmp_path, 0, None, steps=steps)
    damage(tmp_path / "epoch-0000-step-000002.pt")
    assert load_checkpoint(tmp_path, "b") is not None
    save(tmp_path, 0, None, steps=3)
    damage(tmp_path / "epoch-0000-step-000003.pt")
    assert load_checkpoint(tmp_path, "b") is not None, "the good one was thrown away"


def test_another_binding_is_never_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for epochs in (1, 2, 3):
        save(tmp_path, epochs, epochs - 1)
    assert loaded_epochs(tmp_path, "other") is None
    assert "starting anew" in caplog.text
    save(tmp_path, 1, 0, "other")
    assert loaded_epochs(tmp_path, "other") == 1
    assert len(list(tmp_path.glob("epoch-*.pt"))) == 1, "stale checkpoints fill the disk"


def test_best_weights_must_have_been_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the weights of epoch 1 were never saved"):
        save(tmp_path, 3, 1)


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("first", "second/deeper"):
        save(tmp_path / name, 2, 1)
    for file in ("epoch-0002-step-000000.pt", "best-0001.pt", "checkpoints.json"):
        contents = {(tmp_path / name / file).read_bytes() for name in ("first", "second/deeper")}
        assert len(contents) == 1


@pytest.mark.parametrize("survived", range(3))
def test_killed_while_saving_the_epoch_before_remains(
    tmp_path: Path, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 0)
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
            save(tmp_path, 2, 1)
    assert (loaded_epochs(tmp_path), best_value(tmp_path)) == (1, 1)
    save(tmp_path, 2, 1)
    assert (loaded_epochs(tmp_path), best_value(tmp_path)) == (2, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-0000.pt",
        "best-0001.pt",
        "checkpoints.json",
        "epoch-0001-step-000000.pt",
        "epoch-0002-step-000000.pt",
    ]


FULL = """
import resource, sys
from pathlib import Path
import torch
from fvc.training.checkpoint import Position, load_checkpoint, save_checkpoint

def save(epochs, values):
    state = {"tensor": torch.full((values,), float(epochs))}
    save_checkpoint(Path(sys.argv[1]), "b", Position(epochs, 0), state, best_epoch=0, weights={})

save(1, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save(2, 1_000_000)
except Exception as error:
    print(type(error).__name__, error)
print(load_checkpoint(Path(sys.argv[1]), "b")["tensor"][0].item())
"""


def test_a_disk_without_room_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    error, value = ran.stdout.splitlines()
    assert error.startswith("FvcError ")
    assert "epoch-0002-step-000000.pt: cannot be written (File too large). Free space" in error
    assert value == "1.0"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("best-0000.pt", "checkpoints.json", "epoch-0001-step-000000.pt"),
    ], "what was half written is left behind"
