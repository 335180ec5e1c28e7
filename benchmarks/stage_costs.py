"""What each stage takes for a thousand videos: CPU time, bytes, and dollars at assumed prices.

    python benchmarks/stage_costs.py                          # six minutes of CPU time
    python benchmarks/stage_costs.py --videos 24 --copies 1              # a quick look

The stages run as processes on a demo corpus; those whose work grows with the video also on larger
made ones, each under several names with bytes of its own. The time of a stage is that of all its
processes, less what it takes to start, so that a thousand videos are a thousand times one.
"""

import csv
import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import copy
from zipfile import ZipFile

import polars as pl
import yaml
from made_videos import Kind, make
from measuring import cpu_s, folder_or_temporary, print_table, surroundings

from fvc.errors import FvcError
from fvc.pool import run_isolated
from fvc.records import FOLDS, INDEX, part_in

ROOT = Path(__file__).parents[1]
USD_PER_CPU_HOUR, USD_PER_GB_MONTH = 0.04, 0.023
"""Assumed: what large providers ask for a core of a plain machine and for object storage."""
PACKAGES = ("polars", "av", "opencv-python-headless", "torch", "mlflow")
MODEL = "models:/fvc/1"
EPOCHS = (1, 3)
"""An epoch is half of what the second training takes above the first."""
LARGE = tuple(
    Kind(
        name=f"{height}p {seconds} s",
        width=width,
        height=height,
        seconds=seconds,
        options={"g": "250", "bf": "3"},
    )
    for width, height, seconds in ((854, 480, 20), (1280, 720, 40))
)
ONE_FOLD: Mapping[str, Mapping[str, object]] = {"split": {"scheme": "single", "folds": [0]}}
LARGE_CLIPS: Mapping[str, Mapping[str, object]] = {
    "clips": {"num_frames": 16, "side_px": 224},
    "augment": {"versions": 3},
}
"""Those of `conf/scale/full.yaml`."""
OUTPUTS: Mapping[str, Sequence[str]] = {
    "extract": ("videos",),
    "index": ("probes", "index.parquet", "index.csv", "index_rows.json"),
    "split": ("folds.parquet", "split.json"),
    "export_folds": ("folds.csv",),
    "clips": ("clips",),
    "augment": ("augmented",),
    "flow": ("flow",),
    "train": ("models", "checkpoints"),
    "evaluate": ("evaluation", "robustness"),
    "register": ("registered.json",),
    "predict": (),
}
"""Below `work/`, what a stage leaves."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one stage on one corpus."""

    stage: str
    videos: int
    """What the stage had to do with; an epoch of training only has its own."""
    cpu_s: float
    start_s: float
    """CPU time that it takes to start, which is not in the other."""
    size: int
    """Bytes that it leaves."""

    def cells(self) -> list[str]:
        """A row for a thousand videos."""
        thousand = 1000 / self.videos
        seconds, gigabytes = self.cpu_s * thousand, self.size * thousand / 1e9
        dollars = seconds / 3600 * USD_PER_CPU_HOUR
        return [
            self.stage,
            str(self.videos),
            f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}",
            f"{self.start_s:.1f}",
            f"{gigabytes * 1000:,.1f}",
            f"{dollars:.4f}",
            f"{gigabytes * USD_PER_GB_MONTH:.4f}",
        ]


