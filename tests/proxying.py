"""Debian's nginx with the lines of docs/serving.md, in front of a server."""

import getpass
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from http_server import free_port, is_up
from source_tree import ROOT

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
ABSENT = "nginx is not installed"
DOCUMENTED = "127.0.0.1:5001"
"""Where the lines of docs/serving.md expect the server."""

CONFIGURATION = """
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{server}
}}
"""


@contextmanager
def nginx(folder: Path, server: str, is_there: Callable[[], bool]) -> Iterator[None]:
    """An nginx with one server, once it is there; its files go to `folder`."""
    configuration = folder / "nginx.conf"
    text = CONFIGURATION.format(folder=folder, server=server, user=getpass.getuser())
    configuration.write_text(text)
    process = subprocess.Popen([str(NGINX), "-c", str(configuration), "-p", str(folder)])
    try:
        deadline = time.monotonic() + 30
        while not is_there():
            log = folder / "error.log"
            assert process.poll() is None, log.read_text() if log.exists() else "no log"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def proxied(port_behind: int, folder: Path) -> Iterator[int]:
    """The port on which nginx, with the lines of docs/serving.md, passes requests on to another."""
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    assert DOCUMENTED in lines
    lines = lines.replace(DOCUMENTED, f"127.0.0.1:{port_behind}")
    port = free_port()
    server = f"server {{\nlisten 127.0.0.1:{port};\n{lines}\n}}"
    with nginx(folder, server, lambda: is_up(f"http://127.0.0.1:{port}/ping")):
        yield port
