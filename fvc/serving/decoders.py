"""Decoding apart from the server: a video that takes its process down costs only itself."""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import BufferTooShort
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event, Timer
from typing import Any
from weakref import finalize

import numpy as np

from fvc.config import ClipsConfig, ServingConfig
from fvc.serving.decoder_process import OUT_OF_MEMORY, READY
from fvc.video import Clips, VideoError
from fvc.video.picture import Box

MIB = 2**20
START_S = 120.0
"""A process that has not said by then that it has started never will."""
GONE_S = 5.0
"""A process whose socket is closed has ended by then."""
TOLD_BYTES = 2**20
"""Most that a process may say besides pixels."""
BROKEN = (
    *(EOFError, OSError, BufferTooShort),
    *(ValueError, KeyError, TypeError, OverflowError, RecursionError),
)
"""How a process that is gone, or not itself any more, shows."""
# Not multiprocessing's way, which runs the script of whoever loads the model a second time.
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from fvc.serving.decoder_process import main; main(int(sys.argv[2]), sys.argv[3])"
)


class Decoders:
    """As many processes as there are cores, each with one video at a time.

    They end with `close`, or when nobody refers to them any more.

    Args:
        limits: What one video may cost.
        count: How many; None for as many as there are cores to use.
    """

    def __init__(self, limits: ServingConfig, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._max_mib = limits.max_mib
        self._all = [_Decoder(limits) for _ in range(self.count)]
        self._idle: SimpleQueue[_Decoder] = SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)
        self._end = finalize(self, _end_all, self._all)

    def clips(self, video: bytes, config: ClipsConfig) -> Clips:
        """Decode a video as soon as a process is free; any thread may call this.

        Raises:
            VideoError: It cannot be used, is beyond the limits, or took its
                process down.
            RuntimeError: They have ended.
        """
        if not self._end.alive:
            raise RuntimeError("the processes that decode were closed: nobody would answer")
        self.require_size(len(video))
        decoder = self._idle.get()
        try:
            return decoder.clips(video, config)
        finally:
            self._idle.put(decoder)

    def require_size(self, num_bytes: int) -> None:
        """Refuse a video for its size alone, which may be known before it is read.

        Raises:
            VideoError: It is too large.
        """
        if num_bytes > self._max_mib * MIB:
            raise VideoError("too_large", f"{num_bytes / MIB:.1f} MiB, above {self._max_mib:g}")

    @property
    def process_ids(self) -> list[int]:
        """Of the processes there are now."""
        return [decoder.process.pid for decoder in self._all]

    def close(self) -> None:
        """End the processes."""
        self._end()


def _end_all(decoders: "list[_Decoder]") -> None:
    for decoder in decoders:
        decoder.end()


class _Decoder:
    """One process; after it was lost, the next one."""

    process: "subprocess.Popen[bytes]"

    def __init__(self, limits: ServingConfig) -> None:
        self._limits = limits
        self._start()

    def clips(self, video: bytes, config: ClipsConfig) -> Clips:
        """Have one video decoded."""
        self._make_ready()
        expired = Event()
        # It may also stop to listen, or in the middle of what it says.
        timer = Timer(self._limits.timeout_s, _expire, (self.process, expired))
        timer.start()
        broken = False
        try:
            return self._exchange(video, config)
        except BROKEN as error:
            broken = True
            raise self._loss(expired.is_set()) from error
        finally:
            timer.cancel()
            timer.join()
            if broken or expired.is_set():
                self._begin_anew()

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()
        self._pipe.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            settings = json.dumps(asdict(self._limits))
            arguments = [json.dumps(sys.path), str(theirs.fileno()), settings]
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            self._pipe = Connection(ours.detach())
        self._has_started = False

    def _begin_anew(self) -> None:
        self.end()
        self._start()

    def _make_ready(self) -> None:
        """Wait for a process that has just started; one that was ended idle is no video's fault."""
        if self.process.poll() is not None:
            self._begin_anew()
        if self._has_started:
            return
        if not self._says_ready():
            self._begin_anew()
            if not self._says_ready():
                raise RuntimeError("no process to decode with starts; it has printed why")
        self._has_started = True

    def _says_ready(self) -> bool:
        with suppress(EOFError, OSError):
            return self._pipe.poll(START_S) and self._pipe.recv_bytes(len(READY)) == READY
        return False

    def _exchange(self, video: bytes, config: ClipsConfig) -> Clips:
        self._pipe.send_bytes(json.dumps(asdict(config)).encode())
        self._pipe.send_bytes(video)
        told: dict[str, Any] = json.loads(self._pipe.recv_bytes(TOLD_BYTES))
        if "refusal" in told:
            reason, detail = told["refusal"]
            raise VideoError(str(reason), str(detail))
        pixels = np.empty(_checked(told["shape"], config), np.uint8)
        if self._pipe.recv_bytes_into(pixels.data.cast("B")) != pixels.size:
            raise ValueError("it gave fewer pixels than it said")
        spans_s = tuple((float(start), float(end)) for start, end in told["spans_s"])
        if len(spans_s) != len(pixels):
            raise ValueError(f"it gave {len(pixels)} clips, and times of {len(spans_s)}")
        return Clips(pixels, Box(*told["content"]), spans_s, told["decoded_in_sequence"])

    def _loss(self, expired: bool) -> VideoError:
        """What happened to the video whose process is of no more use."""
        if expired:
            return VideoError("timeout", f"took longer than {self._limits.timeout_s:g} s")
        try:
            code = self.process.wait(GONE_S)
        except subprocess.TimeoutExpired:
            return VideoError("crashed", "its process answered with nonsense")
        if code == OUT_OF_MEMORY:
            detail = f"found no more memory within {self._limits.max_memory_mib} MiB"
            return VideoError("crashed", detail)
        return VideoError("crashed", f"its process ended with code {code}")


def _expire(process: "subprocess.Popen[bytes]", expired: Event) -> None:
    expired.set()
    process.kill()


def _checked(shape: Any, config: ClipsConfig) -> tuple[int, int, int, int, int]:
    """What a process says its clips are like, if that is what was asked for."""
    clips, frames, channels, height, width = map(int, shape)
    fits = 0 < height <= config.side_px and 0 < width <= config.side_px
    if not (
        fits and 0 < clips <= config.num_clips and (frames, channels) == (config.num_frames, 3)
    ):
        raise ValueError(f"it gave clips of shape {shape}")
    return clips, frames, channels, height, width
