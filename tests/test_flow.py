"""Optical flow of clips: what it finds, how it is kept, and the stage that keeps it."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from test_augment import PARTS, Workspace

from fvc.clip_files import read_pixels, save_clips
from fvc.config import Params, load_params
from fvc.errors import FvcError
from fvc.flow import LARGEST_PX, STEPS, STILL, as_bytes, clip_flow, in_pixels
from fvc.stages import flow as stage

COMMITTED = load_params(Path(__file__).parents[1] / "params.yaml")
SEEN = replace(COMMITTED, model=replace(COMMITTED.model, network="two_stream"))


def texture(side: int, seed: int = 0) -> UInt8[np.ndarray, "H W"]:
    """A grey picture with something to follow everywhere."""
    noise = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    return np.asarray(cv2.normalize(smooth, smooth, 0, 255, cv2.NORM_MINMAX))


def coloured(*frames: np.ndarray) -> UInt8[np.ndarray, "T 3 H W"]:
    """Grey frames as a clip."""
    return np.stack([np.stack([frame] * 3) for frame in frames])


def inside(flow: np.ndarray) -> np.ndarray:
    """Away from the edges, beyond which nothing is known."""
    edge = max(4, flow.shape[-1] // 8)
    return flow[..., edge:-edge, edge:-edge]


@pytest.mark.parametrize("side", [32, 64, 224])
@pytest.mark.parametrize(("right", "down"), [(1, 0), (-3, 2), (0, 5), (2, -4)])
def test_what_moves_is_followed_with_its_sign(side: int, right: int, down: int) -> None:
    picture, corner = texture(side + 20), 10
    first = picture[corner : corner + side, corner : corner + side]
    second = picture[corner - down :, corner - right :][:side, :side]
    found = inside(in_pixels(clip_flow(coloured(first, second))[0]))
    assert np.median(found[0]) == pytest.approx(right, abs=0.1)
    assert np.median(found[1]) == pytest.approx(down, abs=0.1)
    assert np.abs(found - np.array([right, down])[:, None, None]).mean() < 0.1


def test_a_smooth_warp_is_found_to_a_tenth_of_a_pixel() -> None:
    side = 224
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    right = 2 * np.sin(2 * np.pi * rows / side, dtype=np.float32)
    down = 1.5 * np.cos(2 * np.pi * columns / (0.8 * side), dtype=np.float32)
    second = texture(side)
    # What is at x in the first frame is at x plus the warp in the second one.
    first = cv2.remap(second, columns + right, rows + down, cv2.INTER_CUBIC)
    found = inside(in_pixels(clip_flow(coloured(first, second))[0]))
    wanted = inside(np.stack([right, down]))
    assert np.abs(found - wanted).mean() < 0.1
    assert np.abs(wanted).mean() > 0.9, "hardly anything moved, so being right proves nothing"


def test_what_stands_still_is_kept_exactly() -> None:
    assert (clip_flow(coloured(*[texture(64)] * 4)) == STILL).all()
    assert (clip_flow(np.zeros((3, 3, 64, 64), np.uint8)) == STILL).all()
    assert (clip_flow(np.full((3, 3, 64, 64), 255, np.uint8)) == STILL).all()


def test_what_is_covered_is_no_error_and_disturbs_nothing_far_away() -> None:
    picture = texture(140)
    first, second = picture[6:134, 6:134].copy(), picture[6:134, 4:132].copy()
    # Something comes from nowhere and covers a corner.
    second[:40, :40] = texture(40, seed=1)
    found = in_pixels(clip_flow(coloured(first, second))[0])
    away = found[:, 72:120, 72:120]
    assert np.median(away[0]) == pytest.approx(2, abs=0.1)
    assert np.median(away[1]) == pytest.approx(0, abs=0.1)


def test_each_frame_has_the_flow_to_the_next_and_the_last_one_that_before_it() -> None:
    picture = texture(84)
    clip = coloured(*(picture[10:74, 10 - x : 74 - x] for x in (0, 1, 4)))
    kept = clip_flow(clip)
    assert kept.shape == (3, 2, 64, 64)
    medians = [float(np.median(inside(in_pixels(frame))[0])) for frame in kept]
    assert medians == pytest.approx([1, 3, 3], abs=0.1)
    assert np.array_equal(kept[1], kept[2])
    assert np.array_equal(kept[:1], clip_flow(clip[:2])[:1]), "it depends on later frames"


def test_a_single_frame_stands_still() -> None:
    assert (clip_flow(coloured(texture(32))) == STILL).all()


@given(st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=50))
def test_bytes_keep_movements_to_half_a_step(moved: list[float]) -> None:
    flow = np.array(moved, np.float32)
    kept = as_bytes(flow)
    within = np.clip(flow, -LARGEST_PX, LARGEST_PX)
    assert np.abs(in_pixels(kept) - within).max() <= LARGEST_PX / STEPS / 2 + 1e-4
    assert np.array_equal(as_bytes(in_pixels(kept)), kept), "a second time, it is another one"
    assert (np.sign(in_pixels(kept)) * np.sign(flow) >= 0).all()


class FlowSpace(Workspace):
    """Clips and one stored version of each video that is trained on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.flow = root / "flow"
        self.write_clips("twitter_9", seed=9)
        for number, video_id in enumerate(("facebook_1", "youtube_a", "youtube_b")):
            self.write_version(video_id, seed=20 + number)

    def write_version(self, video_id: str, seed: int) -> None:
        pixels = np.random.default_rng(seed).integers(0, 256, (1, 4, 3, 32, 32), dtype=np.uint8)
        save_clips(self.augmented / f"{video_id}.pt", pixels, f"version of seed {seed}")

    def run(self, params: Params = SEEN) -> None:
        stage.run(
            params, clips=self.clips, folds=self.folds, augmented=self.augmented, flow=self.flow
        )

    def contents(self) -> dict[str, bytes]:
        return {file.stem: file.read_bytes() for file in sorted(self.flow.glob("*.pt"))}

    def times(self) -> dict[str, int]:
        return {file.stem: file.stat().st_mtime_ns for file in self.flow.glob("*.pt")}


