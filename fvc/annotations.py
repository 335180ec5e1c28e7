"""FVC.csv and FVC_dup.csv as labelled videos, and the names that videos have in URLs and paths."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlsplit

from fvc.errors import FvcError

FILES = ("FVC.csv", "FVC_dup.csv")
COLUMNS = ("cascade_id", "video_url", "label")
LABELS = ("fake", "real")
EXCLUDED = ("debunked", "parody", "uncertain")
PLATFORMS = ("facebook", "twitter", "youtube")

YOUTUBE_ID = r"[A-Za-z0-9_-]{11}"
HOSTS = {
    "facebook": re.compile(r"(.+\.)?(facebook|fb)\.com"),
    "twitter": re.compile(r"(.+\.)?(twitter|x)\.com"),
    "youtube": re.compile(r"(.+\.)?(youtube\.com|youtube-nocookie\.com|youtu\.be)"),
}
# How an id is found in 'host/path?query'; the first form that fits counts.
FORMS = {
    "facebook": (
        r"[?&](?:v|video_id)=(\d+)",
        r"/(?:videos|reel|posts|permalink)/(?:[^?]*/)?(\d+)(?![^/?])",
        r"[?&]story_fbid=(\d+)",
    ),
    "twitter": (r"/(?:status|statuses|videos)/(\d+)",),
    "youtube": (
        rf"[?&]v=({YOUTUBE_ID})(?![\w-])",
        rf"/(?:v|e|embed|shorts|live)/({YOUTUBE_ID})(?![\w-])",
        rf"youtu\.be/({YOUTUBE_ID})(?![\w-])",
    ),
}


@dataclass(slots=True)
class AnnotatedVideo:
    """All that the annotations say about one video."""

    platform: str
    source_id: str
    labels: set[str] = field(default_factory=set)
    """As written; more than one where rows disagree."""
    cascades: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Annotations:
    """The videos by `video_id`, and the rows that name none."""

    videos: Mapping[str, AnnotatedVideo]
    unparsable: tuple[str, ...]
    """What was found where a URL was expected: 'file, line: text'."""


def read_annotations(folder: Path) -> Annotations:
    """Read both annotation files; rows about one video are joined.

    Raises:
        FvcError: A file is missing, no CSV, or has not the columns.
    """
    videos: dict[str, AnnotatedVideo] = {}
    unparsable = []
    for name in FILES:
        for line, row in _rows(folder / name):
            url = (row["video_url"] or "").strip()
            try:
                platform, source_id = parse_url(url)
            except ValueError:
                unparsable.append(f"{name}, line {line}: {url!r}")
                continue
            video = videos.setdefault(
                video_id_of(platform, source_id), AnnotatedVideo(platform, source_id)
            )
            video.labels.add((row["label"] or "").strip())
            if cascade := (row["cascade_id"] or "").strip():
                video.cascades.add(cascade)
    return Annotations(videos, tuple(unparsable))


def _rows(source: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    remedy = f"Put the corpus's {' and '.join(FILES)} there, then run 'dvc add data'"
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with source.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                columns = ", ".join(missing)
                first_line = f"Its first line must be '{','.join(COLUMNS)}'"
                raise FvcError(source, f"has no column {columns}", first_line)
            for row in reader:
                yield reader.line_num, row
    except (FileNotFoundError, NotADirectoryError):
        raise FvcError(source, "is missing", remedy) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise FvcError(source, f"is no CSV in UTF-8 ({error})", remedy) from error


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


def parse_url(url: str) -> tuple[str, str]:
    """Take the platform and the platform's id of a video from its address.

    Raises:
        ValueError: It is no address of a YouTube, Facebook or Twitter video.
    """
    parts = urlsplit(url if "://" in url else f"https://{url}")
    host = parts.hostname or ""
    platform = next((name for name, form in HOSTS.items() if form.fullmatch(host)), None)
    if platform is None:
        raise ValueError(f"{url!r} is on none of {', '.join(PLATFORMS)}")
    # Facebook's embedding player carries the video's own address.
    if platform == "facebook" and "href" in (query := parse_qs(parts.query)):
        return parse_url(query["href"][0])
    for form in FORMS[platform]:
        if found := re.search(form, f"{host}{parts.path}?{parts.query}"):
            return platform, found.group(1)
    raise ValueError(f"{url!r} holds no id of a {platform} video")


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
