import csv
import hashlib
import json
from io import StringIO

import pytest

from fvc.addresses import PLATFORMS
from fvc.annotations import video_id_of
from fvc.protocol import COLUMNS, folds_csv, folds_sha256
from fvc.records import FOLDS

ROWS: list[dict[str, object]] = [
    {"video_id": "youtube_a_b-C", "group": "f0", "part": "fold", "fold": 1, "validates": [2, 0]},
    {"video_id": "facebook_10", "group": "f0", "part": "fold", "fold": None, "validates": []},
    {"video_id": "twitter_7", "group": "r1", "part": "locked", "fold": None, "validates": []},
]
TABLE = FOLDS.frame([{**row, "label": "fake"} for row in ROWS])
PUBLISHED = """\
video_id,platform,source_id,label,group,part,fold,validates
facebook_10,facebook,10,fake,f0,fold,,[]
twitter_7,twitter,7,fake,r1,locked,,[]
youtube_a_b-C,youtube,a_b-C,fake,f0,fold,1,"[0, 2]"
"""


def test_the_bytes_are_a_promise() -> None:
    assert folds_csv(TABLE).decode() == PUBLISHED, "every hash of a run would mean another protocol"
    assert folds_sha256(TABLE) == hashlib.sha256(PUBLISHED.encode()).hexdigest()


def test_any_csv_reader_gets_the_table_back() -> None:
    rows = list(csv.DictReader(StringIO(folds_csv(TABLE).decode())))
    assert tuple(rows[0]) == COLUMNS
    read = [
        {
            **{name: row[name] for name in ("video_id", "group", "label", "part")},
            "fold": int(row["fold"]) if row["fold"] else None,
            "validates": json.loads(row["validates"]),
        }
        for row in rows
    ]
    sorted_lists = TABLE.sort("video_id").to_dicts()
    assert read == [{**row, "validates": sorted(row["validates"])} for row in sorted_lists]
    assert all(row["video_id"] == f"{row['platform']}_{row['source_id']}" for row in rows)


def test_the_order_of_rows_is_nothing_and_every_place_counts() -> None:
    assert folds_sha256(TABLE.reverse()) == folds_sha256(TABLE)
    changes = {"part": "locked", "fold": 0, "group": "f1", "label": "real", "validates": [1]}
    for column, value in changes.items():
        rows = [{**ROWS[0], "label": "fake", column: value}, *TABLE.to_dicts()[1:]]
        assert folds_sha256(FOLDS.frame(rows)) != folds_sha256(TABLE), column


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_video_id_tells_platform_and_id(platform: str) -> None:
    row = {**ROWS[1], "label": "real", "video_id": video_id_of(platform, "_1_-")}
    published = folds_csv(FOLDS.frame([row])).decode().splitlines()[1]
    assert published.startswith(f"{platform}__1_-,{platform},_1_-,")