class Corpus:
    """A folder in which the stages run with parameters of their own."""

    def __init__(self, folder: Path, changes: Mapping[str, Mapping[str, object]]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        copy(ROOT / "dvc.yaml", folder)
        self.set(changes)

    def set(self, changes: Mapping[str, Mapping[str, object]]) -> None:
        """Take the committed parameters with these changes."""
        params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        for section, values in changes.items():
            params[section] |= values
        text = yaml.safe_dump(params, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def run(self, stage: str, *flags: str) -> float:
        """Run a command of ours, and give the CPU time of all its processes.

        Raises:
            FvcError: It failed.
        """
        before = cpu_s()
        done = subprocess.run(
            [sys.executable, "-m", "fvc", stage, *flags],
            cwd=self.folder,
            # Threads that wait for each other on a busy machine burn time that no video takes.
            env={**os.environ, "DVC_ROOT": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise FvcError(stage, done.stderr[-2000:], "Look for what is wrong")
        print(f"{stage} {' '.join(flags)}: {cpu_s() - before:.1f} s", file=sys.stderr, flush=True)
        return cpu_s() - before

    def cost(self, stage: str, *flags: str, videos: int = 0) -> Cost:
        """Run a stage, and say what it took and left, for the videos of the index."""
        start_s = self.run(stage, "--help")
        took = self.run(stage, *flags)
        size = sum(size_of(self.folder / "work" / name) for name in OUTPUTS[stage])
        return Cost(stage, videos or self.videos, max(took - start_s, 0.0), start_s, size)

    @property
    def videos(self) -> int:
        """How many the index has; what is annotated, before there is one."""
        index = self.folder / "work" / "index.parquet"
        if index.is_file():
            return len(INDEX.read(index, columns=["video_id"]))
        return sum(1 for _ in (self.folder / "work" / "videos").rglob("video.*"))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_large(target: Path, contents: Sequence[Path], copies: int) -> None:
    """An archive of videos and their annotations: each content a few times, with other bytes."""
    (target / "archives").mkdir(parents=True)
    (target / "annotations").mkdir()
    rows = []
    with ZipFile(target / "archives" / "FVC1.zip", "w") as archive:
        for number in range(copies * len(contents)):
            content = contents[number % len(contents)]
            source_id = f"large{number:06}"
            # A box that players skip: the same video in a file that no other equals.
            own = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
            name = f"FVC1/youtube/{source_id}/video{content.suffix}"
            archive.writestr(name, content.read_bytes() + own)
            url = f"https://www.youtube.com/watch?v={source_id}"
            rows.append((f"f{number}", url, ("fake", "real")[number % 2]))
    for name, told in (("FVC.csv", rows), ("FVC_dup.csv", [])):
        with (target / "annotations" / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("cascade_id", "video_url", "label"), *told])


def place_all(corpus: Corpus) -> None:
    """Let a fold train on every video: of few contents there is no honest split."""
    index = INDEX.read(corpus.folder / "work" / "index.parquet")
    placed = index.select(
        *("video_id", "group", "label"),
        part=pl.lit("fold"),
        fold=pl.int_range(pl.len()) % 2,
        validates=pl.lit([], dtype=pl.List(pl.Int64)),
    )
    FOLDS.write(corpus.folder / "work" / "folds.parquet", placed)


def measure_small(folder: Path, videos: int) -> tuple[list[Cost], str]:
    """Every stage on a demo corpus, with the committed parameters and one fold."""
    corpus = Corpus(folder, ONE_FOLD)
    corpus.run("demo", "data", "--videos", str(videos))
    costs = [corpus.cost(stage) for stage in ("extract", "index", "split", "export_folds")]
    costs += [corpus.cost(stage) for stage in ("clips", "augment")]
    # Only a network that sees the flow has it stored.
    corpus.set({**ONE_FOLD, "model": {"network": "two_stream", "head": "linear"}})
    costs.append(corpus.cost("flow"))
    corpus.set(ONE_FOLD)
    corpus.run("flow")
    places = FOLDS.read(folder / "work" / "folds.parquet")
    training = places.filter(part_in(0) == "train").height
    taken = []
    for epochs in EPOCHS:
        corpus.set({**ONE_FOLD, "train": {"epochs": epochs, "patience": epochs}})
        costs_of_training = corpus.cost("train", "--fold", "0")
        taken.append(costs_of_training.cpu_s)
    epoch_s = (taken[1] - taken[0]) / (EPOCHS[1] - EPOCHS[0])
    costs.append(Cost("train, an epoch", training, epoch_s, 0, 0))
    rest = taken[0] - EPOCHS[0] * epoch_s
    left = sum(size_of(folder / "work" / name) for name in OUTPUTS["train"])
    fixed = (
        f"A fold takes {rest:.0f} s of CPU time beside its epochs and leaves {left / 1e6:.0f} MB"
    )
    costs.append(corpus.cost("evaluate"))
    costs.append(corpus.cost("register"))
    costs.append(corpus.cost("predict", "work/videos", "--model", MODEL))
    return costs, fixed


def measure_large(folder: Path, copies: int) -> list[Cost]:
    """What grows with the length and size of videos, or with the size of clips."""
    (folder / "contents").mkdir(parents=True)
    outcomes = run_isolated(
        partial(make, folder=folder / "contents"),
        LARGE,
        timeout_s=3600,
        description="make videos",
    )
    contents = []
    for kind, outcome in outcomes:
        if not isinstance(outcome, Path):
            raise FvcError(kind.name, str(outcome), "Look for what is wrong with its encoder")
        contents.append(outcome)
    corpus = Corpus(folder / "corpus", LARGE_CLIPS)
    write_large(corpus.folder / "data", sorted(contents), copies)
    costs = [corpus.cost(stage) for stage in ("extract", "index")]
    place_all(corpus)
    costs += [corpus.cost(stage) for stage in ("clips", "augment")]
    corpus.set({**LARGE_CLIPS, "model": {"network": "two_stream", "head": "linear"}})
    costs.append(corpus.cost("flow"))
    return costs


def measure_scoring(small: Path, large: Path) -> Cost:
    """The model of the demo corpus on the larger videos."""
    corpus, asked = Corpus(large, LARGE_CLIPS), Corpus(small, ONE_FOLD)
    videos = str(large / "work" / "videos")
    return asked.cost("predict", videos, "--model", MODEL, videos=corpus.videos)


def main(argv: Sequence[str] | None = None) -> None:
    """Print both tables."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=64, help="of the demo corpus")
    parser.add_argument("--copies", type=int, default=4, help="of each larger video")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one without it")
    args = parser.parse_args(argv)
    header = ["stage", "videos", "s of CPU time", "start, s", "MB", "USD, once", "USD a month"]
    print(
        f"{surroundings(PACKAGES)}; for a thousand videos, at {USD_PER_CPU_HOUR} USD for an hour "
    )
    print(f"of a core and {USD_PER_GB_MONTH} for a month of a gigabyte, both assumed\n", flush=True)
    with folder_or_temporary(args.folder) as folder:
        small, fixed = measure_small(folder / "small", args.videos)
        print_table(header, [cost.cells() for cost in small])
        print(f"{fixed}\n", flush=True)
        large = measure_large(folder / "large", args.copies)
        large.append(measure_scoring(folder / "small", folder / "large" / "corpus"))
        print_table(header, [cost.cells() for cost in large])


if __name__ == "__main__":
    main()
