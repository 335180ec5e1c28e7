"""The page in a real browser: nothing is blocked, nothing is fetched, nothing is cut off."""

from pathlib import Path

import numpy as np
import pytest
from browsing import ABSENT, BROWSER, browse

from fvc.evidence.excess import Excess
from fvc.evidence.metrics import RAISED_BY_NOISE, Estimate, Outcomes
from fvc.evidence.probes import PROBES, Probe
from fvc.evidence.slices import Slice
from fvc.report import Section, plots, render, sections, verdict
from fvc.report.assembly import drawn

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason=ABSENT)]


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
    every["ece"] = Estimate(value=0.05, reason=RAISED_BY_NOISE)
    probes = dict.fromkeys(PROBES, Probe(roc_auc=found, accuracy=found))
    counts = {"annotated": 1234, "on_disk": 1000, "usable": 900}
    availability = {"youtube": {"real": counts, "fake": counts}}
    headline = verdict.headline_of(
        every, every, probes, 0, tested=tested, availability=availability, confidence=0.95
    )
    unknown = Estimate(value=0.6, reason="real videos are in fewer than two groups")
    alike = Slice(
        by="bitrate",
        name="1000 kbit/s and more",
        num_videos=9,
        num_groups=5,
        num_fake=4,
        accuracy=found,
        roc_auc=unknown,
        excess=Excess(reason="too few right calls"),
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
            sections.slices_section([alike, alike]),
            sections.folds_section(measured, learned, []),
            Section(title="Data", grids=[sections.availability_grid(availability)]),
            sections.limits_section(),
            sections.runs_section(dict.fromkeys(range(10), "a" * 64)),
        ],
    )


def test_on_a_phone_the_report_fits_and_needs_nothing_else(tmp_path: Path) -> None:
    seen = browse(made_page(), tmp_path)
    assert seen.measured == "too wide by 0 pictures 2"
    assert seen.console == []
    assert seen.asked == ["/frame.html", "/report.html"], "the page asks for more than itself"


@pytest.mark.parametrize(
    "element",
    ["<img src='/elsewhere.png' alt=''>", "<script>document.body.remove()</script>"],
    ids=["picture", "script"],
)
def test_what_is_no_part_of_the_page_is_blocked_and_seen_here(element: str, tmp_path: Path) -> None:
    seen = browse(made_page().replace("</main>", f"{element}</main>"), tmp_path)
    assert seen.measured == "too wide by 0 pictures 2"
    assert "Content Security Policy" in " ".join(seen.console)
    assert seen.asked == ["/frame.html", "/report.html"]


def test_on_a_large_screen_every_table_is_seen_whole(tmp_path: Path) -> None:
    """Reasons stand beside numbers where an interval is unknown, and must not make a table wide."""
    page = made_page()
    assert "real videos are in fewer than two groups" in page
    assert browse(page, tmp_path, width_px=1400).cut == 0


def test_a_page_too_wide_for_a_phone_is_seen_here(tmp_path: Path) -> None:
    wide = "<div style='width:500px'>wide</div></main>"
    seen = browse(made_page().replace("</main>", wide), tmp_path)
    assert seen.measured != "too wide by 0 pictures 2"
