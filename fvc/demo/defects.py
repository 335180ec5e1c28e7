"""What is wrong in a corpus that people collected, and the annotation rows of all videos."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fvc.demo.naming import draw_url
from fvc.demo.specifications import Encoding, Plan, Row, Video
from fvc.seeding import generator_for

DEFECTS = (
    *("truncated", "empty", "missing", "unannotated", "one_frame"),
    *("uncertain", "debunked", "parody", "two_labels"),
)
# Without its end an mp4 has no index, so that nothing of it can be decoded.
CUTTABLE = Encoding("libx264", "mp4", "yuv420p")
VIDEOS_PER_SHARED_ID = 64


def with_defects(usable: Sequence[Video], strays: Sequence[Video], seed: int) -> Plan:
    """Annotate the usable videos and turn each stray one into the next kind of defect."""
    originals = [row_of(video, seed) for video in usable if video.copy == 0]
    duplicates = [row_of(video, seed) for video in usable if video.copy > 0]
    duplicates += _shared_ids(usable, seed)
    files = []
    for position, stray in enumerate(strays):
        defect = DEFECTS[position % len(DEFECTS)]
        files += _files_of(defect, stray)
        duplicates += [row_of(stray, seed, label) for label in _labels_of(defect, stray)]
    return Plan(tuple(usable), tuple(files), _in_order(originals), _in_order(duplicates))


def row_of(video: Video, seed: int, label: str | None = None, cascade_id: str | None = None) -> Row:
    """The annotation of a video; without a label and a cascade, the true ones."""
    cascade = cascade_id or video.footage.cascade_id
    chosen = label or video.footage.label
    generator = generator_for(seed, "demo", "url", video.source_id, cascade, chosen)
    return Row(cascade, draw_url(video.platform, video.source_id, generator), chosen)


def _files_of(defect: str, stray: Video) -> list[Video]:
    match defect:
        case "missing":
            return []
        case "truncated":
            return [replace(stray, encoding=CUTTABLE, odd_size=False, damage="truncated")]
        case "empty":
            return [replace(stray, damage="empty")]
        case "one_frame":
            return [replace(stray, one_frame=True)]
        case _:
            return [stray]


def _labels_of(defect: str, stray: Video) -> list[str]:
    match defect:
        case "unannotated":
            return []
        case "uncertain" | "debunked" | "parody":
            return [defect]
        case "two_labels":
            other = {"fake": "debunked", "real": "parody"}[stray.footage.label]
            return [stray.footage.label, other]
        case _:
            return [stray.footage.label]


def _shared_ids(usable: Sequence[Video], seed: int) -> list[Row]:
    """Rows that put a copy into a second cascade of its label, which joins the two."""
    cascades: dict[str, list[str]] = defaultdict(list)
    for video in usable:
        if video.copy == 0:
            cascades[video.footage.label].append(video.footage.cascade_id)
    copies = [video for video in usable if video.copy > 0]
    generator = generator_for(seed, "demo", "shared ids")
    chosen = generator.permutation(len(copies))[: -(-len(usable) // VIDEOS_PER_SHARED_ID)]
    rows = []
    for video in (copies[position] for position in chosen):
        own = video.footage.cascade_id
        others = [name for name in cascades[video.footage.label] if name != own]
        rows.append(row_of(video, seed, cascade_id=others[generator.integers(len(others))]))
    return rows


def _in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Cascade after cascade, fakes first: f0, f1, ..., r0, r1, ..."""
    return tuple(sorted(rows, key=lambda row: (row.cascade_id[0], int(row.cascade_id[1:]))))
