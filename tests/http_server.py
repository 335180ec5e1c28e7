"""A real `mlflow models serve` for as long as a test needs it."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(
    model: str,
    *,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    manager: str = "local",
    start_s: float = 120,
) -> Iterator[tuple[str, int]]:
    """The address of the server and the id of its process; `folder` is its working directory."""
    port = free_port()
    command = ["mlflow", "models", "serve", "-m", model, f"--env-manager={manager}"]
    with log.open("w") as stream:
        server = subprocess.Popen(
            [*command, "-p", str(port)],
            cwd=folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + start_s
        while not is_up(f"http://127.0.0.1:{port}/ping"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations", server.pid
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def free_port() -> int:
    """A port of this machine that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_up(address: str) -> bool:
    """Whether somebody answers there."""
    try:
        with urllib.request.urlopen(address, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
