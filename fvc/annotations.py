"""The annotation files as labelled videos, and the names that videos have in paths."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from fvc.addresses import PLATFORMS, YOUTUBE_ID, parse_url, shown
from fvc.annotation_rows import Row, read_rows
from fvc.groups import connected, shared

FILES = ("FVC.csv", "FVC_dup.csv")
TITLES = "FVC_text_queries.csv"
"""Optional: what the event of each cascade is called."""
COLUMNS = ("cascade_id", "video_url", "label")
TITLE_COLUMNS = ("cascade_id", "event_title")
REMEDY = f"Put the corpus's {' and '.join(FILES)} there, then run 'dvc add data'"
MAX_SURPLUS_CELLS = 64
"""The published titles have up to 13; a row with thousands is no title."""
LABELS = ("fake", "real")
EXCLUDED = ("debunked", "parody", "uncertain")


@dataclass(slots=True)
class AnnotatedVideo:
    """All that the annotations say about one video."""

    platform: str
    source_id: str
    labels: set[str] = field(default_factory=set)
    """In lower case; more than one where rows disagree."""
    raw_labels: set[str] = field(default_factory=set)
    """As written."""
    cascades: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """The videos by `video_id`, the event titles by cascade, and the rows that say nothing."""

    videos: Mapping[str, AnnotatedVideo]
    unparsable: tuple[str, ...]
    """The rows that name no video: 'file, line: why'."""
    num_rows: Mapping[str, int]
    """Of each file, without header and blank lines."""
    num_repeated: int
    """Rows that say again what another one says: cascade, video and label."""
    titles: Mapping[str, frozenset[str]]
    """Of each cascade, see `title_readings`; empty where there is no file of titles."""
    untitled: tuple[str, ...]
    """The rows among the titles that give none: 'file, line: why'."""


def read_annotations(folder: Path) -> Annotations:
    """Read both files of labels, and the titles if they are there; join rows about one video.

    Nothing in a row is an error: a row that names no video is listed, and a
    label that is none makes its video unusable.

    Raises:
        FvcError: A file is missing, has not the columns, or one of them twice.
    """
    videos: dict[str, AnnotatedVideo] = {}
    unparsable, num_rows = [], {}
    said: Counter[tuple[str, str, str]] = Counter()
    for name in FILES:
        rows = read_rows(folder / name, COLUMNS, remedy=REMEDY)
        num_rows[name] = len(rows)
        for row in rows:
            try:
                platform, source_id = _address(row)
            except ValueError as error:
                unparsable.append(f"{name}, line {row.line}: {error}")
                continue
            cascade, raw_label = row.get("cascade_id"), row.get("label")
            video_id, label = video_id_of(platform, source_id), raw_label.casefold()
            video = videos.setdefault(video_id, AnnotatedVideo(platform, source_id))
            video.labels.add(label)
            video.raw_labels.add(raw_label)
            if cascade:
                video.cascades.add(cascade)
            said[cascade, video_id, label] += 1
    titles, untitled = read_titles(folder / TITLES)
    return Annotations(
        videos=videos,
        unparsable=tuple(unparsable),
        num_rows=num_rows,
        num_repeated=said.total() - len(said),
        titles=titles,
        untitled=untitled,
    )


def _address(row: Row) -> tuple[str, str]:
    if row.problem:
        raise ValueError(row.problem)
    return parse_url(row.get("video_url"))


def read_titles(source: Path) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """Read the event titles of the cascades; nothing where there is no such file.

    Returns:
        The readings of each cascade's title, and the rows that give none.

    Raises:
        FvcError: The file has not the columns, or one of them twice.
    """
    if not source.exists():
        return {}, ()
    titles: dict[str, frozenset[str]] = defaultdict(frozenset)
    untitled = []
    for row in read_rows(source, TITLE_COLUMNS, remedy=REMEDY):
        cascade, readings = "", frozenset[str]()
        if row.problem is None:
            cascade, readings = row.get("cascade_id"), title_readings(row)
        if cascade and readings:
            titles[cascade] |= readings
        else:
            problem = row.problem or f"gives no title of a cascade: {shown(','.join(row.cells))}"
            untitled.append(f"{source.name}, line {row.line}: {problem}")
    return dict(titles), tuple(untitled)


def title_readings(row: Row) -> frozenset[str]:
    """Every title that a row may mean, written so that equal titles are equal texts.

    The published file has commas in its texts and no quotes around them, in
    62 of 380 rows: nothing tells whether the comma of such a row is in the
    title or in one of the translations that follow. But the title begins
    where it should, and has at most as many cells more as the row has. So
    with two surplus cells the title is the first, or the first two, or the
    first three. One of the readings is the title, and two cascades whose
    titles may be equal are kept together; nothing else would be safe.
    """
    start = row.places["event_title"]
    cells = row.cells[start : start + 1 + row.num_surplus]
    # A comma before the title has moved everything: 'fake' is the label and no event.
    moved = row.num_surplus and row.get("event_title").casefold() in (*LABELS, *EXCLUDED)
    if moved or row.num_surplus > MAX_SURPLUS_CELLS or not row.get("event_title"):
        return frozenset()
    return frozenset(normal_title(",".join(cells[: end + 1])) for end in range(len(cells)))


def normal_title(title: str) -> str:
    """A title without the differences of case, of spaces and of how Unicode writes a letter."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", title).casefold())
    return re.sub(r" ?, ?", ",", " ".join(folded.split()))


