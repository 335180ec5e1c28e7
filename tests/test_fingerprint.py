import csv
import re
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt8

from fvc import fingerprint as module
from fvc.archives import read_members, unpack
from fvc.config import load_params
from fvc.fingerprint import (
    FRAME_SIDE_PX,
    HASH_BYTES,
    fingerprint,
    near_duplicates,
    remove_bars,
)
from fvc.video import read_frames

Frames = UInt8[np.ndarray, "F H W"]
INDEX = load_params(Path(__file__).parents[1] / "params.yaml").index
CORPUS = Path(__file__).parents[2] / "shared" / "corpus"


def scene(seed: int, num_frames: int = 6, side_px: int = 64) -> Frames:
    """Smooth blobs that drift: coarse structure, as photographs have."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side_px, 0:side_px] / side_px
    frames = np.zeros((num_frames, side_px, side_px))
    for _ in range(30):
        row, column, speed_row, speed_column, size, level = generator.uniform(-1, 1, 6)
        for number in range(num_frames):
            distance = (rows - 0.5 - row * 0.6 - speed_row * number / 40) ** 2
            distance = distance + (columns - 0.5 - column * 0.6 - speed_column * number / 40) ** 2
            frames[number] += level * np.exp(-distance / (0.005 + 0.03 * abs(size)))
    scaled = (frames - frames.min()) / np.ptp(frames)
    return (40 + 200 * scaled).astype(np.uint8)


def pairs_of(*videos: Frames) -> list[tuple[int, int]]:
    hashes = [fingerprint(frames) for frames in videos]
    return near_duplicates(
        hashes, max_distance=INDEX.fingerprint_distance, min_share=INDEX.fingerprint_share
    )


def letterboxed(frames: Frames) -> Frames:
    boxed = np.full_like(frames, 3)
    kept = frames[:, np.linspace(0, frames.shape[1] - 1, 44).astype(int)]
    boxed[:, 10:54] = kept
    return boxed


@pytest.mark.parametrize("seed", range(5))
def test_copies_are_found_and_strangers_are_not(seed: int) -> None:
    original = scene(seed)
    noise = np.random.default_rng(seed).normal(0, 6, original.shape)
    darker = np.clip(original * 0.7 + 20 + noise, 0, 255).astype(np.uint8)
    trimmed = original[2:]
    small = original[:, ::2, ::2]
    strangers = [scene(seed + 100 * n) for n in range(1, 6)]
    copies = [original, darker, trimmed, small, letterboxed(original)]
    expected = [(one, other) for one in range(5) for other in range(one + 1, 5)]
    assert pairs_of(*copies, *strangers) == expected


def test_flat_frames_match_nothing() -> None:
    black = np.zeros((5, 64, 64), np.uint8)
    grey = np.full((5, 64, 64), 128, np.uint8)
    assert fingerprint(black) == b""
    assert pairs_of(black, black, grey, grey) == []
    faded = np.concatenate([black, scene(0)])
    assert len(fingerprint(faded)) == 6 * HASH_BYTES, "frames without contrast were kept"


def test_bars_are_removed_and_pictures_are_not() -> None:
    original = scene(3)
    boxed = np.pad(original, ((0, 0), (8, 8), (20, 4)))
    assert np.array_equal(remove_bars(boxed), original)
    assert np.array_equal(remove_bars(original), original)
    night = original // 8
    assert remove_bars(night).shape == night.shape, "a dark video was cut away"


@pytest.mark.parametrize("block_frames", [1, 7, 512])
def test_the_search_finds_what_comparing_one_by_one_finds(
    block_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_FRAMES", block_frames)
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, (4, 256), dtype=np.uint8)
    bits = [
        base[generator.integers(0, 4, generator.integers(0, 6))]
        ^ (generator.random((1, 256)) < 0.12)
        for _ in range(20)
    ]
    found = near_duplicates(
        [np.packbits(frames, axis=1).tobytes() for frames in bits],
        max_distance=60,
        min_share=0.5,
    )
    expected = []
    for one in range(20):
        for other in range(one + 1, 20):
            short, long = sorted((bits[one], bits[other]), key=len)
            nearest = [min((frame != match).sum() for match in long) for frame in short]
            if nearest and sum(distance <= 60 for distance in nearest) >= 0.5 * len(nearest):
                expected.append((one, other))
    assert found == expected
    assert 5 < len(expected) < 185, "the case tells nothing apart"


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not here")
def test_reposts_of_real_footage_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Precision 1 and recall above 0.9, where reposts are the same footage by the sources' list."""
    for archive in sorted((CORPUS / "archives").glob("*.zip")):
        members = read_members(archive)
        unpack(members, tmp_path, password="fake-video-corpus", progress=lambda _: None)
    with (CORPUS / "SOURCES.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    footage = {
        path: row for path, row in rows.items() if row["note"] not in ("defect", "other label")
    }
    footage = {path: row for path, row in footage.items() if row["cascade_id"]}
    original = {
        path: re.sub("^repost of ", "", row["source_path"])
        if row["source_path"].startswith("repost of ")
        else path
        for path, row in footage.items()
    }
    paths = list(footage)
    hashes = []
    for path in paths:
        fps, max_frames = INDEX.fingerprint_fps, INDEX.fingerprint_max_frames
        hashes.append(fingerprint(read_frames(tmp_path / path, fps, max_frames, FRAME_SIDE_PX)))
    pairs = near_duplicates(
        hashes, max_distance=INDEX.fingerprint_distance, min_share=INDEX.fingerprint_share
    )
    found = {(paths[one], paths[other]) for one, other in pairs}
    expected = {
        (one, other)
        for place, one in enumerate(paths)
        for other in paths[place + 1 :]
        if original[one] == original[other]
    }
    strangers = [
        pair for pair in found if footage[pair[0]]["cascade_id"] != footage[pair[1]]["cascade_id"]
    ]
    assert not strangers
    assert len(found & expected) / len(expected) > 0.9
