"""The page in a real browser: nothing is blocked, nothing is fetched, nothing is cut off."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from fvc.evidence.metrics import Estimate, Outcomes
from fvc.evidence.probes import Probe
from fvc.report import Section, plots, render, sections, verdict
from fvc.report.assembly import drawn

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine"),
]

PHONE_PX = 360

FRAME = """<!DOCTYPE html><title>waiting</title><link rel="icon" href="data:,">
<iframe src="report.html" style="width:{width}px;height:800px;border:0"></iframe>
<script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, root = page.documentElement;
  document.title = "too wide by " + (root.scrollWidth - root.clientWidth)
    + " pictures " + [...page.images].filter(one => one.naturalWidth > 0).length;
}};
</script>"""


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of the folder: its address, and what it was asked for."""
    paths: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            paths.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    thread.join()
    server.server_close()


Show = Callable[[str], tuple[str, list[str]]]


@pytest.fixture
def show(tmp_path: Path, asked: tuple[str, list[str]]) -> Show:
    """Open a page on a phone: what it measures, and what the console says."""

    def showing(page: str) -> tuple[str, list[str]]:
        (tmp_path / "report.html").write_text(page, encoding="utf-8")
        (tmp_path / "frame.html").write_text(FRAME.format(width=PHONE_PX), encoding="utf-8")
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        command += ["--virtual-time-budget=5000", f"{asked[0]}/frame.html"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        [measured] = re.findall(r"<title>(.*?)</title>", done.stdout)
        return measured, re.findall(r".*CONSOLE.*", done.stderr)

    return showing


def made_page() -> str:
    """Every kind of section, with tables wider than a phone."""
    generator = np.random.default_rng(0)
    is_fake = np.arange(200) % 2 == 0
    probability = np.clip(generator.normal(0.4 + 0.2 * is_fake, 0.2), 0, 1)
    tested = Outcomes(
        is_fake=is_fake,
        probability=probability,
        called_fake=probability >= 0.5,
        decided=np.abs(probability - 0.5) > 0.1,
        groups=np.arange(200) // 4,
    )
    found = Estimate(value=0.8, low=0.7, high=0.9)
    every = dict.fromkeys(sections.NAMES, found)
    probes = dict.fromkeys(sections.PROBES, Probe(roc_auc=found, accuracy=found))
    counts = {"annotated": 1234, "on_disk": 1000, "usable": 900}
    availability = {"youtube": {"real": counts, "fake": counts}}
    headline = verdict.headline_of(
        every, every, probes, 0, tested=tested, availability=availability, confidence=0.95
    )
    measured = dict.fromkeys(range(10), dict.fromkeys(sections.NAMES, 0.5))
    calibration = {"temperature": 1.0, "threshold": 0.5, "abstain_low": 0.4, "abstain_high": 0.6}
    learned = {fold: {**calibration, "num_real": 3, "num_fake": 4} for fold in range(10)}
    figures = [plots.roc_curve(tested, {0: tested}), plots.reliability(tested, 10)]
    pictures = [drawn(figure, "A curve.") for figure in figures]
    return render(
        headline,
        [
            sections.measures_section(every, every, 0.95),
            Section(title="Curves", pictures=pictures),
            sections.probes_section(probes, every),
            sections.folds_section(measured, learned, []),
            Section(title="Data", grids=[sections.availability_grid(availability)]),
            sections.limits_section(),
            sections.runs_section(dict.fromkeys(range(10), "a" * 64)),
        ],
    )


def test_on_a_phone_the_report_fits_and_needs_nothing_else(
    show: Show, asked: tuple[str, list[str]]
) -> None:
    measured, console = show(made_page())
    assert measured == "too wide by 0 pictures 2"
    assert console == []
    assert asked[1] == ["/frame.html", "/report.html"], "the page asks for more than itself"


@pytest.mark.parametrize(
    "element",
    ["<img src='/elsewhere.png' alt=''>", "<script>document.body.remove()</script>"],
    ids=["picture", "script"],
)
def test_what_is_no_part_of_the_page_is_blocked_and_seen_here(
    show: Show, asked: tuple[str, list[str]], element: str
) -> None:
    page = made_page().replace("</main>", f"{element}</main>")
    measured, console = show(page)
    assert measured == "too wide by 0 pictures 2"
    assert "Content Security Policy" in " ".join(console)
    assert asked[1] == ["/frame.html", "/report.html"]


def test_a_page_too_wide_for_a_phone_is_seen_here(show: Show) -> None:
    wide = "<div style='width:500px'>wide</div></main>"
    measured, _ = show(made_page().replace("</main>", wide))
    assert measured != "too wide by 0 pictures 2"