def ties(annotations: Annotations) -> list[tuple[str, str]]:
    """Link what the annotations alone put together, as `connected` takes it.

    Videos and their cascades, videos of one source id, and cascades whose
    events have one title.
    """
    videos = annotations.videos
    links = [(video_id, name) for video_id, video in videos.items() for name in video.cascades]
    links += shared({video_id: [video.source_id] for video_id, video in videos.items()})
    known = {name for video in videos.values() for name in video.cascades}
    links += shared({name: annotations.titles.get(name, ()) for name in sorted(known)})
    return links


def count(annotations: Annotations) -> dict[str, Any]:
    """Count what was read, for whoever compares the files with the published ones."""
    videos = annotations.videos
    problems = Counter(label_problem(video.labels) for video in videos.values())
    nodes = [(video_id, video_id) for video_id in videos]
    names = connected([*nodes, *ties(annotations)])
    return {
        "rows": dict(annotations.num_rows),
        "rows_repeated": annotations.num_repeated,
        "rows_unparsable": len(annotations.unparsable),
        "videos": len(videos),
        "videos_with_conflicting_labels": problems["conflicting_labels"],
        "videos_in_several_cascades": sum(len(video.cascades) > 1 for video in videos.values()),
        "cascades": len({name for video in videos.values() for name in video.cascades}),
        "cascades_with_title": len(annotations.titles),
        "rows_without_title": len(annotations.untitled),
        "groups": len({names[video_id] for video_id in videos}),
    }


def label_problem(labels: set[str]) -> str | None:
    """Why a video with these labels cannot be used, as a reason of rejected.csv; None if it can.

    Fake or real beside any other label is a conflict: nothing is guessed.
    """
    if labels - set(LABELS) - set(EXCLUDED):
        return "unknown_label"
    if labels <= set(EXCLUDED):
        return "excluded_label"
    return "conflicting_labels" if len(labels) > 1 else None


def video_id_of(platform: str, source_id: str) -> str:
    """The one name a video has in every table and file."""
    return f"{platform}_{source_id}"


def platforms_by_id(videos: Mapping[str, AnnotatedVideo]) -> dict[str, list[str]]:
    """Map each annotated source id to the platforms that have it, for `locate`."""
    platforms = defaultdict(list)
    for video in videos.values():
        platforms[video.source_id].append(video.platform)
    return dict(platforms)


def locate(path: str, platforms: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """Tell platform and source id of a file, or None for a path outside the corpus's layout.

    `SUBSET/<platform>/<source_id>/video.*` names both. In
    `SUBSET/<source_id>/video.*` an id that is annotated for one platform is of
    that; else digits are Facebook's and eleven characters YouTube's.

    Args:
        path: Relative to the videos folder.
        platforms: From `platforms_by_id`.
    """
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).stem != "video":
        return None
    if len(parts) == 4 and parts[1] in PLATFORMS:
        return parts[1], parts[2]
    if len(parts) != 3:
        return None
    source_id = parts[1]
    annotated = platforms.get(source_id, ())
    if len(annotated) == 1:
        return annotated[0], source_id
    if re.fullmatch(r"[0-9]+", source_id):
        return "facebook", source_id
    return ("youtube", source_id) if re.fullmatch(YOUTUBE_ID, source_id) else None
