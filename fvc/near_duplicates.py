"""The search for near-duplicates: which videos of a corpus share a look, by their fingerprints."""

import hashlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import combinations, product
from pathlib import Path

import faiss
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt16, UInt64
from tqdm import tqdm

from fvc.files import replacing, sha256_of, sha256_of_file
from fvc.fingerprint import HASH_BITS, Hashes, mirrored, unpack

KEPT_MATCHES = "matches"
"""Folder beside what is kept of single files in which searches keep what they found."""
BLOCK_FRAMES = 512
"""Frames that are looked for at once: what is found near them must fit into memory."""

Found = dict[tuple[int, int], tuple[float, float]]
"""Share and distance of the matching pairs of a search."""


@dataclass(frozen=True, order=True, slots=True)
class Match:
    """Two videos that are near-duplicates, as positions among the fingerprints."""

    one: int
    other: int
    """Above `one`."""
    share: float
    """Of the shorter video's frames, those that match the other video."""
    distance: float
    """In bits: the median, over the matching frames, of the distance to the nearest frame."""


def near_duplicates(
    fingerprints: Sequence[bytes],
    *,
    max_distance: int,
    min_share: float,
    known: Path | None = None,
) -> list[Match]:
    """Find the pairs of videos whose frames look alike; the result is exact.

    A frame matches a video when it differs from one of its frames in at most
    `max_distance` bits: whole from whole, one whole from the middle of the
    other, or one mirrored from the other. Two videos match when at least
    `min_share` of the shorter one's frames match the other; of two equally
    long ones, the one counts whose fingerprint sorts first. A video without
    frames matches none.

    Args:
        fingerprints: Of all videos.
        max_distance: In bits.
        min_share: In (0, 1].
        known: Folder in which the matches are kept, so that the next search
            compares only pairs with a new video. Without it, or where it is
            damaged, all pairs are compared.

    Returns:
        The matches, sorted.
    """
    places = defaultdict(list)
    for place, value in enumerate(fingerprints):
        if value:
            places[value].append(place)
    # A pair is then always one video and a later one that is at least as long.
    values = sorted(places, key=lambda value: (len(value), value))
    names = [hashlib.sha256(value).hexdigest() for value in values]
    kept = known and known / f"{_settings(max_distance, min_share)}.matches"
    seen, found = _recall(kept, names) if kept else (set[int](), Found())
    new = np.array([place not in seen for place in range(len(values))], dtype=bool)
    found |= _search([unpack(value) for value in values], new, max_distance, min_share)
    if kept and (new.any() or not kept.is_file()):
        _keep(kept, names, found)
    pairs = [
        (one, other, *score)
        for (first, second), score in found.items()
        for one, other in product(places[values[first]], places[values[second]])
    ]
    pairs += [(*pair, 1.0, 0.0) for same in places.values() for pair in combinations(same, 2)]
    return sorted(Match(min(a, b), max(a, b), share, bits) for a, b, share, bits in pairs)


def _needed(num_frames: int, min_share: float) -> int:
    # A share like 0.3 of 10 must not ask for 4 because of the last digit.
    return max(math.ceil(min_share * num_frames - 1e-9), 1)


@dataclass(frozen=True, slots=True)
class _Frames:
    """Frames of some videos, one after the other."""

    hashes: Hashes
    owner: Int64[np.ndarray, " F"]
    """Position of the video to which a frame belongs, ascending."""


def _search(
    videos: Sequence[Hashes], new: Bool[np.ndarray, " N"], max_distance: int, min_share: float
) -> Found:
    """Compare all pairs of which at least one video is new.

    If m of a video's n frames must match, one of any n - m + 1 of them
    does: only so many are looked for, and what they meet is compared.
    """
    if not new.any():
        return {}
    lengths = [len(hashes) for hashes in videos]
    everything = _Frames(np.concatenate(videos), np.repeat(np.arange(len(videos)), lengths))
    of_new = new[everything.owner]
    only_new = _Frames(everything.hashes[of_new], everything.owner[of_new])
    looked_for = [length - _needed(length, min_share) + 1 for length in lengths]
    found = {}
    with tqdm(total=sum(looked_for), desc="near-duplicates", unit="frame") as progress:
        for is_new, told in ((True, everything), (False, only_new)):
            asked_places = np.flatnonzero(new == is_new)
            for block in _blocks(asked_places.tolist(), looked_for):
                asked = _Frames(
                    np.concatenate([videos[place][: looked_for[place]] for place in block]),
                    np.repeat(block, [looked_for[place] for place in block]),
                )
                for one, others in _meetings(asked, told, max_distance):
                    met = [videos[other] for other in others]
                    matching = compare(videos[one], met, max_distance)
                    for other, bits in zip(others, matching, strict=True):
                        if len(bits) >= _needed(lengths[one], min_share):
                            share = len(bits) / lengths[one]
                            found[one, other] = (share, float(np.median(bits)))
                progress.update(len(asked.owner))
    return found


