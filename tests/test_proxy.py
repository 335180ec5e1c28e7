"""What nginx lets through with the lines of docs/serving.md."""

import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from proxying import ABSENT, NGINX, proxied

pytestmark = pytest.mark.skipif(NGINX is None, reason=ABSENT)
MIB = 2**20


class Recorder(ThreadingHTTPServer):
    """Answers everything, and remembers what it was asked and how many bytes came with it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Recorded)
        self.asked: list[tuple[str, int]] = []


class Recorded(BaseHTTPRequestHandler):
    """One request to a `Recorder`."""

    server: Recorder

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((f"{self.command} {self.path}", len(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on a terminal."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """nginx in front of a server."""

    port: int
    behind: Recorder

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        """The status of what nginx answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    behind = Recorder()
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    try:
        with proxied(behind.server_port, tmp_path) as port:
            behind.asked.clear()
            yield Proxy(port, behind)
    finally:
        behind.shutdown()
        behind.server_close()


def test_only_what_a_client_needs_passes(proxy: Proxy) -> None:
    assert proxy.ask("POST", "/invocations", b"{}") == 200
    for path in ("/ping", "/health", "/version"):
        assert proxy.ask("GET", path) == 200
    assert proxy.ask("GET", "/invocations") == 403
    assert proxy.ask("PUT", "/invocations", b"{}") == 403
    for path in ("/", "/invocations/", "/docs", "/openapi.json", "/ping/", "/..//invocations"):
        assert proxy.ask("POST", path, b"{}") in (400, 404), path
    passed = [request for request, _ in proxy.behind.asked]
    assert passed == ["POST /invocations", "GET /ping", "GET /health", "GET /version"]


def test_a_request_may_be_as_long_as_a_video_in_base64(proxy: Proxy) -> None:
    longest = bytes(4 * (200 * MIB) // 3)
    assert proxy.ask("POST", "/invocations", longest) == 200
    assert proxy.behind.asked == [("POST /invocations", len(longest))]


def test_a_longer_request_is_refused_before_it_is_sent(proxy: Proxy) -> None:
    asked = {"Content-Length": str(271 * MIB)}
    assert proxy.ask("POST", "/invocations", None, **asked) == 413
    assert proxy.behind.asked == []
