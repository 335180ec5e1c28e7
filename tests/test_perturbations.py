from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from augmentation import textured_clip
from barcodes import barcode_video, barcodes, numbers_shown, read_barcode
from jaxtyping import UInt8
from settings import clips_config

from fvc import video
from fvc.config import ClipsConfig
from fvc.encoding import encode
from fvc.evidence import perturbations
from fvc.evidence.perturbations import AROUND, REENCODED, clips_of_versions, version_names
from fvc.video import Excerpt, VideoError, read_clips, read_excerpt
from fvc.video.decoding import PlanFailedError

CONFIG = clips_config(2, 5, 64)
UNEVEN_S = [round(number / 25 + (number % 3) / 200, 3) for number in range(120)]


def write(folder: Path, num_frames: int = 120, **settings: Any) -> Path:
    target = folder / "video.mp4"
    target.write_bytes(barcode_video(num_frames, **settings).getvalue())
    return target


def shown(pixels: UInt8[np.ndarray, "N T C H W"]) -> list[list[int]]:
    return [[read_barcode(image) for image in clip] for clip in pixels]


def numbers_in(source: Path, config: ClipsConfig | None, around: int) -> Sequence[int]:
    def use(excerpt: Excerpt) -> Sequence[int]:
        assert len(list(excerpt.frames)) == len(excerpt.numbers) == len(excerpt.times_s) - 1
        return excerpt.numbers

    return read_excerpt(source, config, around, use)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"times_s": UNEVEN_S},
        {"rotation_deg": 90},
        {"fps": 60},
        {"container": "mkv", "codec": "mpeg4"},
        {"container": "mpegts"},
    ],
    ids=["plain", "uneven", "rotated", "fast", "mpeg4", "transport"],
)
@pytest.mark.parametrize("views", ["spans", "rolling"])
def test_an_excerpt_shows_what_the_whole_video_shows(
    tmp_path: Path, settings: dict[str, Any], views: str
) -> None:
    config = clips_config(2, 5, 64, views=views, window_s=1.5, stride_s=1.0)
    source = write(tmp_path, **settings)
    versions = clips_of_versions(source, config)
    whole = read_clips(source, config)
    assert shown(versions[REENCODED]) == numbers_shown(whole)
    assert np.abs(versions[REENCODED].astype(int) - whole.pixels).mean() < 3
    for name in ("recompression_28", "recompression_35", "downscale_2"):
        assert shown(versions[name]) == numbers_shown(whole), name


def test_every_version_has_clips_of_one_shape(tmp_path: Path) -> None:
    versions = clips_of_versions(write(tmp_path), CONFIG)
    assert list(versions) == version_names()
    assert {pixels.shape for pixels in versions.values()} == {(2, 5, 3, 64, 64)}


def test_harder_compression_and_scaling_lose_more(tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    encode(source, textured_clip(30, 256, 256).transpose(0, 2, 3, 1), options={"crf": "5"})
    whole = read_clips(source, CONFIG).pixels.astype(int)
    loss = {
        name: np.abs(pixels - whole).mean()
        for name, pixels in clips_of_versions(source, CONFIG).items()
    }
    hardening = [REENCODED, "recompression_28", "recompression_35", "recompression_42"]
    for names in (hardening, [REENCODED, "downscale_2", "downscale_4"]):
        losses = [loss[name] for name in names]
        assert losses == sorted(losses)
        assert losses[0] < 0.6 * losses[-1], "the perturbation does next to nothing"


def test_at_half_the_rate_every_second_frame_is_gone(tmp_path: Path) -> None:
    source = write(tmp_path, 110)
    before = np.array(numbers_shown(read_clips(source, CONFIG)))
    after = np.array(shown(clips_of_versions(source, CONFIG)["frame_rate_2"]))
    assert (before % 2).any(), "no frame of this video would be missing"
    assert after.tolist() == (before - before % 2).tolist()


def test_a_mirrored_video_is_the_baseline_mirrored(tmp_path: Path) -> None:
    versions = clips_of_versions(write(tmp_path), CONFIG)
    mirrored = versions["mirror_1"][..., ::-1]
    assert np.abs(mirrored.astype(int) - versions[REENCODED]).mean() < 2


@pytest.mark.parametrize("size", [(64, 64), (48, 96), (96, 48)])
def test_a_letterbox_makes_the_picture_smaller(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), 200, np.uint8)] * 30
    encode(tmp_path / "video.mp4", frames)
    versions = clips_of_versions(tmp_path / "video.mp4", CONFIG)
    lit = (versions["letterbox_25"][0, 0, 0] > 100).astype(int)
    height, width = size
    longer = lit.any(axis=0 if width >= height else 1).sum()
    assert longer == pytest.approx(48, abs=2), "a quarter of the longer side is not black"
    assert versions[REENCODED][0, 0, 0].max(axis=0 if width >= height else 1).min() > 100


