"""The fold assignment as others get it: one CSV, whose SHA-256 names the protocol.

`fvc export_folds` writes these bytes, and every run carries their hash as `fvc.folds_sha256`:
unlike those of a parquet file they are the same from every version of every library.
"""

import csv
import hashlib
import json
from io import StringIO

import polars as pl

COLUMNS = ("video_id", "platform", "source_id", "label", "group", "part", "fold", "validates")


def folds_csv(folds: pl.DataFrame) -> bytes:
    r"""Write a FOLDS table as CSV in UTF-8, sorted by `video_id`, with lines that end in \n.

    `fold` is empty where no fold tests the video; `validates` is a JSON list.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in folds.sort("video_id").iter_rows(named=True):
        platform, _, source_id = row["video_id"].partition("_")
        names = (row["video_id"], platform, source_id, row["label"], row["group"], row["part"])
        writer.writerow([*names, row["fold"], json.dumps(sorted(row["validates"]))])
    return text.getvalue().encode()


def folds_sha256(folds: pl.DataFrame) -> str:
    """The hexadecimal SHA-256 of `folds_csv`, as `sha256sum` gives it of the published file."""
    return hashlib.sha256(folds_csv(folds)).hexdigest()
