"""The tables of many videos: made, grouped and written, divided and audited, and published.

    python benchmarks/scale_tables.py                         # ten million rows
    python benchmarks/scale_tables.py --videos 100000         # a quick look

Cascades are as large as those of the Fake Video Corpus, of one label mostly and of several
platforms; some share a title, some videos are copies of one another. There are no files and no
fingerprints: the search for near-duplicates is no part of this. Each step is a process of its own,
which says at its end how much memory it took at most.
"""

import json
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import polars as pl
from measuring import cpu_s, folder_or_temporary, print_table, surroundings, verdict

from fvc.annotations import AnnotatedVideo, Annotations
from fvc.config import load_params
from fvc.groups import connected, shared
from fvc.probing import Findings
from fvc.publishing import write_csv, write_json_rows
from fvc.records import INDEX
from fvc.stages import export_folds, split
from fvc.stages.index import index_rows, name_groups
from fvc.video import VideoInfo

ROOT = Path(__file__).parents[1]
VIDEOS = 10_000_000
MOST_SPLIT_S, MOST_SPLIT_GB = 600.0, 12.0
LOG_SIZE, LOG_SPREAD, LARGEST = 1.83, 1.245, 1000
"""Of the videos of a cascade: mean and deviation of the logarithms in the published
annotations, where the largest group has 224."""
FAKE = 0.53
"""Share of the cascades that are mostly fake."""
MIXED = 0.03
"""Share of the cascades in which labels differ."""
SAME_TITLE, COPIES = 0.01, 0.02
"""Shares of the cascades that have the title of another, and of the videos that are copies."""
PLATFORM_SHARES = {"facebook": 0.38, "twitter": 0.02, "youtube": 0.60}


def make_videos(count: int, seed: int) -> pl.DataFrame:
    """Videos with what annotations and files tell of them; `title` is that of their cascade."""
    generator = np.random.default_rng(seed)
    expected = int(count / np.exp(LOG_SIZE + LOG_SPREAD**2 / 2) * 1.2) + 20
    sizes = np.exp(generator.normal(LOG_SIZE, LOG_SPREAD, expected)).astype(np.int64) + 1
    cascade = np.repeat(np.arange(expected), np.minimum(sizes, LARGEST))[:count]
    if len(cascade) < count:
        raise ValueError("fewer videos than wanted; draw more cascades")
    is_fake = generator.random(expected) < FAKE
    mixed = generator.random(expected) < MIXED
    flipped = mixed[cascade] & (generator.random(count) < 0.2)
    title = np.arange(expected)
    again = generator.random(expected) < SAME_TITLE
    title[again] = generator.integers(0, expected, again.sum())
    leaning = generator.dirichlet(20 * np.array([*PLATFORM_SHARES.values()]), expected)
    drawn = (generator.random((count, 1)) > leaning.cumsum(axis=1)[cascade]).sum(axis=1)
    content = np.arange(count)
    copied = generator.random(count) < COPIES
    # A copy is of a video a little earlier, of the same cascade or of its neighbour.
    content[copied] = np.maximum(content[copied] - generator.integers(1, 4, copied.sum()), 0)
    letter = pl.when(pl.col("is_fake_cascade")).then(pl.lit("f")).otherwise(pl.lit("r"))
    names = pl.Series([*PLATFORM_SHARES])
    frame = pl.DataFrame(
        {
            "number": generator.permutation(count),
            "cascade": cascade,
            "title": title[cascade],
            "content": content,
            "is_fake_cascade": is_fake[cascade],
            "is_fake": is_fake[cascade] ^ flipped,
            "platform": names.gather(np.minimum(drawn, len(names) - 1)),
        }
    )
    return frame.select(
        "platform",
        "title",
        source_id=pl.col("number").cast(pl.String).str.zfill(11),
        label=pl.when("is_fake").then(pl.lit("fake")).otherwise(pl.lit("real")),
        cascade=letter + pl.col("cascade").cast(pl.String),
        # As many characters as a digest has, and as little alike.
        sha256=pl.concat_str(
            [pl.format("{}", pl.col("content").hash(part)).str.zfill(20) for part in range(3)]
        ).str.pad_end(64, "0"),
    ).with_columns(video_id=pl.format("{}_{}", "platform", "source_id"))


