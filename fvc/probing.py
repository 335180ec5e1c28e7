"""What there is to know about one video file, found out once for each content."""

from dataclasses import asdict, astuple, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fvc.config import IndexConfig
from fvc.errors import FvcError
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.fingerprint import FRAME_SIDE_PX, fingerprint
from fvc.video import VideoError, VideoInfo, probe, read_frames

CODE = (
    *("fingerprint.py", "probing.py", "sampling.py", "video/__init__.py"),
    *("video/decoding.py", "video/limits.py", "video/packets.py", "video/picture.py"),
)
"""The modules behind a result: findings of other code are not taken up again."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file as it was when it was looked at: as long as it is so, it need not be read again."""

    path: str
    """Relative to the videos folder."""
    size_bytes: int
    mtime_ns: int
    """Not the time of the last change of its status: DVC sets that one of every file it tracks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Either `info` and a fingerprint, or why the file is refused."""

    sha256: str
    size_bytes: int
    info: VideoInfo | None
    fingerprint: bytes
    refusal: tuple[str, str] | None
    """Reason and detail, as a `VideoError` has them."""
    is_loss: bool = False
    """Its worker was lost, which other limits of time and memory may prevent."""


def sight(videos: Path, path: str) -> Sighting:
    """Look at a file without reading it."""
    status = (videos / path).stat()
    return Sighting(path, status.st_size, status.st_mtime_ns)


def examine(file: Path, *, config: IndexConfig, probes: Path) -> Findings:
    """Describe a file: from what was kept about its content, else by decoding it.

    Args:
        file: Anything; it need not be a video.
        config: How it is fingerprinted.
        probes: Folder into which `keep` wrote.

    Raises:
        FvcError: It cannot be read at all.
    """
    try:
        sha256, size_bytes = sha256_of_file(file), file.stat().st_size
    except OSError as error:
        cause = f"cannot be read ({error.strerror})"
        raise FvcError(file, cause, "Mend its permissions or the disk") from error
    place = _place(sha256, config, probes)
    kept = _kept(read_json(place, "index"), sha256, config) if place.is_file() else None
    if kept is not None:
        return kept
    info, hashes, refusal = None, b"", None
    try:
        info = probe(file)
        max_frames = config.fingerprint_max_frames
        hashes = fingerprint(read_frames(file, config.fingerprint_fps, max_frames, FRAME_SIDE_PX))
    except MemoryError:
        # Less a fact about the file than about the limit: the worker's end says so.
        raise
    except VideoError as error:
        info, refusal = None, (error.reason, error.detail)
    return Findings(
        sha256=sha256, size_bytes=size_bytes, info=info, fingerprint=hashes, refusal=refusal
    )


def lost(file: Path, reason: str, detail: str) -> Findings:
    """What there is to say about a file whose worker was lost."""
    return Findings(
        sha256=sha256_of_file(file),
        size_bytes=file.stat().st_size,
        info=None,
        fingerprint=b"",
        refusal=(reason, detail),
        is_loss=True,
    )


def keep(findings: Findings, sighting: Sighting, *, config: IndexConfig, probes: Path) -> None:
    """Keep findings for later runs, with the state in which the file had this content.

    Called by one process: two files of equal content share a place.
    """
    place = _place(findings.sha256, config, probes)
    seen = read_json(place, "index")["seen"] if place.is_file() else {}
    path, *state = astuple(sighting)
    content = {
        "size_bytes": findings.size_bytes,
        "info": asdict(findings.info) if findings.info else None,
        "fingerprint": findings.fingerprint.hex(),
        "refusal": findings.refusal,
        "lost_within": _limits(config) if findings.is_loss else None,
        "seen": {**seen, path: state},
    }
    write_json(place, content)


def recall(*, config: IndexConfig, probes: Path) -> dict[Sighting, Findings]:
    """All that was kept, by the state in which a file was seen."""
    known: dict[Sighting, Findings] = {}
    for place in sorted(probes.glob(f"*-{_settings(config)}.json")):
        content = read_json(place, "index")
        sha256, _ = place.name.split("-")
        findings = _kept(content, sha256, config)
        if findings is not None:
            known |= {Sighting(path, *state): findings for path, state in content["seen"].items()}
    return known


def _kept(content: dict[str, Any], sha256: str, config: IndexConfig) -> Findings | None:
    """Kept findings, but for a loss within other limits."""
    lost_within = content["lost_within"]
    if lost_within not in (None, _limits(config)):
        return None
    return Findings(
        sha256=sha256,
        size_bytes=content["size_bytes"],
        info=VideoInfo(**content["info"]) if content["info"] else None,
        fingerprint=bytes.fromhex(content["fingerprint"]),
        refusal=tuple(content["refusal"]) if content["refusal"] else None,
        is_loss=lost_within is not None,
    )


def _limits(config: IndexConfig) -> list[float | int]:
    return [config.timeout_s, config.max_memory_mib]


def _place(sha256: str, config: IndexConfig, probes: Path) -> Path:
    return probes / f"{sha256}-{_settings(config)}.json"


def _settings(config: IndexConfig) -> str:
    return sha256_of([config.fingerprint_fps, config.fingerprint_max_frames, _code()])[:16]


@cache
def _code() -> list[str]:
    folder = Path(__file__).parent
    return [version("av"), *(sha256_of_file(folder / name) for name in CODE)]
