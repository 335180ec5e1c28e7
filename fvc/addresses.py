"""Addresses of videos: which platform, and the platform's own id."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import SplitResult, parse_qs, urljoin, urlsplit

PLATFORMS = ("facebook", "twitter", "youtube")

NUMBER = r"[0-9]{1,20}"
YOUTUBE_ID = r"[A-Za-z0-9_-]{11}"
END = r"(?=[/?&#]|$)"
"""Old players and careless people go on after an id with any of these."""

HOSTS = {
    "facebook": re.compile(r"(.+\.)?(facebook|fb)\.com"),
    "twitter": re.compile(r"(.+\.)?(twitter|x)\.com"),
    "youtube": re.compile(r"(.+\.)?(youtube\.com|youtube-nocookie\.com|youtu\.be)"),
}
QUERY: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "facebook": (NUMBER, ("v", "video_id", "story_fbid")),
    "twitter": (NUMBER, ()),
    "youtube": (YOUTUBE_ID, ("v",)),
}
"""What an id is, and the parameters that hold it, most telling first."""
PATHS = {
    "facebook": rf"/(?:videos|reel|posts|permalink)/(?:[^/]+/)?({NUMBER}){END}",
    "twitter": rf"/(?:status(?:es)?|videos(?:/tweet)?)/({NUMBER}){END}",
    "youtube": rf"^/(?:v|vi|e|embed|shorts|live|watch)/({YOUTUBE_ID}){END}",
}
SHORT_PATH = rf"^/({YOUTUBE_ID}){END}"
NO_IDS = ("videoseries", "live_stream")
"""Of eleven letters, and yet players of a playlist and of a channel."""

APP = re.compile(r"(?:vnd\.)?youtube:/{0,2}(.+)", re.IGNORECASE)
ARCHIVED = re.compile(r"(?:https?://)?web\.archive\.org/web/[^/]+/(.+)", re.IGNORECASE)
CARRIERS = ("u", "href", "url", "q", "next", "continue")
"""Parameters in which redirections, embedding players and log-in pages carry an address."""

MAX_CHARS = 2048
MAX_NESTED = 3
MAX_SHOWN_CHARS = 200


def parse_url(url: str) -> tuple[str, str]:
    """Take the platform and the platform's id of a video from its address.

    Scheme, `www`, mobile and language hosts do not matter, nor what follows
    the id. Of an address that names no video itself but carries another, the
    other one counts. Short links whose id only the platform can tell
    (fb.watch, facebook.com/share, t.co) are refused, as they could not be
    told from other addresses of the same video.

    Raises:
        ValueError: It is no address of one YouTube, Facebook or Twitter video.
    """
    return _parse(url, MAX_NESTED)


def _parse(url: str, nested: int) -> tuple[str, str]:
    address = _unwrapped(url.strip().replace("&amp;", "&"))
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ValueError(f"{shown(url)} is no address ({error})") from error
    host = (parts.hostname or "").rstrip(".")
    platform = next((name for name, form in HOSTS.items() if form.fullmatch(host)), None)
    if platform is None:
        raise ValueError(f"{shown(url)} is on none of {', '.join(PLATFORMS)}")
    if source_id := _own_id(platform, parts):
        return platform, source_id
    if nested:
        for carried in _carried(parts):
            with suppress(ValueError):
                return _parse(urljoin(address, carried), nested - 1)
    raise ValueError(f"{shown(url)} holds no id of a {platform} video")


def _unwrapped(address: str) -> str:
    if len(address) > MAX_CHARS:
        raise ValueError(f"{shown(address)} is longer than any address of a video")
    if archived := ARCHIVED.fullmatch(address):
        address = archived.group(1)
    if app := APP.fullmatch(address):
        inside = app.group(1)
        address = f"youtu.be/{inside}" if re.match(YOUTUBE_ID + END, inside) else inside
    # One slash is enough for a browser, and so is none with nothing before it.
    bare = re.sub(r"^(https?:)?/+", "", address, flags=re.IGNORECASE)
    return f"https://{bare}"


def _own_id(platform: str, parts: SplitResult) -> str | None:
    form, names = QUERY[platform]
    query = parse_qs(parts.query)
    found = [_ids(form, query.get(name, [])) for name in names]
    paths = [PATHS[platform]]
    if (parts.hostname or "").endswith("youtu.be"):
        paths.append(SHORT_PATH)
    found += [set(re.findall(path, parts.path, re.IGNORECASE)[:1]) for path in paths]
    # Two ids in one parameter name no video.
    ids = next((ids for ids in found if ids), set())
    return ids.pop() if len(ids) == 1 and ids.isdisjoint(NO_IDS) else None


def _ids(form: str, values: list[str]) -> set[str]:
    matches = (re.match(rf"({form}){END}", value) for value in values)
    return {match.group(1) for match in matches if match}


def _carried(parts: SplitResult) -> Iterator[str]:
    query = parse_qs(parts.query)
    values = [value for name in CARRIERS for value in query.get(name, [])]
    # The pages of ten years ago kept their address behind '#' or '#!'.
    values.append(parts.fragment.removeprefix("!"))
    return (value for value in values if value.startswith("/") or "://" in value)


def shown(text: str) -> str:
    """A cell as it can stand in a message, whatever is in it."""
    return repr(text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}...")