def links_of(made: Path) -> Iterator[tuple[str, str]]:
    """What ties videos together, as stage `index` has it, but for near-duplicates."""
    videos = pl.read_parquet(made, columns=["video_id", "cascade", "title", "sha256"])
    cascades = videos.select("cascade", "title").unique().sort("cascade")
    yield from shared({name: [str(title)] for name, title in cascades.iter_rows()})
    copies = videos.filter(pl.col("sha256").is_duplicated()).select("video_id", "sha256")
    yield from shared({video_id: [digest] for video_id, digest in copies.iter_rows()})
    videos = videos.select("video_id", "cascade")
    yield from videos.iter_rows()


def index_table(made: Path, index: Path) -> None:
    """Form the groups with the code of stage `index`, and write the table as it does."""
    names = connected(links_of(made))
    videos = pl.read_parquet(made)
    groups = pl.Series([names[video_id] for video_id in videos["video_id"]])
    del names
    INDEX.write(index, with_made_files(videos.with_columns(group=groups)))


def with_made_files(videos: pl.DataFrame) -> pl.DataFrame:
    """An `INDEX` table of videos whose files are made up."""
    generator = np.random.default_rng(0)
    frames = generator.integers(50, 20_000, videos.height)
    size = generator.integers(10**5, 10**8, videos.height)
    columns = videos.select(
        *("video_id", "platform", "source_id", "label", "group", "sha256"),
        subset=pl.lit("FVC1"),
        path=pl.format("FVC1/{}/{}/video.mp4", "platform", "source_id"),
        raw_label="label",
        cascade_ids=pl.concat_list("cascade"),
        width=pl.lit(1280, dtype=pl.Int64),
        height=pl.lit(720, dtype=pl.Int64),
        rotation_deg=pl.lit(0, dtype=pl.Int64),
        fps=pl.lit(30.0),
        frames=pl.Series(frames),
        duration_s=pl.Series(frames / 30),
        codec=pl.lit("h264"),
        pixel_format=pl.lit("yuv420p"),
        bitrate_bps=pl.Series(size * 240 / frames),
        size_bytes=pl.Series(size),
        fingerprint=pl.lit(b"", dtype=pl.Binary),
    )
    return columns.select(*INDEX.columns)


def index_objects(made: Path, folder: Path) -> None:
    """What stage `index` does with a video apart from its file: objects, groups, rows, tables."""
    videos = pl.read_parquet(made)
    table = with_made_files(videos.with_columns(group=pl.lit("")))
    titles = {row[0]: frozenset([str(row[1])]) for row in videos.select("cascade", "title").rows()}
    findings, annotated, paths = {}, {}, {}
    told = [field.name for field in fields(VideoInfo)]
    for row in table.iter_rows(named=True):
        info = VideoInfo(**{name: row[name] for name in told})
        # As large as those of thirty seconds of video.
        look = row["sha256"].encode() * 60
        name = row["video_id"]
        findings[name] = Findings(
            sha256=row["sha256"],
            size_bytes=row["size_bytes"],
            info=info,
            fingerprint=look,
            refusal=None,
        )
        annotated[name] = AnnotatedVideo(
            row["platform"],
            row["source_id"],
            {row["label"]},
            {row["raw_label"]},
            set(row["cascade_ids"]),
        )
        paths[name] = row["path"]
    annotations = Annotations(
        videos=annotated, unparsable=(), num_rows={}, num_repeated=0, titles=titles, untitled=()
    )
    groups = name_groups(findings, annotations, [])
    INDEX.write(folder / "few.parquet", INDEX.frame(index_rows(findings, paths, annotated, groups)))
    written = INDEX.read(folder / "few.parquet")
    write_csv(folder / "few.csv", written)
    write_json_rows(folder / "few.json", written)


