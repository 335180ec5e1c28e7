"""moto's S3 as a program, `s3_endpoint.py PORT FULL`: it takes nothing while FULL exists."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

REFUSAL = b"<Error><Code>QuotaExceeded</Code><Message>The bucket is full</Message></Error>"


def main(port: int, full: Path) -> None:
    """Serve until killed."""
    moto: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if full.exists() and request["REQUEST_METHOD"] in ("PUT", "POST"):
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [REFUSAL]
        return moto(request, start)

    run_simple("127.0.0.1", port, answer, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
