"""Deals out everything about a demo corpus that is not a defect or a pixel."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from fvc.demo.defects import DEFECTS, with_defects
from fvc.demo.naming import draw_source_id
from fvc.demo.specifications import Encoding, Footage, Plan, Video
from fvc.seeding import generator_for, seed_for

MIN_VIDEOS = 8
VIDEOS_PER_DEFECT = 8
# Five folds and a locked test each need a cascade of either label.
ENOUGH_CASCADES = 8
CASCADES_PERCENT = 45
EXTRA_COPIES = (1, 0, 2, 1, 4, 0, 1, 3)

SCENES = ("photo", "street", "room", "hills", "market", "coast", "pitch", "night")
SIZES_PX = (
    *((320, 240), (240, 320), (320, 180), (160, 120), (426, 240)),
    *((176, 144), (320, 240), (180, 320), (480, 360), (240, 180)),
)
RATES_FPS = (
    *(Fraction(30), Fraction(25), Fraction(30000, 1001), Fraction(15)),
    *(Fraction(24), Fraction(60), Fraction(20), Fraction(30)),
)
SHORT_MS, LONG_MS = (2000, 6000), (20000, 40000)
LENGTHS_MS = (SHORT_MS,) * 11 + (LONG_MS,)
LONG_SIZES_PX = ((160, 120), (176, 144), (120, 160), (192, 108))
LONG_FPS = Fraction(15)

MANIPULATIONS = ("splice", "freeze", "recompress", "repeat", "inpaint", "splice", "retime")
# What a network of 64 pixels can learn to see, in most fakes.
SECOND_MANIPULATIONS = (*("refilm",) * 7, "")

ENCODINGS = (
    *(Encoding("libx264", "mp4", "yuv420p"),) * 5,
    Encoding("libx264", "mkv", "yuv420p"),
    Encoding("libx264", "mp4", "yuv420p10le"),
    Encoding("libx264", "mp4", "yuv444p"),
    Encoding("libx265", "mp4", "yuv420p"),
    Encoding("libx265", "mkv", "yuv420p10le"),
    *(Encoding("libvpx-vp9", "webm", "yuv420p"),) * 2,
    Encoding("libsvtav1", "mp4", "yuv420p"),
    Encoding("libsvtav1", "webm", "yuv420p"),
    Encoding("mpeg4", "mp4", "yuv420p"),
    Encoding("mpeg4", "mkv", "yuv420p"),
)
PLACES = (
    *(("FVC1", "youtube"),) * 5,
    *(("FVC1", "facebook"),) * 3,
    *(("FVC1", "twitter"),) * 2,
    *(("FVC2", "facebook"), ("FVC2", "youtube"), ("FVC3", "facebook"), ("FVC3", "youtube")),
)
EDITS: tuple[tuple[str, ...], ...] = (
    *((), ("scale",), ("crop",), ("letterbox",), ("watermark",), ("brightness",), ("trim",)),
    *(
        ("crop", "watermark"),
        ("scale", "letterbox"),
        ("scale", "watermark"),
        ("brightness", "trim"),
    ),
)
SCALES_PERCENT = (60, 70, 75, 80, 90, 110, 120)
ROTATIONS_DEG = (0,) * 13 + (90, 180, 270)
ODD_SIZES = (True, False)
VARIABLE_RATES = (True,) + (False,) * 7
SOUNDS = (True, False)
QUALITIES = (0, 1, 2)

Card = TypeVar("Card")


def plan(num_videos: int, seed: int) -> Plan:
    """Decide every file and every annotation row of a corpus.

    All but the manipulations (codec, size, rate, length, sound, scene, place)
    is dealt to fake and real videos from one deck, so that it says nothing
    about the label.

    Args:
        num_videos: Usable videos, half of them fake; about an eighth more are
            defects.
        seed: Equal seeds give equal plans.

    Raises:
        ValueError: Too few videos for cascades of both labels.
    """
    if num_videos < MIN_VIDEOS:
        raise ValueError(f"{num_videos} videos are fewer than the {MIN_VIDEOS} a corpus needs")
    sizes = {
        "fake": cascade_sizes(num_videos - num_videos // 2),
        "real": cascade_sizes(num_videos // 2),
    }
    footage = _deal_footage({label: len(sizes[label]) for label in sizes}, seed)
    copies = [each for each in footage for _ in range(_size_of(each, sizes))]
    num_defects = max(len(DEFECTS), round(num_videos / VIDEOS_PER_DEFECT))
    strays = generator_for(seed, "demo", "strays").integers(len(footage), size=num_defects)
    videos = _deal_videos([*copies, *(footage[row] for row in strays)], seed)
    return with_defects(videos[:num_videos], videos[num_videos:], seed)


def cascade_sizes(num_videos: int) -> list[int]:
    """Divide the videos of one label into cascades of one to five."""
    enough = min(num_videos * 3 // 4, ENOUGH_CASCADES)
    sizes = [1] * max(num_videos * CASCADES_PERCENT // 100, enough, 1)
    left = num_videos - len(sizes)
    while left:
        for position in range(len(sizes)):
            extra = min(EXTRA_COPIES[position % len(EXTRA_COPIES)], 5 - sizes[position], left)
            sizes[position] += extra
            left -= extra
    return sizes


def deal(cards: Sequence[Card], count: int, generator: np.random.Generator) -> list[Card]:
    """Shuffle the cards, hand out each, and begin again until there are `count`."""
    dealt: list[Card] = []
    while len(dealt) < count:
        dealt += [cards[position] for position in generator.permutation(len(cards))]
    return dealt[:count]


def _size_of(footage: Footage, sizes: dict[str, list[int]]) -> int:
    return sizes[footage.label][int(footage.cascade_id[1:])]


def _deal_footage(cascades_per_label: dict[str, int], seed: int) -> list[Footage]:
    names = [
        f"{label[0]}{number}"
        for label, count in cascades_per_label.items()
        for number in range(count)
    ]

    def hand(purpose: str, cards: Sequence[Card]) -> list[Card]:
        return deal(cards, len(names), generator_for(seed, "demo", purpose))

    first, second = hand("first", MANIPULATIONS), hand("second", SECOND_MANIPULATIONS)
    scenes, sizes, rates = hand("scene", SCENES), hand("size", SIZES_PX), hand("rate", RATES_FPS)
    lengths, long_sizes = hand("length", LENGTHS_MS), hand("long size", LONG_SIZES_PX)
    seen: Counter[str] = Counter()
    footage = []
    for row, name in enumerate(names):
        own_seed = seed_for(seed, "demo", "footage", name)
        is_long = lengths[row] == LONG_MS
        duration_ms = int(generator_for(own_seed, "duration").integers(*lengths[row]))
        fps = min(rates[row], LONG_FPS) if is_long else rates[row]
        width, height = long_sizes[row] if is_long else sizes[row]
        chosen = {first[row], second[row]} - {""} if name[0] == "f" else set()
        footage.append(
            Footage(
                cascade_id=name,
                seed=own_seed,
                scene=scenes[row],
                variant=seen[scenes[row]],
                width=width,
                height=height,
                fps=fps,
                num_frames=int(duration_ms * fps / 1000),
                manipulations=tuple(sorted(chosen)),
            )
        )
        seen[scenes[row]] += 1
    return footage


def _deal_videos(footage: Sequence[Footage], seed: int) -> list[Video]:
    def hand(purpose: str, cards: Sequence[Card]) -> list[Card]:
        return deal(cards, len(footage), generator_for(seed, "demo", purpose))

    places, edits = hand("place", PLACES), hand("edit", EDITS)
    scales, rates = hand("scale", SCALES_PERCENT), hand("copy rate", RATES_FPS)
    encodings, qualities = hand("encoding", ENCODINGS), hand("quality", QUALITIES)
    rotations, sounds = hand("rotation", ROTATIONS_DEG), hand("sound", SOUNDS)
    odd, variable = hand("odd", ODD_SIZES), hand("variable", VARIABLE_RATES)
    seen: Counter[str] = Counter()
    videos = []
    for row, source in enumerate(footage):
        copy = seen[source.cascade_id]
        seen[source.cascade_id] += 1
        own_seed = seed_for(source.seed, "copy", copy)
        subset, platform = places[row]
        videos.append(
            Video(
                footage=source,
                copy=copy,
                seed=own_seed,
                subset=subset,
                platform=platform,
                source_id=draw_source_id(platform, generator_for(own_seed, "source id")),
                edits=edits[row] if copy else (),
                scale_percent=scales[row],
                fps=min(rates[row], source.fps) if copy else source.fps,
                variable_rate=variable[row],
                encoding=encodings[row],
                quality=qualities[row],
                sound=sounds[row],
                rotation_deg=rotations[row],
                odd_size=odd[row] and encodings[row].allows_odd_sizes,
            )
        )
    return videos
