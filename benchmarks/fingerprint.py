"""How many near-duplicates are found at which threshold, and how fast the search is.

    python benchmarks/fingerprint.py curve --corpus FOLDER    # without it: on made footage alone
    python benchmarks/fingerprint.py search --videos 5500

`curve` makes copies of originals in fourteen ways and compares all with all, once on the
originals that thresholds may be chosen on and once on others. FOLDER has archives of the Fake
Video Corpus's layout and a SOURCES.csv that tells which file is a repost of which. `search`
compares the search with the same distances in NumPy, and with building on an earlier search.
"""

import csv
import re
import tempfile
import time
import zlib
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from fvc.archives import read_members, unpack
from fvc.config import load_params
from fvc.demo.plan import plan
from fvc.demo.rendering import render
from fvc.encoding import encode
from fvc.fingerprint import FRAME_SIDE_PX, Hashes, fingerprint
from fvc.fingerprint import unpack as hashes_of
from fvc.near_duplicates import distances, near_duplicates
from fvc.seeding import generator_for
from fvc.video import read_frames
from fvc.video.picture import orientation

SEED = 11
DEMO_VIDEOS, DEMO_SEEDS = 64, {"chosen on": 1, "reported": 2}
MAX_S, MAX_SIDE_PX = 8, 480
SHARES, DISTANCES = (0.2, 0.3, 0.4, 0.5), range(60, 93, 4)
MARGIN_BITS = 8
"""From the chosen distance to the nearest strangers among the pairs it was chosen on."""

Frames = list[np.ndarray]


@dataclass
class Video:
    """One file in the comparison."""

    original: str
    cascade: str
    change: str
    hashes: Hashes


def even(frames: Frames) -> Frames:
    """Cut to sides that every codec takes."""
    height, width = (side & ~1 for side in frames[0].shape[:2])
    return [np.ascontiguousarray(frame[:height, :width]) for frame in frames]