@pytest.fixture
def workspace(tmp_path: Path) -> FlowSpace:
    return FlowSpace(tmp_path)


def test_clips_come_before_versions_and_the_locked_test_has_none(workspace: FlowSpace) -> None:
    workspace.run()
    assert set(workspace.contents()) == {*PARTS, "twitter_9"} - {"twitter_2"}
    for video_id, versions in (("youtube_a", 1), ("twitter_9", 0)):
        kept = read_pixels(workspace.flow / f"{video_id}.pt", "flow")
        assert kept.shape == (2 + versions, 4, 2, 32, 32)
        clips = read_pixels(workspace.clips / f"{video_id}.pt", "clips")
        for number, clip in enumerate(clips):
            assert np.array_equal(kept[number], clip_flow(clip))
        if versions:
            [version] = read_pixels(workspace.augmented / f"{video_id}.pt", "augment")
            assert np.array_equal(kept[2], clip_flow(version))


def test_only_what_changed_is_found_anew(workspace: FlowSpace) -> None:
    workspace.run()
    before = workspace.contents()
    for file in workspace.flow.iterdir():
        os.utime(file, ns=(0, 0))
    workspace.run()
    assert set(workspace.times().values()) == {0}, "nothing had changed"
    workspace.write_version("youtube_b", seed=30)
    workspace.write_clips("facebook_1", seed=31)
    workspace.run()
    anew = {name for name, time in workspace.times().items() if time}
    assert anew == {"youtube_b", "facebook_1"}
    assert workspace.contents()["youtube_a"] == before["youtube_a"]


def test_a_network_that_does_not_see_it_has_none(
    workspace: FlowSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.run()
    workspace.run(COMMITTED)
    assert [file.name for file in workspace.flow.iterdir()] == ["summary.json"]
    assert "network r3d_18 does not see the flow: nothing is stored" in capsys.readouterr().err


def test_missing_clips_are_named(workspace: FlowSpace) -> None:
    (workspace.clips / "youtube_a.pt").unlink()
    with pytest.raises(FvcError, match=r"youtube_a\.pt: is missing\. Run 'dvc repro clips'"):
        workspace.run()


def test_a_damaged_version_is_named(workspace: FlowSpace) -> None:
    (workspace.augmented / "youtube_b.pt").write_bytes(b"nothing")
    with pytest.raises(FvcError, match=r"youtube_b\.pt: is damaged.*dvc repro augment"):
        workspace.run()
