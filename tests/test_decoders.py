import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
from settings import clips_config, serving_config

from fvc.config import ServingConfig
from fvc.encoding import encode
from fvc.serving import decoders
from fvc.serving.decoders import Decoders
from fvc.video import VideoError, read_clips

CLIPS = clips_config(3, 4, 32, fit="native")


def made(width: int = 48, height: int = 32, frames: int = 30) -> bytes:
    generator = np.random.default_rng(0)
    file = io.BytesIO()
    encode(file, generator.integers(0, 256, (frames, height, width, 3), np.uint8), fps=10)
    return file.getvalue()


VIDEO = made()


@contextmanager
def decoding(limits: ServingConfig, count: int = 1) -> Iterator[Decoders]:
    started = Decoders(limits, count)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def two() -> Iterator[Decoders]:
    with decoding(serving_config(), 2) as started:
        yield started


def test_the_pixels_are_those_of_training(two: Decoders) -> None:
    found, expected = two.clips(VIDEO, CLIPS), read_clips(io.BytesIO(VIDEO), CLIPS)
    assert np.array_equal(found.pixels, expected.pixels)
    assert found.pixels.flags.writeable, "torch warns of what it cannot write to"
    assert (found.content, found.spans_s) == (expected.content, expected.spans_s)
    assert found.decoded_in_sequence == expected.decoded_in_sequence


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice is told of on Linux")
def test_where_memory_is_short_the_kernel_ends_a_decoder_and_not_the_server(two: Decoders) -> None:
    two.clips(VIDEO, CLIPS)
    scores = [
        int(Path(f"/proc/{child.pid}/oom_score_adj").read_text())
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "fvc.serving" in " ".join(child.cmdline())
    ]
    assert len(scores) >= 2
    assert set(scores) == {1000}
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"<html>not found</html>", "not_a_video"), (bytes(2**20 + 1), "too_large")],
)
def test_a_bad_video_is_refused_and_the_next_one_decoded(
    two: Decoders, content: bytes, reason: str
) -> None:
    before = two.process_ids
    for _ in range(3):
        with pytest.raises(VideoError) as refused:
            two.clips(content, CLIPS)
        assert refused.value.reason == reason
    assert len(two.clips(VIDEO, CLIPS).pixels) == 3
    assert two.process_ids == before, "a refusal cost a process"


def test_the_limits_hold_in_the_process() -> None:
    with (
        decoding(serving_config(max_frames=29)) as started,
        pytest.raises(VideoError, match="too_many_frames"),
    ):
        started.clips(VIDEO, CLIPS)


def test_a_process_writes_no_file(two: Decoders) -> None:
    for process_id in two.process_ids:
        lines = Path(f"/proc/{process_id}/limits").read_text().splitlines()
        [size] = [line.split()[3:5] for line in lines if line.startswith("Max file size")]
        assert size == ["0", "0"]


def holding(started: Decoders, what: Callable[[int], object]) -> VideoError:
    """How a video ends whose process something is done to while it holds it."""
    started.clips(VIDEO, CLIPS)
    [process_id] = started.process_ids
    os.kill(process_id, signal.SIGSTOP)
    threading.Timer(0.3, lambda: what(process_id)).start()
    with pytest.raises(VideoError) as lost:
        started.clips(VIDEO, CLIPS)
    return lost.value


def test_a_process_that_is_killed_costs_the_video_that_it_held() -> None:
    with decoding(serving_config()) as started:
        lost = holding(started, lambda process_id: os.kill(process_id, signal.SIGKILL))
        assert (lost.reason, lost.detail) == ("crashed", "its process ended with code -9")
        assert len(started.clips(VIDEO, CLIPS).pixels) == 3


def test_a_process_that_is_killed_idle_costs_nothing() -> None:
    with decoding(serving_config(), 2) as started:
        started.clips(VIDEO, CLIPS)
        for process_id in started.process_ids:
            os.kill(process_id, signal.SIGKILL)
            psutil.wait_procs([psutil.Process(process_id)] if psutil.pid_exists(process_id) else [])
        assert len(started.clips(VIDEO, CLIPS).pixels) == 3


def test_a_video_that_takes_too_long_is_given_up() -> None:
    with decoding(serving_config(timeout_s=0.5)) as started:
        lost = holding(started, lambda _: None)
        assert (lost.reason, lost.detail) == ("timeout", "took longer than 0.5 s")
        assert len(started.clips(VIDEO, CLIPS).pixels) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_video_that_takes_too_much_memory_is_given_up() -> None:
    # One thread of H.264 keeps references and buffers of megabytes.
    with decoding(serving_config(max_mib=8.0, max_memory_mib=4)) as started:
        with pytest.raises(VideoError) as lost:
            started.clips(made(1280, 720, 5), CLIPS)
        assert lost.value.reason in ("crashed", "undecodable")
        assert "memory" in lost.value.detail
        assert len(started.clips(VIDEO, CLIPS).pixels) == 3


