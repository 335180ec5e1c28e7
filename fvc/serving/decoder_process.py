"""A process that decodes the videos of strangers: their bytes in, clips out, and nothing else.

It answers in JSON and plain bytes, never in pickle: whoever takes over this process by a fault
in a decoder has not taken over the server. It writes no file, and it ends when the server does.
"""

import errno
import json
import os
import resource
import signal
import sys
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fvc.config import ClipsConfig, ServingConfig
from fvc.encoding import encode
from fvc.process import limit_memory
from fvc.video import Limits, VideoError, read_clips

READY = b"ready"
OUT_OF_MEMORY = errno.ENOMEM
"""Exit code of a process that gave up because it got no more memory."""
WARM_UP = ClipsConfig(
    views="spans",
    num_clips=1,
    num_frames=2,
    window_s=1.0,
    stride_s=1.0,
    sampling="exact",
    side_px=32,
    fit="letterbox",
    timeout_s=60.0,
)
GRACE_S = 10.0
"""The server ends a process that takes too long; so much later, it ends itself."""


def main(descriptor: int, settings: str) -> None:
    """Decode one video after another until the server is gone.

    Args:
        descriptor: Of the socket to the server, open for both.
        settings: The limits, as JSON.
    """
    limits = ServingConfig(**json.loads(settings))
    # Ctrl-C reaches the whole group, and the server decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm_up()
    _confine(limits)
    with Connection(descriptor) as server:
        server.send_bytes(READY)
        try:
            while _serve(server, limits):
                pass
        except MemoryError:
            # What this process still holds must not be missing to the next video.
            os._exit(OUT_OF_MEMORY)


def _serve(server: "Connection[bytes, bytes]", limits: ServingConfig) -> bool:
    """Answer for one video; False where the server is gone."""
    try:
        config, video = server.recv_bytes(), server.recv_bytes()
    except EOFError:
        return False
    # Also in native code, and after a server that was killed.
    signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + GRACE_S)
    told, pixels = _answer(video, ClipsConfig(**json.loads(config)), limits)
    signal.setitimer(signal.ITIMER_REAL, 0)
    server.send_bytes(json.dumps(told).encode())
    if pixels is not None:
        server.send_bytes(pixels.data.cast("B"))
    return True


def _warm_up() -> None:
    """Decode once, so that what PyAV and NumPy import at first use is not the first video's.

    Short of memory, such an import fails in ways that do not speak of memory.
    """
    video = BytesIO()
    encode(video, np.zeros((2, 32, 32, 3), np.uint8))
    read_clips(video, WARM_UP)


def _confine(limits: ServingConfig) -> None:
    if sys.platform == "linux":
        # Where memory is short, the kernel ends this process and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        limit_memory(limits.max_memory_mib)


def _answer(
    video: bytes, config: ClipsConfig, limits: ServingConfig
) -> tuple[dict[str, Any], UInt8[np.ndarray, "N T C H W"] | None]:
    allowed = Limits(
        max_duration_s=limits.max_duration_s,
        max_pixels=round(limits.max_megapixels * 1e6),
        max_frames=limits.max_frames,
    )
    try:
        clips = read_clips(BytesIO(video), config, allowed)
    except MemoryError:
        raise
    except VideoError as error:
        return {"refusal": [error.reason, error.detail]}, None
    told = {
        "shape": clips.pixels.shape,
        "content": clips.content,
        "spans_s": clips.spans_s,
        "decoded_in_sequence": clips.decoded_in_sequence,
    }
    return told, np.ascontiguousarray(clips.pixels)