def test_the_length_of_a_video_does_not_decide_what_it_costs(tmp_path: Path) -> None:
    numbers = numbers_in(write(tmp_path, 1000), CONFIG, AROUND)
    assert len(numbers) <= 10 * (2 * AROUND + 1) + 2
    assert (numbers[0], numbers[-1]) == (0, 999)


def test_every_frame_is_given_where_no_clips_are_named(tmp_path: Path) -> None:
    assert numbers_in(write(tmp_path, 30), None, 0) == list(range(30))


def test_a_plan_that_fails_on_the_way_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path)
    expected = clips_of_versions(source, CONFIG)[REENCODED]
    planned = video.decoding.take_planned
    failures: list[int] = []

    def failing(*arguments: Any) -> video.Frames:
        for count, frame in enumerate(planned(*arguments)):
            if count == 7 and not failures:
                failures.append(count)
                raise PlanFailedError("a test wants it so")
            yield frame

    monkeypatch.setattr(video.decoding, "take_planned", failing)
    assert np.array_equal(clips_of_versions(source, CONFIG)[REENCODED], expected)
    assert failures == [7]


def test_frames_that_are_not_a_millisecond_apart_are_left_out(tmp_path: Path) -> None:
    versions = clips_of_versions(write(tmp_path, 400, fps=4000), CONFIG)
    assert [len(clip) for clip in shown(versions[REENCODED])] == [5, 5]


@pytest.mark.parametrize("size", [(2, 2), (33, 61), (97, 16)])
@pytest.mark.parametrize("num_frames", [1, 2, 9])
def test_odd_tiny_and_short_videos_have_every_version(
    tmp_path: Path, size: tuple[int, int], num_frames: int
) -> None:
    frames = [np.full((*size, 3), 90, np.uint8)] * num_frames
    target = tmp_path / "video.mkv"
    encode(target, frames, codec="ffv1", pixel_format="bgr0", container="mkv")
    versions = clips_of_versions(target, CONFIG)
    assert list(versions) == version_names()
    assert np.abs(versions[REENCODED].max(axis=(0, 1, 3, 4)).astype(int) - 90).max() <= 4


def test_equal_videos_have_equal_versions(tmp_path: Path) -> None:
    source = write(tmp_path)
    first, second = (clips_of_versions(source, CONFIG) for _ in range(2))
    for name in version_names():
        assert np.array_equal(first[name], second[name]), name


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"<html>not found</html>")
    with pytest.raises(VideoError, match="not_a_video"):
        clips_of_versions(tmp_path / "video.mp4", CONFIG)


def test_few_frames_are_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder asks for a frame when it has taken the one before."""
    ahead: list[int] = []
    taken = iter(range(10**6))

    def counting(target: BytesIO, frames: Any, **settings: Any) -> None:
        def counted() -> Any:
            for number, frame in enumerate(frames):
                ahead.append(decoded[0] - number)
                yield frame

        encode(target, counted(), **settings)

    decoded = [0]
    full_size = video._at_full_size

    def watching() -> Any:
        convert = full_size()

        def watched(*arguments: Any) -> Any:
            decoded[0] = next(taken) + 1
            return convert(*arguments)

        return watched

    monkeypatch.setattr(perturbations, "encode", counting)
    monkeypatch.setattr(video, "_at_full_size", watching)
    source = BytesIO()
    encode(source, barcodes(100))
    read_excerpt(source, CONFIG, AROUND, perturbations._encoded)
    assert max(ahead) <= 1
    assert len(ahead) > 20
