"""The tables that cross a stage border: their columns, and how they are read and written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fvc.errors import FvcError
from fvc.files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One kind of table, in parquet or, by its file name, CSV."""

    stage: str
    """The stage that writes it, named in errors."""
    columns: Mapping[str, Any]
    """Every column in order, with its polars type; a `pl.Schema`, which beartype cannot check."""
    sort_by: tuple[str, ...]
    """Rows are written in this order, so that equal tables give equal bytes."""

    def read(self, source: Path, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Read the table.

        Args:
            source: The file.
            columns: All that are wanted, of a large table; others take no memory.

        Raises:
            FvcError: The file is missing, damaged, or has other columns.
        """
        remedy = f"Run 'dvc repro {self.stage}'"
        if not source.is_file():
            raise FvcError(source, "is missing", remedy)
        try:
            if source.suffix == ".csv":
                frame = pl.read_csv(source, schema=self.columns)
                schema = frame.schema
            else:
                schema = pl.Schema(pl.read_parquet_schema(source))
                frame = pl.read_parquet(source, columns=[*(columns or schema)])
        except pl.exceptions.PolarsError as error:
            raise FvcError(source, f"cannot be read ({error})", remedy) from error
        if schema != self.columns:
            differing = set(schema.items()) ^ set(self.columns.items())
            names = ", ".join(sorted({name for name, _ in differing}))
            raise FvcError(source, f"has other columns than expected ({names})", remedy)
        return frame if columns is None else frame.select(columns)

    def write(self, target: Path, frame: pl.DataFrame) -> None:
        """Write the table sorted, atomically.

        Raises:
            ValueError: The frame's columns are not the table's.
        """
        if frame.schema != self.columns:
            raise ValueError(f"{target.name}: columns {frame.schema} are not {self.columns}")
        rows = frame.sort(self.sort_by, nulls_last=True)
        with replacing(target) as partial:
            if target.suffix == ".csv":
                rows.write_csv(partial)
            else:
                rows.write_parquet(partial, statistics=False)

    def frame(self, rows: list[dict[str, object]]) -> pl.DataFrame:
        """Build a frame of this table's columns; a missing key is an error, not a null."""
        for row in rows:
            if row.keys() != self.columns.keys():
                raise ValueError(f"columns {sorted(row.keys() ^ self.columns.keys())} do not match")
        return pl.DataFrame(rows, schema=self.columns, orient="row")


INDEX = Table(
    stage="index",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "subset": pl.String(),
            "platform": pl.String(),
            "source_id": pl.String(),
            "path": pl.String(),
            "label": pl.String(),
            "raw_label": pl.String(),
            "cascade_ids": pl.List(pl.String),
            "group": pl.String(),
            "width": pl.Int64(),
            "height": pl.Int64(),
            "rotation_deg": pl.Int64(),
            "fps": pl.Float64(),
            "frames": pl.Int64(),
            "duration_s": pl.Float64(),
            "codec": pl.String(),
            "pixel_format": pl.String(),
            "bitrate_bps": pl.Float64(),
            "size_bytes": pl.Int64(),
            "sha256": pl.String(),
            "fingerprint": pl.Binary(),
        }
    ),
    sort_by=("video_id",),
)
"""One row per usable video. `path` is relative to the videos folder; `width` and
`height` are in pixels as displayed; `frames` counts packets."""

REJECTED = Table(
    stage="index",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "path": pl.String(),
            "reason": pl.String(),
            "detail": pl.String(),
        }
    ),
    sort_by=("video_id", "path", "reason", "detail"),
)
"""One row per annotated or present video that is not in the index."""

NEAR_DUPLICATES = Table(
    stage="index",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "other_video_id": pl.String(),
            "cascade_ids": pl.String(),
            "other_cascade_ids": pl.String(),
            "share": pl.Float64(),
            "distance": pl.Float64(),
        }
    ),
    sort_by=("video_id", "other_video_id"),
)
"""One row per pair of near-duplicates that share no cascade, of which each has its own, set
apart by spaces. `share` is that of the shorter video's frames that match, `distance` the
median number of bits in which they differ."""

FOLDS = Table(
    stage="split",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "group": pl.String(),
            "label": pl.String(),
            "part": pl.String(),
            "fold": pl.Int64(),
            "validates": pl.List(pl.Int64),
        }
    ),
    sort_by=("video_id",),
)
"""`part` is `locked` or `fold`; `fold` is the fold that tests the video, null when locked and
where a single division only trains on the video or validates with it; `validates` lists the
folds whose inner validation holds it."""


def part_in(fold: int) -> pl.Expr:
    """The part of one fold that a row of FOLDS is in: `train`, `validation`, `test`, `locked`."""
    return (
        pl.when(pl.col("part") == "locked")
        .then(pl.lit("locked"))
        .when(pl.col("fold") == fold)
        .then(pl.lit("test"))
        .when(pl.col("validates").list.contains(fold))
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )


PREDICTIONS = Table(
    stage="train",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "fold": pl.Int64(),
            "part": pl.String(),
            "label": pl.String(),
            "probability_fake": pl.Float64(),
            "logit": pl.Float64(),
            "num_clips": pl.Int64(),
        }
    ),
    sort_by=("fold", "part", "video_id"),
)
"""One row per video and fold; `part` is `train`, `validation`, `test` or `locked`, and
`logit` is the mean over the video's clips."""

OUT_OF_FOLD = Table(
    stage="evaluate",
    columns=pl.Schema(
        {
            "video_id": pl.String(),
            "fold": pl.Int64(),
            "group": pl.String(),
            "label": pl.String(),
            "probability_fake": pl.Float64(),
            "called": pl.String(),
            "verdict": pl.String(),
        }
    ),
    sort_by=("fold", "video_id"),
)
"""One row per video outside the locked test: calibrated, by the fold that tests it."""
