"""Sixteen uniformly spaced frames of a video: ours against the usual ways, by CPU time.

    python benchmarks/decode.py                        # all kinds, which takes an hour
    python benchmarks/decode.py --kinds 1 2 --seconds 5 --rounds 1         # a quick look
    python benchmarks/decode.py --videos FOLDER        # keeps the videos for the next time

It makes its videos, of which every frame shows its number. Before any time is taken, the frames
of every way are checked: their numbers, and their pixels against ours. Then all take turns on
one thread each, and the least time of several rounds counts. The floor sends the decoder the
packets of our plan and converts nothing.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
from decoders import COMPETITORS, INSTALLATION, PACKAGES, SIDE_PX, DecoderError, Way
from jaxtyping import UInt8
from made_videos import KINDS, Kind, Wanted, make, read_number, wanted
from measuring import (
    Processes,
    ProcessLostError,
    folder_or_temporary,
    geometric_mean,
    print_table,
    surroundings,
    verdict,
)

from fvc.config import ClipsConfig, load_params
from fvc.errors import FvcError
from fvc.pool import run_isolated
from fvc.video import decoding, read_clips
from fvc.video.packets import by_appearance, distrust, packets_to_send

NUM_FRAMES = 16
MAX_DIFFERENCE = 5.0
"""Between two ways to scale a noisy picture, on average and in levels of 255."""
LEAST = {"cv2 seek": 5.0, "decode all, PIL": 4.0, "torchcodec": 1.6, "decord2": 1.8}
MOST_OVER_FLOOR, LEAST_SEGMENT = 1.10, 2.0
SEGMENT_SECONDS = 60
MAKING_TIMEOUT_S = 3600.0
SKIPS = ("libx264", "libx265", "mpeg4")
"""Encoders of the kinds whose frames say whether others refer to them."""
OURS, SEGMENT, FLOOR = "ours", "ours, segment", "floor"


@dataclass(slots=True)
class Result:
    """What was found of one kind."""

    kind: Kind
    bits_per_pixel: float
    unreferenced: float
    """Share of the frames that show a B-frame, as the plan can leave out."""
    right: dict[str, int] = field(default_factory=dict)
    """Frames that are the wanted ones, by the way."""
    difference: dict[str, float] = field(default_factory=dict)
    """Mean difference of the right frames' pixels from ours, in levels."""
    unable: dict[str, str] = field(default_factory=dict)
    """Why a way gives nothing."""
    times_ms: dict[str, float] = field(default_factory=dict)


