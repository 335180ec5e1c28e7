"""Stage clips on many short videos: two workers against one, again, and with one video more.

    python benchmarks/stage_clips.py                   # two thousand videos of two seconds
    python benchmarks/stage_clips.py --videos 60 --rounds 1                # a quick look

It makes its videos, some contents under many names, and runs the stage as a process on one core
and on two. The two share a machine with whatever else runs there: how many cores they got stands
beside the clock, and the CPU time of a video, which is what a second worker may cost.
"""

import os
import resource
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from made_videos import KINDS, make
from measuring import print_table, surroundings, verdict

from fvc.errors import FvcError
from fvc.files import sha256_of_file
from fvc.pool import run_isolated
from fvc.records import INDEX

ROOT = Path(__file__).parents[1]
PACKAGES = ("av", "numpy", "polars")
SECONDS = (1.0, 1.5, 2.0, 2.5, 3.0)
LEAST_GAIN = 1.9
MOST_AGAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Took:
    """One run of the stage."""

    clock_s: float
    cpu_s: float
    """Workers included."""

    @property
    def cores(self) -> float:
        """What it got of the machine."""
        return self.cpu_s / self.clock_s


def make_corpus(root: Path, contents: Sequence[Path], count: int) -> None:
    """So many videos with their index; the contents repeat, each video is a file of its own."""
    hashes = {content: sha256_of_file(content) for content in contents}
    empty: dict[str, object] = dict.fromkeys(INDEX.columns)
    rows = []
    for number in range(count):
        content = contents[number % len(contents)]
        place = root / "videos" / str(number) / f"video{content.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(content, place)
        told = {"video_id": f"youtube_{number:06}", "label": ("real", "fake")[number % 2]}
        path = place.relative_to(root / "videos").as_posix()
        rows.append(empty | told | {"path": path, "sha256": hashes[content]})
    INDEX.write(root / "index.parquet", INDEX.frame(rows))


def run_stage(root: Path, cores: Sequence[int]) -> Took:
    """Run the stage on these cores.

    Raises:
        CalledProcessError: It failed.
    """
    command = [sys.executable, "-m", "fvc", "clips", "--params", str(ROOT / "params.yaml")]
    for flag in ("videos", "clips"):
        command += [f"--{flag}", str(root / flag)]
    command += ["--index", str(root / "index.parquet"), "--summary", str(root / "clips.json")]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command,
        check=True,
        cwd=root,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(os.sched_setaffinity, 0, cores),
    )
    clock_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(clock_s, cpu_s)


def make_contents(folder: Path) -> list[Path]:
    """Short videos of 360p.

    Raises:
        FvcError: One could not be made.
    """
    kind = next(kind for kind in KINDS if kind.name.startswith("H.264 360p"))
    made = []
    for seconds in SECONDS:
        short = type(kind)(
            name=f"{kind.name}, {seconds} s",
            width=kind.width,
            height=kind.height,
            seconds=seconds,
            options=kind.options,
        )
        ((_, outcome),) = run_isolated(
            partial(make, folder=folder), [short], timeout_s=600, description="make a video"
        )
        if not isinstance(outcome, Path):
            raise FvcError(short.name, str(outcome), "Look for what is wrong with its encoder")
        made.append(outcome)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args(argv)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("There is one core: two workers are not compared with one.")
        return 0
    took: dict[str, list[Took]] = {}
    with TemporaryDirectory() as folder:
        contents = make_contents(Path(folder) / "contents")
        root = Path(folder) / "corpus"
        make_corpus(root, contents, args.videos)
        for _ in range(args.rounds):
            for name, used in (("one worker", cores[:1]), ("two workers", cores[:2])):
                rmtree(root / "clips", ignore_errors=True)
                took.setdefault(name, []).append(run_stage(root, used))
        took["nothing changed"] = [run_stage(root, cores[:2])]
        make_corpus(root, contents, args.videos + 1)
        took["one more video"] = [run_stage(root, cores[:2])]
    print(f"{surroundings(PACKAGES)}; {args.videos} videos, the fastest of {args.rounds} rounds\n")
    best = {name: min(runs, key=lambda run: run.clock_s) for name, runs in took.items()}
    rows = [
        [name, *(f"{value:.2f}" for value in (run.clock_s, run.cores, run.cpu_s))]
        for name, run in best.items()
    ]
    print_table(["", "s by the clock", "cores got", "s of CPU time"], rows)
    one, two = best["one worker"], best["two workers"]
    print(f"Two workers take {two.cpu_s / one.cpu_s:.2f} of the CPU time of one.")
    claims = {"two workers over one, by the clock": (one.clock_s / two.clock_s, LEAST_GAIN)}
    claims["a second run, s"] = (-best["nothing changed"].clock_s, -MOST_AGAIN_S)
    return 0 if verdict(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