STEPS: Mapping[str, tuple[str, ...]] = {
    "make": ("made.parquet",),
    "index": ("index.parquet",),
    "split": ("folds.parquet", "split.json"),
    "export_folds": ("folds.csv", "folds.csv.sha256"),
    "make_few": ("made_few.parquet",),
    "index_few": ("few.parquet", "few.csv", "few.json"),
}
"""What each step writes."""


def do(step: str, folder: Path, count: int) -> None:
    """One step, in a process of its own."""
    if step.startswith("make"):
        made = make_videos(count, seed=0)
        made.write_parquet(folder / STEPS[step][0])
    elif step == "index":
        index_table(folder / "made.parquet", folder / "index.parquet")
    elif step == "index_few":
        index_objects(folder / "made_few.parquet", folder)
    elif step == "split":
        paths = {"index": "index.parquet", "folds": "folds.parquet", "summary": "split.json"}
        flags = {name: folder / file for name, file in paths.items()}
        split.run(load_params(ROOT / "params.yaml"), probes=folder / "probes", **flags)
    else:
        csv = folder / "folds.csv"
        digest = folder / "folds.csv.sha256"
        export_folds.run(folds=folder / "folds.parquet", csv=csv, digest=digest)


def most_memory_gb() -> float:
    """The largest size this process ever had in memory, as the kernel kept it (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e9
    raise ValueError("this kernel does not tell VmHWM")


@dataclass(frozen=True, slots=True)
class Took:
    """One step."""

    clock_s: float
    cpu_s: float
    memory_gb: float
    megabytes: float
    """Written."""


def run_step(step: str, folder: Path, count: int) -> Took:
    """Run one step as a process.

    Raises:
        CalledProcessError: It failed.
    """
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--videos", str(count)], check=True, stdout=subprocess.PIPE, text=True
    )
    clock_s, cpu, memory_gb = json.loads(done.stdout.splitlines()[-1])
    size = sum((folder / name).stat().st_size for name in STEPS[step])
    return Took(clock_s, cpu, memory_gb, size / 1e6)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 where a promise is broken."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--few", type=int, default=100_000, help="for what keeps objects")
    parser.add_argument("--folder", type=Path, help="kept; a temporary one without it")
    parser.add_argument("--step", choices=STEPS, help="only this one, in this process")
    args = parser.parse_args(argv)
    if args.step:
        started = time.perf_counter()
        do(args.step, args.folder, args.videos)
        print(json.dumps([time.perf_counter() - started, cpu_s(), most_memory_gb()]))
        return 0
    print(f"{surroundings(['polars', 'numpy', 'scikit-learn'])}\n", flush=True)
    with folder_or_temporary(args.folder) as folder:
        rows, took = [], {}
        for step in STEPS:
            count = min(args.few, args.videos) if step.endswith("_few") else args.videos
            found = took[step] = run_step(step, folder, count)
            print(f"{step}: {found}", file=sys.stderr, flush=True)
            figures = (found.clock_s, found.cpu_s, found.memory_gb, found.megabytes)
            rows.append([step, f"{count:,}", *(f"{value:.1f}" for value in figures)])
        told = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    header = ["step", "videos", "s by the clock", "s of CPU time", "most memory, GB", "MB written"]
    print_table(header, rows)
    groups = told["locked"]["groups"] + sum(
        told["folds"][0][part]["groups"] for part in split.PARTS
    )
    print(f"{groups:,} groups; audit: {told['audit']}")
    claims = {
        "split, s by the clock": (-took["split"].clock_s, -MOST_SPLIT_S),
        "split, most memory, GB": (-took["split"].memory_gb, -MOST_SPLIT_GB),
    }
    return 0 if verdict(claims) else 1


if __name__ == "__main__":
    sys.exit(main())
