"""A page in a real browser: what is cut off, what it asks for, what the console says."""

import re
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ABSENT = "there is no chromium on this machine"
PHONE_PX = 360

FRAME = """<!DOCTYPE html><title>waiting</title><link rel="icon" href="data:,">
<iframe src="report.html" style="width:{width}px;height:800px;border:0"></iframe>
<script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, root = page.documentElement;
  document.title = "too wide by " + (root.scrollWidth - root.clientWidth)
    + " pictures " + [...page.images].filter(one => one.naturalWidth > 0).length
    + " cut " + [...page.querySelectorAll(".scroll")]
      .filter(one => one.scrollWidth > one.clientWidth).length;
}};
</script>"""


class Seen(NamedTuple):
    """What came of opening a page."""

    measured: str
    """By how many pixels it is wider than the screen, and how many pictures it shows."""
    cut: int
    """So many tables are wider than their boxes, and have to be moved to be read."""
    console: list[str]
    asked: list[str]
    """The paths that the browser asked the page's own server for."""


def browse(page: str, folder: Path, width_px: int = PHONE_PX) -> Seen:
    """Open a page.

    Args:
        page: Its HTML.
        folder: An empty one, for the page and the browser's profile.
        width_px: Of the screen.
    """
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width_px), encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
        command += ["--virtual-time-budget=5000"]
        address = f"http://127.0.0.1:{server.server_port}/frame.html"
        done = subprocess.run(
            [*command, address], capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    [(measured, cut)] = re.findall(r"<title>(.*?) cut (\d+)</title>", done.stdout)
    return Seen(measured, int(cut), re.findall(r".*CONSOLE.*", done.stderr), asked)