def _blocks(places: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divide videos into runs with about `BLOCK_FRAMES` frames each."""
    block: list[int] = []
    for place in places:
        if block and sum(lengths[each] for each in block) + lengths[place] > BLOCK_FRAMES:
            yield block
            block = []
        block.append(place)
    if block:
        yield block


def _meetings(asked: _Frames, told: _Frames, max_distance: int) -> Iterator[tuple[int, list[int]]]:
    """Each video with the later ones of which a frame is near one of its own."""
    later = np.searchsorted(told.owner, asked.owner[0], side="right")
    whole, middle, owner = told.hashes[later:, 0], told.hashes[later:, 1], told.owner[later:]
    if not len(owner):
        return
    views = (asked.hashes[:, 0], asked.hashes[:, 1], mirrored(asked.hashes[:, 0]))
    ones, row = np.unique(asked.owner, return_inverse=True)
    # Hits are many more than pairs: marking them is ten times as fast as sorting them.
    met = np.zeros((len(ones), int(owner[-1]) + 1), dtype=bool)
    for codes, looked_for in ((whole, views), (middle, views[:1])):
        index = faiss.IndexBinaryFlat(HASH_BITS)
        index.add(_codes(codes))
        for view in looked_for:
            # The radius is the first distance that is too far.
            limits, _, hits = index.range_search(_codes(view), max_distance + 1)
            met[np.repeat(row, np.diff(limits).astype(np.int64)), owner[hits]] = True
    for one, marks in zip(ones.tolist(), met, strict=True):
        others = np.flatnonzero(marks[one + 1 :]) + one + 1
        if len(others):
            yield one, others.tolist()


def _codes(hashes: UInt64[np.ndarray, "F 4"]) -> UInt8[np.ndarray, "F 32"]:
    return np.ascontiguousarray(hashes).view(np.uint8)


def compare(
    one: Hashes, others: Sequence[Hashes], max_distance: int
) -> Iterator[UInt16[np.ndarray, " M"]]:
    """For each of other videos, how far the frames of one that match it are from their nearest.

    Args:
        one: At least one frame.
        others: Each with at least one frame.
        max_distance: Most bits in which matching frames differ.
    """
    lengths = [len(other) for other in others]
    for some in _blocks(range(len(others)), lengths):
        starts = np.cumsum([0, *(lengths[place] for place in some[:-1])])
        told = np.concatenate([others[place] for place in some])
        nearest = np.minimum.reduceat(distances(one, told), starts, axis=1)
        for column in nearest.T:
            yield column[column <= max_distance]


def distances(one: Hashes, other: Hashes) -> UInt16[np.ndarray, "F G"]:
    """Least number of differing bits of two frames, over the views that are compared."""
    whole, middle = one[:, 0], one[:, 1]
    return np.minimum.reduce(
        [
            _bits(whole, other[:, 0]),
            _bits(whole, other[:, 1]),
            _bits(middle, other[:, 0]),
            _bits(mirrored(whole), other[:, 0]),
        ]
    )


def _bits(
    left: UInt64[np.ndarray, "F 4"], right: UInt64[np.ndarray, "G 4"]
) -> UInt16[np.ndarray, "F G"]:
    total = np.zeros((len(left), len(right)), dtype=np.uint16)
    # Word by word: three times as fast as a sum over the last axis.
    for word in range(left.shape[1]):
        total += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
    return total


def _settings(max_distance: int, min_share: float) -> str:
    folder = Path(__file__).parent
    code = [sha256_of_file(folder / name) for name in ("fingerprint.py", "near_duplicates.py")]
    return sha256_of([max_distance, min_share, *code])[:16]


def _keep(target: Path, names: Sequence[str], found: Found) -> None:
    packed = BytesIO()
    pairs: Int64[np.ndarray, "P 2"] = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    scores: Float[np.ndarray, "P 2"] = np.array(list(found.values()), dtype=np.float64)
    np.savez_compressed(packed, names=np.array(names), pairs=pairs, scores=scores.reshape(-1, 2))
    content = packed.getvalue()
    with replacing(target) as partial:
        partial.write_bytes(hashlib.sha256(content).digest() + content)


def _recall(source: Path, names: Sequence[str]) -> tuple[set[int], Found]:
    """Which videos an earlier search has compared with each other, and what matched."""
    if not source.is_file():
        return set(), {}
    content = source.read_bytes()
    digest, packed = content[:32], content[32:]
    if hashlib.sha256(packed).digest() != digest:
        sys.stderr.write(f"{source}: is damaged; all videos are compared again\n")
        return set(), {}
    with np.load(BytesIO(packed), allow_pickle=False) as kept:
        then, pairs, scores = (kept[key].tolist() for key in ("names", "pairs", "scores"))
    now = {name: place for place, name in enumerate(names)}
    seen = {now[name] for name in then if name in now}
    found = {
        (now[then[one]], now[then[other]]): (share, bits)
        for (one, other), (share, bits) in zip(pairs, scores, strict=True)
        if then[one] in now and then[other] in now
    }
    return seen, found
