import logging
import sys
import warnings
from collections.abc import Iterator
from logging import FileHandler
from pathlib import Path

import pytest
from test_progress import Terminal
from tqdm import tqdm

from fvc.errors import FvcError
from fvc.training.log import training_log

logger = logging.getLogger("fvc.somewhere")


@pytest.fixture(autouse=True)
def _python_shows_its_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


class Kept(list[str]):
    """What the log held each time it was kept."""

    def __call__(self, source: Path) -> None:
        self.append(source.read_text(encoding="utf-8"))


def test_ours_and_python_s_warnings_go_to_both_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept()
    with training_log(tmp_path / "new" / "train.log", "r1", kept):
        logger.info("epoch %d is done", 1)
        logger.warning("the loss explodes")
        logger.debug("nobody wants to know")
        warnings.warn("an old way", UserWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert shown.splitlines()[:2] == ["epoch 1 is done", "warning: the loss explodes"]
    assert "warning: " in shown.splitlines()[2]
    [text] = kept
    lines = text.splitlines()
    assert lines[0] == "MLflow run r1"
    assert lines[1].endswith(" INFO fvc.somewhere: epoch 1 is done")
    assert lines[2].endswith(" WARNING fvc.somewhere: the loss explodes")
    assert " WARNING py.warnings: " in lines[3]
    for place in (shown, text):
        assert "UserWarning: an old way" in place
        assert "nobody" not in place


def test_the_same_run_goes_on_and_another_one_begins_anew(tmp_path: Path) -> None:
    kept = Kept()
    for run_id, message in (("r1", "first"), ("r1", "second"), ("r2", "third")):
        with training_log(tmp_path / "train.log", run_id, kept):
            logger.info(message)
    assert [line.split()[-1] for line in kept[1].splitlines()] == ["r1", "first", "second"]
    assert [line.split()[-1] for line in kept[2].splitlines()] == ["r2", "third"]


def test_the_end_is_in_the_file_and_left_to_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept()
    for error in (FvcError("epoch 3", "diverged", "Go slower"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)),
            training_log(tmp_path / "train.log", "r1", kept),
        ):
            raise error
    assert "ERROR fvc.training.log: epoch 3: diverged. Go slower.\n" in kept[0]
    assert kept[1].endswith("ended by KeyboardInterrupt: \n")
    assert capsys.readouterr().err == ""


def on_a_full_disk(target: Path, end: Exception | None) -> None:
    """A training whose log has no room for what it says, and which ends of something else."""
    with Path("/dev/full").open("w", encoding="utf-8") as full, training_log(target, "r1", Kept()):
        [handler] = [
            each
            for each in logging.getLogger().handlers
            if isinstance(each, FileHandler) and each.baseFilename == str(target)
        ]
        before = handler.setStream(full)
        assert before is not None
        before.close()
        if end is not None:
            raise end
        logger.info("epoch 1 is done")
        raise AssertionError("nobody would know that the log has a gap")


def test_a_full_disk_ends_what_is_logged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        on_a_full_disk(tmp_path / "train.log", None)


def test_a_full_disk_does_not_hide_what_ended_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FvcError, match="diverged"):
        on_a_full_disk(tmp_path / "train.log", FvcError("epoch 3", "diverged", "Go slower"))
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith(f"warning: {tmp_path / 'train.log'} is not whole")
    assert said.endswith("No space left on device")


def test_afterwards_everything_is_as_before(tmp_path: Path) -> None:
    root, ours = logging.getLogger(), logging.getLogger("fvc")
    before = (list(root.handlers), ours.level, warnings.showwarning)
    with training_log(tmp_path / "train.log", "r1", Kept()):
        assert len(root.handlers) == len(before[0]) + 2
    assert (list(root.handlers), ours.level, warnings.showwarning) == before


def test_a_message_does_not_disturb_the_live_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with (
        training_log(tmp_path / "train.log", "r1", Kept()),
        tqdm(total=10, file=stream, bar_format="{n} of 10", leave=False) as bar,
    ):
        bar.update()
        bar.refresh()
        logger.info("a message")
        assert "\ra message\n\r1 of 10" in stream.getvalue().replace("\r       \r", "\r")