IMPORTS = """
import io, json, sys
from fvc.config import ClipsConfig
from fvc.serving import decoder_process
from fvc.video import read_clips

decoder_process._warm_up()
before = set(sys.modules)
read_clips(io.BytesIO(sys.stdin.buffer.read()), ClipsConfig(**json.loads(sys.argv[1])))
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize("fit", ["letterbox", "native"])
def test_nothing_is_left_to_import_within_the_limit_of_memory(fit: str) -> None:
    settings = json.dumps(asdict(clips_config(3, 4, 32, fit=fit)))
    command = [sys.executable, "-c", IMPORTS, settings]
    done = subprocess.run(command, input=VIDEO, stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout) == []


WHOLE = {"shape": [1, 4, 3, 2, 2], "content": [0, 0, 2, 2], "spans_s": [[0, 1]]}
NONSENSE = {
    "no JSON": [b"{"],
    "no text": [b"\xff\xfe"],
    "nothing said": [b"{}"],
    "too many clips": [json.dumps({"shape": [9, 4, 3, 32, 32]}).encode()],
    "too large": [json.dumps({"shape": [3, 4, 3, 10**6, 10**6]}).encode()],
    "fewer pixels": [json.dumps({**WHOLE, "decoded_in_sequence": None}).encode(), b"1"],
    "a number beyond all": [b'{"shape": [1e999, 4, 3, 32, 32]}'],
    "lists without end": [b"[" * 100_000],
    "fewer times": [
        json.dumps({**WHOLE, "spans_s": [], "decoded_in_sequence": None}).encode(),
        bytes(48),
    ],
    "more pixels": [json.dumps(WHOLE).encode(), bytes(49)],
}


@pytest.mark.parametrize(
    "replies", [*map(repr, NONSENSE.values()), "[bytes(2**20 + 1)]"], ids=[*NONSENSE, "endless"]
)
def test_a_process_that_is_not_itself_any_more_is_not_believed(
    replies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import sys\nfrom multiprocessing.connection import Connection\n"
        "server = Connection(int(sys.argv[2]))\nserver.send_bytes(b'ready')\n"
        "server.recv_bytes(), server.recv_bytes()\n"
        f"for reply in {replies}: server.send_bytes(reply)\nserver.recv_bytes()\n"
    )
    monkeypatch.setattr(decoders, "PROGRAM", program)
    # It is alive, and whether it is about to end is not waited for.
    monkeypatch.setattr(decoders, "GONE_S", 0.1)
    with decoding(serving_config()) as started, pytest.raises(VideoError, match="crashed"):
        started.clips(VIDEO, CLIPS)


def test_a_process_that_stops_in_the_middle_of_a_word_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = (
        "import os, sys, time\nfrom multiprocessing.connection import Connection\n"
        "server = Connection(int(sys.argv[2]))\nserver.send_bytes(b'ready')\n"
        "server.recv_bytes(), server.recv_bytes()\n"
        "os.write(server.fileno(), b'\\0\\0\\0\\x63{')\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(decoders, "PROGRAM", program)
    with decoding(serving_config(timeout_s=0.5)) as started, pytest.raises(VideoError) as lost:
        started.clips(VIDEO, CLIPS)
    assert lost.value.reason == "timeout"


def test_a_process_that_does_not_listen_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys, time\nfrom multiprocessing.connection import Connection\n"
        "server = Connection(int(sys.argv[2]))\nserver.send_bytes(b'ready')\ntime.sleep(600)\n"
    )
    monkeypatch.setattr(decoders, "PROGRAM", program)
    # More than a socket holds.
    limits = serving_config(timeout_s=0.5, max_mib=64.0)
    with decoding(limits) as started, pytest.raises(VideoError) as lost:
        started.clips(bytes(32 * 2**20), CLIPS)
    assert lost.value.reason == "timeout"


def test_a_program_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "PROGRAM", "raise SystemExit(3)")
    with decoding(serving_config()) as started, pytest.raises(RuntimeError, match="starts"):
        started.clips(VIDEO, CLIPS)


SCRIPT = """
import json, os, signal, sys
sys.path[:0] = json.loads(sys.argv[1])
from settings import serving_config
from test_decoders import CLIPS, VIDEO
from fvc.serving.decoders import Decoders

started = Decoders(serving_config(), 2)
started.clips(VIDEO, CLIPS)
print(json.dumps(started.process_ids), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_plain_script_may_use_them_and_they_end_with_it(tmp_path: Path) -> None:
    """multiprocessing would run a script a second time that does not guard its main part."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), json.dumps(sys.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, json.loads(done.stdout))):
        assert time.monotonic() < deadline, "a process outlives the server"
        time.sleep(0.1)