def crop(frames: Frames, draw: np.random.Generator) -> Frames:
    """Cut away 3 to 8 percent, at each side another part."""
    height, width = frames[0].shape[:2]
    top, bottom, left, right = draw.integers(3, 9, 4).tolist()
    rows = slice(height * top // 100, height - height * bottom // 100)
    columns = slice(width * left // 100, width - width * right // 100)
    return [frame[rows, columns] for frame in frames]


def scale(frames: Frames, draw: np.random.Generator) -> Frames:
    """Resize to between a third and 130 percent."""
    factor = draw.choice([0.35, 0.5, 0.7, 1.3])
    height, width = (max(int(side * factor), 64) for side in frames[0].shape[:2])
    size, area = (width, height), cv2.INTER_AREA
    return [cv2.resize(frame, size, interpolation=area) for frame in frames]


def letterbox(frames: Frames, draw: np.random.Generator) -> Frames:
    """Add bars of 8 to 21 percent, above and below or at the sides."""
    height, width = frames[0].shape[:2]
    share, across = int(draw.integers(8, 22)), bool(draw.integers(2))
    rows, columns = (0, width * share // 100) if across else (height * share // 100, 0)
    return [np.pad(frame, ((rows, rows), (columns, columns), (0, 0))) for frame in frames]


def write(frames: Frames, text: str, place: tuple[int, int], height: int, alpha: float) -> Frames:
    """Write a white line of text, its lower left corner at x and y."""
    thick = max(1, height // 10)
    written = []
    for frame in frames:
        over = frame.copy()
        font = (cv2.FONT_HERSHEY_SIMPLEX, height / 30, (255, 255, 255), thick, cv2.LINE_AA)
        cv2.putText(over, text, place, *font)
        written.append(cv2.addWeighted(over, alpha, frame, 1 - alpha, 0))
    return written


def bars_with_text(frames: Frames, draw: np.random.Generator) -> Frames:
    """Letterbox, with the same headline in the lower bar of every video."""
    height, width = frames[0].shape[:2]
    bar = height * int(draw.integers(8, 22)) // 100
    boxed = [np.pad(frame, ((bar, bar), (0, 0), (0, 0))) for frame in frames]
    place = (width // 20, height + 2 * bar - bar // 4)
    return write(boxed, "BREAKING NEWS", place, max(bar * 6 // 10, 8), 1.0)


def watermark(frames: Frames, draw: np.random.Generator) -> Frames:
    """Write a page's name near the top or the bottom."""
    height, width = frames[0].shape[:2]
    tall, left = int(height * draw.uniform(0.07, 0.12)), int(width * draw.uniform(0.03, 0.5))
    base = int(height * draw.choice([0.13, 0.95]))
    return write(frames, "FVC News", (left, base), tall, draw.uniform(0.5, 1))


def brightness(frames: Frames, draw: np.random.Generator) -> Frames:
    """Make all darker or brighter by up to 40 percent."""
    return levels(frames, draw.choice([0.6, 0.75, 1.25, 1.4]), 0.0)


def contrast(frames: Frames, draw: np.random.Generator) -> Frames:
    """Stretch or squeeze the levels around the middle, which moves a little."""
    factor = draw.choice([0.6, 1.4])
    return levels(frames, factor, 128 * (1 - factor) + draw.uniform(-20, 20))


def levels(frames: Frames, factor: float, offset: float) -> Frames:
    """A linear map of all levels, clipped."""
    return [np.clip(frame * factor + offset, 0, 255).astype(np.uint8) for frame in frames]


def trim(frames: Frames, draw: np.random.Generator) -> Frames:
    """Keep what lies between two cuts: at least two fifths."""
    start, end = draw.uniform(0.1, 0.35), draw.uniform(0.75, 1)
    return frames[int(len(frames) * start) : max(int(len(frames) * end), 1)] or frames[:1]


def mirror(frames: Frames, _: np.random.Generator) -> Frames:
    """Exchange left and right."""
    return [frame[:, ::-1] for frame in frames]


CHANGES: Mapping[str, tuple[Callable[[Frames, np.random.Generator], Frames], ...]] = {
    "re-encoded": (),
    "frame rate": (),
    "scaled": (scale,),
    "letterboxed": (letterbox,),
    "bars with text": (bars_with_text,),
    "cropped": (crop,),
    "watermarked": (watermark,),
    "brightness": (brightness,),
    "contrast": (contrast,),
    "trimmed": (trim,),
    "mirrored": (mirror,),
    "cropped, watermarked": (crop, watermark),
    "cropped, letterboxed": (crop, letterbox),
    "trimmed, scaled, letterboxed": (trim, scale, letterbox),
}


def copies(file: Path, name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Encode a copy of a video for each change."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 25)
        frames = []
        for frame in container.decode(stream):
            shrink = min(1.0, MAX_SIDE_PX / max(frame.width, frame.height))
            size = (round(frame.width * shrink), round(frame.height * shrink))
            image = frame.reformat(*size, "rgb24").to_ndarray()
            frames.append(orientation(frame).apply(image))
            if len(frames) >= MAX_S * rate:
                break
    for change, steps in CHANGES.items():
        draw, copy, fps = generator_for(SEED, name, change), frames, rate
        for step in steps:
            copy = step(copy, draw)
        if change == "frame rate":
            faster = Fraction(int(draw.choice([16, 24])), 10)
            fps, copy = (
                rate / faster,
                [frames[int(n * faster)] for n in range(int(len(frames) / faster))],
            )
        target = folder / f"{change}.mp4"
        crf = "40" if change == "re-encoded" else "30"
        encode(
            target, even(copy or frames[:1]), fps=fps.limit_denominator(1000), options={"crf": crf}
        )
        yield change, target


def described(file: Path, original: str, cascade: str, change: str) -> Video:
    """Fingerprint a file as stage `index` does."""
    config = load_params(Path("params.yaml")).index
    fps, most = config.fingerprint_fps, config.fingerprint_max_frames
    value = fingerprint(read_frames(file, fps, most, FRAME_SIDE_PX))
    return Video(original, cascade, change, hashes_of(value))


def with_copies(originals: Mapping[str, tuple[Path, str]], work: Path) -> list[Video]:
    """The originals and all their copies."""
    videos = []
    for name, (file, cascade) in originals.items():
        videos.append(described(file, name, cascade, "original"))
        for change, copy in copies(file, name, work):
            videos.append(described(copy, name, cascade, change))
    return videos


def demo_originals(seed: int, work: Path) -> dict[str, tuple[Path, str]]:
    """The original of every cascade of a demo corpus."""
    found = {}
    for video in plan(DEMO_VIDEOS, seed).usable:
        if video.copy == 0:
            name = f"demo {seed} {video.footage.cascade_id}"
            file = work / f"{name}.{video.encoding.container}"
            file.write_bytes(render(video))
            found[name] = (file, name)
    return found


def corpus_rows(corpus: Path) -> dict[str, dict[str, str]]:
    """The usable files by their paths."""
    with (corpus / "SOURCES.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["cascade_id"]]
    return {row["path"]: row for row in rows if row["note"] not in ("defect", "other label")}


def corpus_originals(corpus: Path, unpacked: Path, half: int) -> dict[str, tuple[Path, str]]:
    """Footage of its own, of the cascades in one half; no other version of another file."""
    found = {}
    for path, row in corpus_rows(corpus).items():
        version = row["source"] == "made" or re.match("manip:|twin of ", row["source_path"])
        if not version and not path.endswith(".webm"):
            cascade = row["cascade_id"]
            if zlib.crc32(cascade.encode()) % 2 == half:
                found[path] = (unpacked / path, cascade)
    return found


def corpus_videos(corpus: Path, unpacked: Path) -> list[Video]:
    """Every usable file; a repost by the name of what it is a repost of."""
    return [
        described(
            unpacked / path,
            row["source_path"].removeprefix("repost of ") if row["note"] else path,
            row["cascade_id"],
            row["note"] or "original",
        )
        for path, row in corpus_rows(corpus).items()
    ]


Scores = dict[str, dict[float, np.ndarray]]
"""For each kind of pair and share: the least distance at which a pair matches."""


def scored(videos: Sequence[Video], measure: Callable[[Hashes, Hashes], np.ndarray]) -> Scores:
    """Compare all videos: `strangers` are of two cascades, `copies` of one original.

    Copies of an original are also counted below their change.
    """
    ordered = sorted(
        (video for video in videos if len(video.hashes)),
        key=lambda video: (len(video.hashes), video.hashes.tobytes()),
    )
    pairs = defaultdict(list)
    for place, short in enumerate(ordered):
        needed = [max(int(np.ceil(share * len(short.hashes) - 1e-9)), 1) for share in SHARES]
        for long in ordered[place + 1 :]:
            related = short.original == long.original
            if not related and short.cascade == long.cascade:
                continue
            nearest = np.sort(measure(short.hashes, long.hashes).min(axis=1))
            score = [int(nearest[count - 1]) for count in needed]
            pairs["copies" if related else "strangers"].append(score)
            changes = {short.change, long.change} - {"original"}
            if related and "original" in (short.change, long.change) and changes:
                pairs[changes.pop()].append(score)
    for video in videos:
        if not len(video.hashes) and video.change != "original":
            pairs[video.change].append([HASHLESS] * len(SHARES))
    return {
        kind: dict(zip(SHARES, np.array(scores).T, strict=True)) for kind, scores in pairs.items()
    }


HASHLESS = 257
"""Further than any distance: a video without contrast matches none."""


def print_curve(scores: Scores) -> tuple[float, int]:
    """Recall and false matches for each threshold; returns the best with the margin."""
    print(f"{'distance':>10}" + "".join(f"{f'share {share}':>22}" for share in SHARES))
    for bits in DISTANCES:
        cells = []
        for share in SHARES:
            recall = np.mean(scores["copies"][share] <= bits)
            false = np.sum(scores["strangers"][share] <= bits)
            cells.append(f"{recall:>14.4f} ({false:>4})")
        print(f"{bits:>10}" + " ".join(cells))
    limits = {share: int(scores["strangers"][share].min()) - MARGIN_BITS for share in SHARES}
    print("nearest strangers: " + ", ".join(f"{s}: {b + MARGIN_BITS}" for s, b in limits.items()))
    best = max(SHARES, key=lambda share: np.mean(scores["copies"][share] <= limits[share]))
    return best, limits[best]


def print_report(scores: Scores, share: float, bits: int) -> float:
    """Precision and recall at one threshold, over all and by change; returns the recall."""
    found = int(np.sum(scores["copies"][share] <= bits))
    false = int(np.sum(scores["strangers"][share] <= bits))
    recall = found / len(scores["copies"][share])
    print(
        f"{len(scores['copies'][share])} pairs of copies, {len(scores['strangers'][share])} of "
        f"strangers: recall {recall:.4f}, precision {found / max(found + false, 1):.6f}, "
        f"{false} false, nearest strangers {int(scores['strangers'][share].min())}"
    )
    for change, by_share in scores.items():
        if change not in ("copies", "strangers"):
            print(
                f"  {change:30}{np.mean(by_share[share] <= bits):>8.3f}"
                f"{len(by_share[share]):>6} with the original"
            )
    return recall


def whole_frames(one: Hashes, other: Hashes) -> np.ndarray:
    """The distances of whole frames alone: one hash for each."""
    return np.bitwise_count(one[:, None, 0] ^ other[None, :, 0]).sum(axis=2)


def curve(corpus: Path | None, password: str) -> None:
    """Choose on one half, report on the other and on the corpus's own cascades."""
    config = load_params(Path("params.yaml")).index
    with tempfile.TemporaryDirectory() as folder:
        work, unpacked = Path(folder), Path(folder) / "corpus"
        if corpus:
            for archive in sorted((corpus / "archives").glob("*.zip")):
                unpack(read_members(archive), unpacked, password=password, progress=lambda _: None)
        for half, (title, seed) in enumerate(DEMO_SEEDS.items()):
            originals = demo_originals(seed, work)
            if corpus:
                originals |= corpus_originals(corpus, unpacked, half)
            videos = with_copies(originals, work)
            scores = scored(videos, distances)
            print(f"\n{title}: {len(originals)} originals, {len(videos)} videos")
            best = print_curve(scores)
            if half == 0:
                print(
                    f"chosen: share {best[0]}, distance {best[1]}; in params.yaml: share "
                    f"{config.fingerprint_share}, distance {config.fingerprint_distance}"
                )
            compare_with_whole_frames(title, scores, videos)
        if corpus:
            videos = corpus_videos(corpus, unpacked)
            scores = scored(videos, distances)
            print(f"\nthe corpus's own cascades: {len(videos)} videos")
            print_curve(scores)
            compare_with_whole_frames("corpus", scores, videos)


def compare_with_whole_frames(title: str, scores: Scores, videos: Sequence[Video]) -> None:
    """Report at the threshold in params.yaml; the ratio is of the copies that are missed."""
    config = load_params(Path("params.yaml")).index
    share, bits = config.fingerprint_share, config.fingerprint_distance
    ours = print_report(scores, share, bits)
    alone = float(np.mean(scored(videos, whole_frames)["copies"][share] <= bits))
    missed = f"{1 - alone:.4f} of the copies missed by whole frames alone, {1 - ours:.4f} by ours"
    ratio = f"ratio {(1 - alone) / (1 - ours):.1f}" if ours < 1 else "none is missed by ours"
    print(f"{title}: {missed}, {ratio}")


def made_fingerprints(num_videos: int, num_frames: int) -> list[bytes]:
    """Cascades of random videos, from one copy to two hundred, with frames that resemble."""
    draw = np.random.default_rng(SEED)

    def noise(count: int, share: float) -> np.ndarray:
        return np.packbits(draw.random((count, 512)) < share, axis=1)

    made: list[bytes] = []
    while len(made) < num_videos:
        frames = noise(1, 0.5) ^ noise(num_frames, draw.uniform(0, 0.2))
        for _ in range(min(int(draw.pareto(1.1) * 4) + 1, 200)):
            made.append((frames ^ noise(num_frames, 0.05)).tobytes())
    return made[:num_videos]


def search(num_videos: int, num_frames: int) -> None:
    """Time the search, one that adds a video, and the same distances in NumPy for some pairs."""
    limits = load_params(Path("params.yaml")).index
    options = {"max_distance": limits.fingerprint_distance, "min_share": limits.fingerprint_share}
    values = made_fingerprints(num_videos + 1, num_frames)
    with tempfile.TemporaryDirectory() as folder:
        cpu, clock = time.process_time(), time.monotonic()
        found = near_duplicates(values[:-1], **options, known=Path(folder))
        ours, ours_clock = time.process_time() - cpu, time.monotonic() - clock
        cpu, clock = time.process_time(), time.monotonic()
        near_duplicates(values, **options, known=Path(folder))
        added, added_clock = time.process_time() - cpu, time.monotonic() - clock
    block = np.concatenate([hashes_of(value) for value in values[: max(512 // num_frames, 1)]])
    rounds = []
    for _ in range(5):
        cpu = time.process_time()
        distances(block, block)
        rounds.append(time.process_time() - cpu)
    pairs = (num_videos * num_frames) ** 2 / 2
    plain = min(rounds) * pairs / len(block) ** 2
    print(
        f"{num_videos} videos of {num_frames} frames, {len(found)} matches; s of CPU time (clock)"
    )
    print(f"NumPy in blocks of {len(block)} frames, from one block   {plain:10.1f}")
    print(
        f"the search                                  {ours:10.1f} ({ours_clock:.1f})"
        f"   ratio {plain / ours:.1f}"
    )
    print(
        f"one more video                              {added:10.1f} ({added_clock:.1f})"
        f"   ratio {ours / added:.1f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the two."""
    parser = ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    of_curve = commands.add_parser("curve")
    of_curve.add_argument("--corpus", type=Path)
    of_curve.add_argument("--password", default="", help="of encrypted archives")
    of_search = commands.add_parser("search")
    of_search.add_argument("--videos", type=int, default=1000)
    of_search.add_argument("--frames", type=int, default=64)
    args = parser.parse_args(argv)
    if args.command == "curve":
        curve(args.corpus, args.password)
    else:
        search(args.videos, args.frames)


if __name__ == "__main__":
    main()
