"""The fold assignment as others get it: one CSV, whose SHA-256 names the protocol.

`fvc export_folds` writes these bytes, and every run carries their hash as `fvc.folds_sha256`:
unlike those of a parquet file they are the same from every version of every library.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from io import StringIO

import polars as pl

COLUMNS = ("video_id", "platform", "source_id", "label", "group", "part", "fold", "validates")


BLOCK_ROWS = 100_000
"""So many rows are text at a time: of ten million, all would take gigabytes."""


def folds_csv(folds: pl.DataFrame) -> bytes:
    r"""Write a FOLDS table as CSV in UTF-8, sorted by `video_id`, with lines that end in \n.

    `fold` is empty where no fold tests the video; `validates` is a JSON list.
    """
    return b"".join(folds_csv_blocks(folds))


def folds_csv_blocks(folds: pl.DataFrame) -> Iterator[bytes]:
    """The bytes of `folds_csv`, some at a time."""
    yield _lines([COLUMNS])
    names = ("video_id", "label", "group", "part", "fold", "validates")
    for block in folds.select(names).sort("video_id").iter_slices(BLOCK_ROWS):
        yield _lines(
            (video_id, *_named(video_id), label, group, part, fold, json.dumps(sorted(validates)))
            for video_id, label, group, part, fold, validates in block.iter_rows()
        )


def _named(video_id: str) -> tuple[str, str]:
    platform, _, source_id = video_id.partition("_")
    return platform, source_id


def _lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def folds_sha256(folds: pl.DataFrame) -> str:
    """The hexadecimal SHA-256 of `folds_csv`, as `sha256sum` gives it of the published file."""
    digest = hashlib.sha256()
    for block in folds_csv_blocks(folds):
        digest.update(block)
    return digest.hexdigest()
