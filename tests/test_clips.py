import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from running_here import watched
from settings import clips_config

from fvc.clip_files import Job, load_clips, read_stamp
from fvc.config import Params, load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.pool import Failure
from fvc.records import INDEX
from fvc.stages import clips as stage
from fvc.video import read_clips

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml")
CLIPS = clips_config(2, 4, 32)
PARAMS = replace(COMMITTED, clips=CLIPS)
VIDEO_IDS = ("facebook_1", "twitter_2", "youtube_a", "youtube_b")


class Workspace:
    """Some small videos with their index, and where the stage writes."""

    def __init__(self, root: Path) -> None:
        self.videos, self.clips = root / "videos", root / "clips"
        self.index, self.summary = root / "index.parquet", root / "clips.json"
        for number, video_id in enumerate(VIDEO_IDS):
            self.write_video(video_id, seed=number)
        self.write_index()

    def write_video(self, video_id: str, seed: int) -> None:
        noise = np.random.default_rng(seed).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
        encode(self.videos / video_id / "video.mp4", list(noise))

    def write_index(self, video_ids: tuple[str, ...] = VIDEO_IDS) -> None:
        empty: dict[str, object] = dict.fromkeys(INDEX.columns)
        rows: list[dict[str, object]] = [
            empty
            | {
                "video_id": video_id,
                "path": f"{video_id}/video.mp4",
                "label": "real" if number % 2 else "fake",
                "sha256": sha256_of_file(self.videos / video_id / "video.mp4"),
            }
            for number, video_id in enumerate(video_ids)
        ]
        INDEX.write(self.index, INDEX.frame(rows))

    def run(self, params: Params = PARAMS) -> None:
        stage.run(
            params, videos=self.videos, index=self.index, clips=self.clips, summary=self.summary
        )

    def written(self) -> dict[str, tuple[bytes, int]]:
        files = [*self.clips.iterdir(), self.summary]
        return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the videos that were decoded, one after the other in this process."""
    return watched(monkeypatch, stage)


def test_every_video_of_the_index_gets_its_clips(workspace: Workspace) -> None:
    workspace.run()
    assert sorted(file.stem for file in workspace.clips.iterdir()) == list(VIDEO_IDS)
    for video_id in VIDEO_IDS:
        stored = load_clips(workspace.clips / f"{video_id}.pt", "clips")
        fresh = read_clips(workspace.videos / video_id / "video.mp4", CLIPS)
        assert np.array_equal(stored.numpy(), fresh.pixels), "training and serving would differ"
        stamp = read_stamp(workspace.clips / f"{video_id}.pt")
        # Of 64 x 48 pixels, letterboxed.
        assert stamp is not None
        assert stamp.content == fresh.content == (4, 0, 24, 32)


def test_the_summary_counts_and_names_the_data(workspace: Workspace, decoded: list[str]) -> None:
    workspace.run()
    first = json.loads(workspace.summary.read_text())
    assert first["videos"] == len(decoded) == 4
    assert first["clips"] == 8
    assert first["frames_per_clip"] == 4
    assert first["side_px"] == 32
    assert first["fit"] == "letterbox"
    assert first["decoded_in_sequence"] == {}
    workspace.run(replace(PARAMS, clips=replace(CLIPS, num_frames=2)))
    assert json.loads(workspace.summary.read_text())["data_sha256"] == first["data_sha256"]
    workspace.write_index(VIDEO_IDS[1:])
    workspace.run()
    assert json.loads(workspace.summary.read_text())["data_sha256"] != first["data_sha256"]


def test_a_label_is_part_of_the_data() -> None:
    frame = pl.DataFrame({"video_id": ["a", "b"], "sha256": ["1", "2"], "label": ["real", "fake"]})
    changed = frame.with_columns(label=pl.lit("real"))
    summaries = [stage.summarise(table, CLIPS, {}) for table in (frame, changed, frame.reverse())]
    assert summaries[0] != summaries[1]
    assert summaries[0] == summaries[2], "the order of the rows names other data"


def test_a_second_run_decodes_nothing(workspace: Workspace, decoded: list[str]) -> None:
    workspace.run()
    before = workspace.written()
    decoded.clear()
    workspace.run()
    assert decoded == []
    after = workspace.written()
    assert {name: content for name, (content, _) in before.items()} == {
        name: content for name, (content, _) in after.items()
    }
    tensors = [name for name in before if name.endswith(".pt")]
    assert all(before[name] == after[name] for name in tensors), "a file is written again"


def test_two_runs_from_scratch_give_equal_bytes(tmp_path: Path, decoded: list[str]) -> None:
    first, second = Workspace(tmp_path / "a"), Workspace(tmp_path / "b")
    for workspace in (first, second):
        workspace.run()
    assert len(decoded) == 8
    contents = [
        {name: content for name, (content, _) in workspace.written().items()}
        for workspace in (first, second)
    ]
    assert contents[0] == contents[1]


def test_only_what_changed_is_decoded_again(workspace: Workspace, decoded: list[str]) -> None:
    workspace.run()
    decoded.clear()
    workspace.write_video("youtube_a", seed=99)
    workspace.write_index()
    workspace.run()
    assert decoded == ["youtube_a"]
    fresh = read_clips(workspace.videos / "youtube_a" / "video.mp4", CLIPS)
    stored = load_clips(workspace.clips / "youtube_a.pt", "clips")
    assert np.array_equal(stored.numpy(), fresh.pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"num_clips": 1},
        {"num_frames": 2},
        {"side_px": 16},
        {"sampling": "segment"},
        {"fit": "native"},
        {"views": "rolling"},
    ],
)
def test_what_shapes_the_pixels_makes_all_anew(
    workspace: Workspace, decoded: list[str], change: Mapping[str, Any]
) -> None:
    workspace.run()
    workspace.run(replace(PARAMS, clips=replace(CLIPS, **change)))
    assert len(decoded) == 8


@pytest.mark.parametrize("change", [{"timeout_s": 120.0}, {"window_s": 1.0}, {"stride_s": 1.0}])
def test_what_equal_spans_do_not_read_decodes_nothing(
    workspace: Workspace, decoded: list[str], change: Mapping[str, Any]
) -> None:
    workspace.run()
    workspace.run(replace(PARAMS, clips=replace(CLIPS, **change)))
    assert len(decoded) == 4


def test_what_had_to_be_decoded_in_sequence_is_counted(workspace: Workspace) -> None:
    # AVI stores when a frame is decoded, not when it appears.
    video = workspace.videos / "youtube_a" / "video.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    options = {"bf": "2", "g": "10"}
    encode(video, list(frames), codec="libx264", container="avi", options=options)
    workspace.write_index()
    excuse = "nothing tells the order of appearance"
    for _ in range(2):
        workspace.run()
        counted = json.loads(workspace.summary.read_text())["decoded_in_sequence"]
        assert counted == {excuse: 1}, "the count depends on what was there already"


def test_workers_import_no_torch() -> None:
    code = "import sys; import fvc.stages.clips, fvc.stages.augment; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n", "every worker would take seconds to start"


def test_stale_and_damaged_files_are_replaced(workspace: Workspace, decoded: list[str]) -> None:
    workspace.run()
    decoded.clear()
    (workspace.clips / ".youtube_a.pt.partial").write_bytes(b"left by a killed run")
    os.truncate(workspace.clips / "youtube_b.pt", 100)
    workspace.write_index(VIDEO_IDS[1:])
    workspace.run()
    assert decoded == ["youtube_b"]
    assert sorted(file.name for file in workspace.clips.iterdir()) == [
        f"{video_id}.pt" for video_id in VIDEO_IDS[1:]
    ]


def test_what_cannot_be_decoded_ends_the_stage_after_all_others(workspace: Workspace) -> None:
    broken = workspace.videos / "twitter_2" / "video.mp4"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(FvcError, match=r"1 of 4 videos.*twitter_2 \(truncated") as caught:
        workspace.run()
    assert "clips.timeout_s" in str(caught.value)
    assert sorted(file.stem for file in workspace.clips.iterdir()) == [
        video_id for video_id in VIDEO_IDS if video_id != "twitter_2"
    ]
    assert not workspace.summary.exists()


def test_a_video_that_takes_too_long_is_named(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_on_first(
        function: Callable[[Job], object],
        items: list[Job],
        *,
        timeout_s: float,
        **_: object,
    ) -> list[tuple[Job, object]]:
        failure = Failure("timeout", f"took longer than {timeout_s:g} s")
        return [(items[0], failure), *((item, function(item)) for item in items[1:])]

    monkeypatch.setattr(stage, "run_isolated", hang_on_first)
    with pytest.raises(FvcError, match=r"1 of 4 videos.*facebook_1 \(timeout: took .* 60 s\)"):
        workspace.run()
    assert len(list(workspace.clips.iterdir())) == 3


def test_a_missing_video_is_named(workspace: Workspace) -> None:
    (workspace.videos / "youtube_a" / "video.mp4").unlink()
    with pytest.raises(FvcError, match=r"youtube_a/video\.mp4: is missing.*dvc repro extract"):
        workspace.run()


def test_killed_and_started_again_it_gives_the_same(tmp_path: Path) -> None:
    killed, whole = Workspace(tmp_path / "killed"), Workspace(tmp_path / "whole")
    flags = ["videos", "index", "clips", "summary"]
    arguments = [word for name in flags for word in (f"--{name}", str(getattr(killed, name)))]
    params = tmp_path / "params.yaml"
    text = (Path(__file__).parents[1] / "params.yaml").read_text()
    params.write_text(
        text.replace("num_clips: 1", "num_clips: 2")
        .replace("num_frames: 8", "num_frames: 4")
        .replace("side_px: 64", "side_px: 32")
    )
    code = "import sys; from fvc.stages.clips import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--params", str(params), *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not any(killed.clips.glob("*.pt")):
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert any(killed.clips.glob("*.pt"))
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    whole.run()
    contents = [
        {name: content for name, (content, _) in workspace.written().items()}
        for workspace in (killed, whole)
    ]
    assert contents[0] == contents[1]
