import csv
import re
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc import near_duplicates as module
from fvc.archives import read_members, unpack
from fvc.config import load_params
from fvc.fingerprint import FRAME_SIDE_PX, HASH_SIDE, VIEWS, fingerprint
from fvc.near_duplicates import Match, near_duplicates
from fvc.video import read_frames

INDEX = load_params(Path(__file__).parents[1] / "params.yaml").index
CORPUS = Path(__file__).parents[2] / "shared" / "corpus"


def search(
    values: list[bytes],
    known: Path | None = None,
    *,
    max_distance: int = 60,
    min_share: float = 0.5,
) -> list[Match]:
    return near_duplicates(values, max_distance=max_distance, min_share=min_share, known=known)


def related(seed: int, num_videos: int, max_frames: int = 6) -> list[bytes]:
    """Videos of a few scenes, some mirrored or cropped: from equal to unrelated, some empty."""
    generator = np.random.default_rng(seed)
    scenes = generator.integers(0, 2, (4, VIEWS, HASH_SIDE, HASH_SIDE), dtype=np.uint8)
    scenes[1, 0] = scenes[0, 1]
    scenes[3, 0] = scenes[2, 0] ^ (np.arange(HASH_SIDE) % 2).astype(np.uint8)
    videos = []
    for _ in range(num_videos):
        frames = scenes[generator.integers(0, 4, generator.integers(0, max_frames))]
        noise = generator.random(frames.shape) < generator.choice([0.02, 0.13, 0.2])
        videos.append(np.packbits(frames ^ noise, axis=None).tobytes())
    return [*videos, *videos[: num_videos // 5]]


def bits_of(value: bytes) -> list[list[list[int]]]:
    """Frames of views of bits, without NumPy."""
    bits = [byte >> place & 1 for byte in value for place in range(7, -1, -1)]
    views = [bits[start : start + 256] for start in range(0, len(bits), 256)]
    return [views[start : start + VIEWS] for start in range(0, len(views), VIEWS)]


def differ(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(one != other for one, other in zip(left, right, strict=True))


def plainly(values: list[bytes], *, max_distance: int, min_share: float) -> list[Match]:
    """The definition, pair by pair and bit by bit."""
    found = []
    for one in range(len(values)):
        for other in range(one + 1, len(values)):
            pair = sorted((values[one], values[other]), key=lambda value: (len(value), value))
            short, long = (bits_of(value) for value in pair)
            nearest = []
            for whole, middle in short:
                mirror = [bit ^ (place % 2) for place, bit in enumerate(whole)]
                nearest.append(
                    min(
                        differ(*each)
                        for frame in long
                        for each in (
                            (whole, frame[0]),
                            (whole, frame[1]),
                            (middle, frame[0]),
                            (mirror, frame[0]),
                        )
                    )
                )
            near = sorted(bits for bits in nearest if bits <= max_distance)
            if short and len(near) >= ceil(round(min_share * len(short), 6)):
                median = (near[(len(near) - 1) // 2] + near[len(near) // 2]) / 2
                found.append(Match(one, other, len(near) / len(short), median))
    return found


@pytest.mark.parametrize("block_frames", [1, 7, 512])
@pytest.mark.parametrize(("max_distance", "min_share"), [(60, 0.5), (76, 0.3), (40, 1.0)])
def test_the_search_finds_what_comparing_bit_by_bit_finds(
    block_frames: int, max_distance: int, min_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_FRAMES", block_frames)
    values = related(0, 20)
    found = search(values, max_distance=max_distance, min_share=min_share)
    assert found == plainly(values, max_distance=max_distance, min_share=min_share)
    assert 5 < len(found) < 250, "the case tells nothing apart"


@pytest.mark.parametrize("max_distance", [0, 1, 255, 256])
def test_the_limits_of_a_distance_are_part_of_it(max_distance: int) -> None:
    frame = np.random.default_rng(0).integers(0, 2, (VIEWS, 256), dtype=np.uint8)
    other = frame.copy()
    other[:, :max_distance] ^= 1
    values = [np.packbits(each, axis=None).tobytes() for each in (frame, other)]
    found = search(values, max_distance=max_distance, min_share=1.0)
    assert found == plainly(values, max_distance=max_distance, min_share=1.0)
    assert found
    if max_distance == 1:
        assert not near_duplicates(values, max_distance=0, min_share=1.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(14)))
def test_neither_order_nor_company_changes_a_match(seed: int, order: list[int]) -> None:
    values = related(seed, 12)
    expected = search(values)
    scores = {(match.one, match.other): (match.share, match.distance) for match in expected}
    found = search([values[place] for place in order])
    renamed = {
        (min(pair), max(pair)): (match.share, match.distance)
        for match in found
        for pair in [(order[match.one], order[match.other])]
    }
    assert renamed == scores
    alone = search(values[:5])
    assert alone == [match for match in expected if match.other < 5]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 14), min_size=1, max_size=4))
def test_a_search_that_builds_on_another_finds_the_same(
    seed: int, cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Videos come, go and come again, in any order."""
    known = tmp_path_factory.mktemp("known")
    values = related(seed, 12)
    for cut in cuts:
        some = [*values[cut:], *values[: cut // 2]]
        found = search(some, known)
        assert found == search(some)


def count_lookups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    compared: list[int] = []
    original = module._meetings

    def counting(asked: module._Frames, told: module._Frames, max_distance: int) -> object:
        compared.append(len(asked.owner) * len(told.owner))
        return original(asked, told, max_distance)

    monkeypatch.setattr(module, "_meetings", counting)
    return compared


def test_one_more_video_is_compared_with_the_others_and_no_other_pair_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sorted({*related(1, 60)} - {b""})
    search(values[1:], tmp_path)
    compared = count_lookups(monkeypatch)
    search(values[1:], tmp_path)
    assert compared == [], "known pairs were compared again"
    (added,) = set(values) - set(values[1:])
    search([*values[1:], added], tmp_path)
    frames = sum(len(bits_of(value)) for value in values)
    assert 0 < sum(compared) <= 2 * frames * len(bits_of(added))


def test_matches_of_other_limits_are_not_taken_up(tmp_path: Path) -> None:
    values = related(2, 15)
    search(values, tmp_path)
    for bits, share in ((30, 0.5), (60, 1.0)):
        found = search(values, tmp_path, max_distance=bits, min_share=share)
        assert found == search(values, max_distance=bits, min_share=share)
        assert found != search(values)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "partial"])
def test_damage_to_what_is_known_costs_only_time(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = related(3, 15)
    expected = search(values, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = bytearray(file.read_bytes())
    capsys.readouterr()
    if damage == "partial":
        file.rename(tmp_path / f".{file.name}.partial")
    elif damage == "flipped":
        whole[len(whole) // 2] ^= 1
        file.write_bytes(whole)
    else:
        file.write_bytes(whole[: len(whole) // 2 if damage == "cut" else 0])
    assert search(values, tmp_path) == expected
    said = f"{file}: is damaged; all videos are compared again" in capsys.readouterr().err
    assert said == (damage != "partial")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert search(values, tmp_path) == expected
    assert "damaged" not in capsys.readouterr().err, "it was not mended"


def test_a_search_that_is_ended_leaves_what_was_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = related(4, 15)
    search(values[:8], tmp_path)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()

    def ended(*_: object) -> object:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "compare", ended)
        with pytest.raises(KeyboardInterrupt):
            search(values, tmp_path)
    assert file.read_bytes() == before
    found = search(values, tmp_path)
    assert found == search(values)


def test_nothing_matches_a_video_that_shows_nothing() -> None:
    assert search([]) == []
    assert search([b"", b""]) == []
    value = related(5, 5)[0] or bytes(64)
    assert search([b"", value, b"", value]) == [Match(1, 3, 1.0, 0.0)]


@pytest.mark.slow
@pytest.mark.skipif(not CORPUS.is_dir(), reason="the shared corpus is not here")
def test_reposts_of_real_footage_are_found_and_nothing_else(tmp_path: Path) -> None:
    """Where reposts are the same footage by the sources' list: none of two cascades is joined."""
    for archive in sorted((CORPUS / "archives").glob("*.zip")):
        members = read_members(archive)
        unpack(members, tmp_path, password="fake-video-corpus", progress=lambda _: None)
    with (CORPUS / "SOURCES.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    footage = {
        path: row
        for path, row in rows.items()
        if row["cascade_id"] and row["note"] not in ("defect", "other label")
    }
    original = {
        path: re.sub("^repost of ", "", row["source_path"])
        if row["source_path"].startswith("repost of ")
        else path
        for path, row in footage.items()
    }
    paths = list(footage)
    fps, max_frames = INDEX.fingerprint_fps, INDEX.fingerprint_max_frames
    found = near_duplicates(
        [
            fingerprint(read_frames(tmp_path / path, fps, max_frames, FRAME_SIDE_PX))
            for path in paths
        ],
        max_distance=INDEX.fingerprint_distance,
        min_share=INDEX.fingerprint_share,
    )
    pairs = {(paths[match.one], paths[match.other]) for match in found}
    expected = {
        (one, other)
        for place, one in enumerate(paths)
        for other in paths[place + 1 :]
        if original[one] == original[other]
    }
    cascade = {path: row["cascade_id"] for path, row in footage.items()}
    strangers = [pair for pair in pairs if cascade[pair[0]] != cascade[pair[1]]]
    assert not strangers
    assert len(pairs & expected) / len(expected) > 0.96
