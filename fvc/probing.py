"""What there is to know about one video file, found out once for each content."""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from fvc.config import IndexConfig
from fvc.files import read_json, sha256_of, sha256_of_file, write_json
from fvc.fingerprint import FRAME_SIDE_PX, fingerprint
from fvc.video import VideoError, VideoInfo, probe, read_frames

CODE = (
    *("fingerprint.py", "probing.py", "sampling.py", "video/__init__.py"),
    *("video/decoding.py", "video/packets.py", "video/picture.py"),
)
"""The modules behind a result: findings of other code are not taken up again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Either `info` and a fingerprint, or why the file is refused."""

    sha256: str
    size_bytes: int
    info: VideoInfo | None
    fingerprint: bytes
    refusal: tuple[str, str] | None
    """Reason and detail, as a `VideoError` has them."""


def examine(file: Path, *, config: IndexConfig, probes: Path) -> Findings:
    """Describe a file: from what was kept about its content, else by decoding it.

    Args:
        file: Anything; it need not be a video.
        config: How it is fingerprinted.
        probes: Folder into which `keep` wrote.
    """
    sha256, size_bytes = sha256_of_file(file), file.stat().st_size
    info, hashes, refusal = None, b"", None
    kept = _place(sha256, config, probes)
    if kept.is_file():
        content = read_json(kept, "index")
        hashes = bytes.fromhex(content["fingerprint"])
        info = VideoInfo(**content["info"]) if content["info"] else None
        refusal = tuple(content["refusal"]) if content["refusal"] else None
    else:
        try:
            info = probe(file)
            max_frames = config.fingerprint_max_frames
            frames = read_frames(file, config.fingerprint_fps, max_frames, FRAME_SIDE_PX)
            hashes = fingerprint(frames)
        except VideoError as error:
            info, refusal = None, (error.reason, error.detail)
    return Findings(
        sha256=sha256, size_bytes=size_bytes, info=info, fingerprint=hashes, refusal=refusal
    )


def keep(findings: Findings, *, config: IndexConfig, probes: Path) -> None:
    """Keep findings for later runs.

    Called by one process: two files of equal content share a place.
    """
    place = _place(findings.sha256, config, probes)
    if not place.is_file():
        content = {
            "info": asdict(findings.info) if findings.info else None,
            "fingerprint": findings.fingerprint.hex(),
            "refusal": findings.refusal,
        }
        write_json(place, content)


def _place(sha256: str, config: IndexConfig, probes: Path) -> Path:
    used = [config.fingerprint_fps, config.fingerprint_max_frames, _code()]
    return probes / f"{sha256}-{sha256_of(used)[:16]}.json"


@cache
def _code() -> list[str]:
    folder = Path(__file__).parent
    return [version("av"), *(sha256_of_file(folder / name) for name in CODE)]
