import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from source_tree import ROOT, reach_of

from fvc import probing
from fvc.config import load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.fingerprint import FRAME_BYTES
from fvc.probing import CODE, examine, keep, lost, recall, sight

CONFIG = load_params(ROOT / "params.yaml").index
FOUNDATIONS = {"errors.py", "files.py"}


def video_at(path: Path) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
    large = frames.repeat(16, axis=1).repeat(16, axis=2)
    encode(path, list(large), fps=10)
    return path


def test_a_video_is_described(tmp_path: Path) -> None:
    file = video_at(tmp_path / "video.mp4")
    found = examine(file, config=CONFIG, probes=tmp_path / "probes")
    assert found.info is not None
    assert (found.info.width, found.info.height, found.info.frames) == (128, 96, 10)
    assert found.size_bytes == file.stat().st_size
    assert len(found.fingerprint) == 2 * FRAME_BYTES, "one second at two frames per second"
    assert found.refusal is None


def test_a_file_that_is_no_video_is_refused_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    file.write_bytes(b"")
    found = examine(file, config=CONFIG, probes=tmp_path / "probes")
    assert found.info is None
    assert found.refusal is not None
    assert found.refusal[0] == "empty"


@pytest.mark.parametrize("content", ["video", "garbage"])
def test_what_was_kept_is_not_found_out_again(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, probes = tmp_path / "one.mp4", tmp_path / "probes"
    if content == "video":
        video_at(file)
    else:
        file.write_bytes(b"garbage" * 100)
    found = examine(file, config=CONFIG, probes=probes)
    keep(found, sight(tmp_path, "one.mp4"), config=CONFIG, probes=probes)
    moved = file.rename(tmp_path / "other.mp4")

    def refuse(_: object) -> None:
        raise AssertionError("the file was decoded again")

    monkeypatch.setattr(probing, "probe", refuse)
    unrelated = replace(CONFIG, timeout_s=1.0, min_frames=9, fingerprint_distance=3)
    assert examine(moved, config=unrelated, probes=probes) == found
    for other in (replace(CONFIG, fingerprint_fps=1.0), replace(CONFIG, fingerprint_max_frames=3)):
        with pytest.raises(AssertionError, match="decoded again"):
            examine(moved, config=other, probes=probes)
    moved.write_bytes(moved.read_bytes() + b"!")
    with pytest.raises(AssertionError, match="decoded again"):
        examine(moved, config=CONFIG, probes=probes)


def test_a_file_that_stays_as_it_was_is_recalled_without_reading_it(tmp_path: Path) -> None:
    file, probes = video_at(tmp_path / "one.mp4"), tmp_path / "probes"
    twin = Path(shutil.copy(file, tmp_path / "two.mp4"))
    found = examine(file, config=CONFIG, probes=probes)
    for name in ("one.mp4", "two.mp4"):
        keep(found, sight(tmp_path, name), config=CONFIG, probes=probes)
    known = recall(config=CONFIG, probes=probes)
    assert known == {sight(tmp_path, name): found for name in ("one.mp4", "two.mp4")}
    other = replace(CONFIG, fingerprint_fps=1.0)
    assert recall(config=other, probes=probes) == {}, "findings are taken for those of others"
    file.touch()
    assert sight(tmp_path, "one.mp4") not in known
    twin.chmod(0o444)
    assert sight(tmp_path, "two.mp4") in known, "what DVC does to files it tracks is taken for news"


def test_a_lost_file_is_tried_again_within_other_limits_only(tmp_path: Path) -> None:
    file, probes = video_at(tmp_path / "one.mp4"), tmp_path / "probes"
    sighting = sight(tmp_path, "one.mp4")
    loss = lost(file, "timeout", "took longer than 60 s")
    keep(loss, sighting, config=CONFIG, probes=probes)
    assert recall(config=CONFIG, probes=probes) == {sighting: loss}
    assert examine(file, config=CONFIG, probes=probes) == loss
    for more in (replace(CONFIG, timeout_s=90.0), replace(CONFIG, max_memory_mib=4096)):
        assert recall(config=more, probes=probes) == {}
        found = examine(file, config=more, probes=probes)
        assert found.info is not None, "a limit was raised and nothing was tried again"
        keep(found, sighting, config=more, probes=probes)
        assert recall(config=more, probes=probes) == {sighting: found}
        keep(loss, sighting, config=CONFIG, probes=probes)


def test_a_file_that_cannot_be_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"gone\.mp4: cannot be read \(No such file"):
        examine(tmp_path / "gone.mp4", config=CONFIG, probes=tmp_path)


def test_all_code_behind_a_result_is_in_its_key() -> None:
    package = ROOT / "fvc"
    reached = {path.relative_to(package).as_posix() for path in reach_of(package / "probing.py")}
    settings = {name for name in reached if name.startswith("config/")}
    behind = reached - settings - FOUNDATIONS
    assert set(CODE) == behind, "findings of older code would be taken for new"