def ours(target: Wanted, config: ClipsConfig) -> UInt8[np.ndarray, "T S S 3"]:
    """The planned decode; it finds out by itself which frames to take."""
    return read_clips(target.file, config).pixels[0].transpose(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What ours sends to the decoder."""

    runs: tuple[range, ...]
    """Packets, in order and apart."""
    targets: frozenset[int]
    """Those whose frames are wanted."""
    pts: frozenset[int]
    """Timestamps of the wanted frames."""
    skips: bool
    """Frames that no other refers to are left out."""


def plan(target: Wanted, skips: bool) -> Plan:
    """The plan for the wanted frames; all up to the last one where packets cannot be picked."""
    with decoding.opened(target.file) as (container, stream):
        packets, clock = decoding.scan(container, stream)
    targets = by_appearance(packets)[list(target.numbers)]
    wanted_frames = {"targets": frozenset(targets.tolist())}
    wanted_frames["pts"] = frozenset(packets.pts[targets].tolist())
    if distrust(packets, clock) is not None:
        return Plan(runs=(range(int(targets.max()) + 1),), skips=False, **wanted_frames)
    runs = tuple(packets_to_send(packets, targets.tolist()))
    return Plan(runs=runs, skips=skips, **wanted_frames)


def floor(target: Wanted, planned: Plan) -> set[int | None]:
    """Decode what the plan says, convert nothing, and give the timestamps that came out."""
    shown: set[int | None] = set()
    rest = iter(planned.runs)
    run = next(rest)
    with av.open(str(target.file)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_count = 1
        sent = (packet for packet in container.demux(stream) if packet.size)
        for position, packet in enumerate(sent):
            if position < run.start:
                continue
            if planned.skips:
                context.skip_frame = "DEFAULT" if position in planned.targets else "NONREF"
            shown.update(frame.pts for frame in context.decode(packet))
            if position == run[-1]:
                shown.update(frame.pts for frame in context.decode(None))
                context.flush_buffers()
                run = next(rest, range(0))
            if not run:
                break
    return shown


def check(
    result: Result,
    name: str,
    images: UInt8[np.ndarray, "T S S 3"],
    reference: np.ndarray,
    target: Wanted,
) -> None:
    """Note which frames a way gave and how far its pixels are from ours."""
    numbers = [read_number(image, result.kind) for image in images]
    if name == SEGMENT:
        spans = zip(numbers, target.span_edges, target.span_edges[1:], strict=False)
        result.right[name] = sum(n is not None and a <= n <= b for n, a, b in spans)
        return
    right = [n == wanted_n for n, wanted_n in zip(numbers, target.numbers, strict=True)]
    result.right[name] = sum(right)
    if any(right):
        result.difference[name] = float(cv2.absdiff(images, reference)[right].mean())


def compare(
    kind: Kind,
    file: Path,
    ways: Sequence[Way],
    configs: Mapping[str, ClipsConfig],
    processes: Processes,
    rounds: int,
) -> Result:
    """Check all ways on a video of a kind, then let them take turns."""
    target = wanted(kind, file, NUM_FRAMES)
    result = _described(kind, file)
    reference = ours(target, configs[OURS])
    calls: dict[str, tuple[str, Callable[[], object]]] = {}
    for name, config in configs.items():
        call = partial(ours, target, config)
        check(result, name, processes.call(OURS, call), reference, target)
        calls[name] = (OURS, call)
    for way in ways:
        call = partial(way.decode, target)
        try:
            check(result, way.name, processes.call(way.module, call), reference, target)
        except (DecoderError, ProcessLostError) as error:
            result.unable[way.name] = str(error)
        else:
            calls[way.name] = (way.module, call)
    planned = plan(target, kind.codec in SKIPS)
    bare = partial(floor, target, planned)
    if missing := planned.pts - processes.call(OURS, bare):
        raise DecoderError(f"{len(missing)} frames do not come out at the floor")
    calls[FLOOR] = (OURS, bare)
    result.times_ms = processes.in_turn(calls, rounds)
    return result


def _described(kind: Kind, file: Path) -> Result:
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if kind.codec in SKIPS:
            stream.codec_context.skip_frame = "NONREF"
        kept = sum(1 for _ in container.decode(stream))
    bits = 8 * file.stat().st_size / (kind.num_frames * kind.width * kind.height)
    return Result(kind, bits, 1 - kept / kind.num_frames)


def present(processes: Processes) -> list[Way]:
    """The ways whose libraries are there; the others are named."""
    ways = []
    for way in COMPETITORS:
        if why := processes.call(way.module, way.absence):
            print(f"{way.name} is skipped: {why} ({INSTALLATION})")
        else:
            ways.append(way)
    return ways


def make_all(kinds: Sequence[Kind], folder: Path) -> list[Path]:
    """Make the videos that are missing, on all cores."""
    made = {}
    outcomes = run_isolated(
        partial(make, folder=folder), kinds, timeout_s=MAKING_TIMEOUT_S, description="make videos"
    )
    for kind, outcome in outcomes:
        if not isinstance(outcome, Path):
            raise FvcError(kind.name, str(outcome), "Look for what is wrong with its encoder")
        made[kind.name] = outcome
    return [made[kind.name] for kind in kinds]


def report(results: Sequence[Result], names: Sequence[str]) -> None:
    """Print times, ratios, and what was right."""
    columns = [*names, SEGMENT, OURS, FLOOR]

    def cells(values: Mapping[str, float], spelled: str) -> list[str]:
        return [format(values[name], spelled) if name in values else "-" for name in columns]

    print("CPU milliseconds a video:\n")
    rows = [[result.kind.name, *cells(result.times_ms, ".0f")] for result in results]
    for whose, some in (("promised", _promised(results)), ("all", results)):
        ratios = {name: found for name in columns if (found := _ratios(some, name))}
        means = {name: geometric_mean(found) for name, found in ratios.items()}
        rows.append([f"over ours, geometric mean of {whose} {len(some)}", *cells(means, ".2f")])
    print_table(["video", *columns], rows)
    print("Right frames of 16, and the mean difference of their pixels from ours:\n")
    checked = columns[:-1]
    rows = []
    for result in results:
        found = [
            f"{result.right.get(name, 0)}, {result.difference.get(name, 0):.1f}"
            if name in result.right
            else "-"
            for name in checked
        ]
        facts = [f"{result.bits_per_pixel:.2f}", f"{100 * result.unreferenced:.0f}%"]
        rows.append([result.kind.name, *facts, *found])
    print_table(["video", "bits a pixel", "unreferenced", *checked], rows)
    for result in results:
        for name, why in result.unable.items():
            print(f"{name} gives nothing of {result.kind.name}: {why}")


def _promised(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.kind.is_promised]


def _ratios(results: Sequence[Result], name: str) -> list[float]:
    """Time of a way over ours, for each kind that it can decode."""
    return [r.times_ms[name] / r.times_ms[OURS] for r in results if name in r.times_ms]


def agreement(results: Sequence[Result]) -> bool:
    """Whether ours are the right frames, and the pixels of the right ones agree everywhere."""
    agree = True
    for result in results:
        for name in (OURS, SEGMENT):
            if result.right[name] < NUM_FRAMES:
                print(f"{name} gives wrong frames of {result.kind.name}")
                agree = False
        for name, difference in result.difference.items():
            if difference > MAX_DIFFERENCE:
                print(f"{name} gives other pixels of {result.kind.name}: {difference:.1f} levels")
                agree = False
    return agree


def judge(results: Sequence[Result]) -> bool:
    """Print what was reached of what is promised."""
    results = _promised(results)
    claims = {
        f"{name} over ours": (geometric_mean(ratios), least)
        for name, least in LEAST.items()
        if (ratios := _ratios(results, name))
    }
    if floors := _ratios(results, FLOOR):
        claims["ours over the floor"] = (-1 / geometric_mean(floors), -MOST_OVER_FLOOR)
    long = [result for result in results if result.kind.seconds == SEGMENT_SECONDS]
    if long:
        gain = 1 / geometric_mean(_ratios(long, SEGMENT))
        claims["ours over ours by segment, 60 s videos"] = (gain, LEAST_SEGMENT)
    return verdict(claims)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 1 where outputs disagree or a promise is broken."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    numbers = ", ".join(f"{number} {kind.name}" for number, kind in enumerate(KINDS, 1))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", type=int, nargs="+", help=f"some of {numbers}")
    parser.add_argument("--seconds", type=float, help="the longest that a video may be")
    parser.add_argument("--videos", type=Path, help="where videos are kept for the next time")
    args = parser.parse_args(argv)
    kinds = [KINDS[number - 1] for number in args.kinds or range(1, len(KINDS) + 1)]
    if args.seconds is not None:
        kinds = [replace(kind, seconds=min(kind.seconds, args.seconds)) for kind in kinds]
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    shape = {"views": "spans", "num_clips": 1, "num_frames": NUM_FRAMES, "side_px": SIDE_PX}
    exact = replace(params.clips, **shape, fit="letterbox", sampling="exact")
    with folder_or_temporary(args.videos) as folder:
        files = make_all(kinds, folder)
        configs = {OURS: exact, SEGMENT: replace(exact, sampling="segment")}
        results = []
        with Processes() as processes:
            ways = present(processes)
            for kind, file in zip(kinds, files, strict=True):
                results.append(compare(kind, file, ways, configs, processes, args.rounds))
                times = (f"{name} {ms:.0f}" for name, ms in results[-1].times_ms.items())
                print(f"{kind.name}, ms: {', '.join(times)}", file=sys.stderr)
    print(f"\n{surroundings(PACKAGES)}; the least of {args.rounds} rounds\n")
    report(results, [way.name for way in ways])
    agree = agreement(results)
    kept = judge(results)
    if kinds != list(KINDS):
        print("The promises are about all kinds at full length.")
        return 0 if agree else 1
    return 0 if agree and kept else 1


if __name__ == "__main__":
    sys.exit(main())
