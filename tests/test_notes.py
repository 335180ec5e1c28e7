from pathlib import Path

import pytest

from fvc.report import Grid, Headline, Section, render
from fvc.tracking import notes

DIGEST, OTHER = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("tracking_uri", "shown"),
    [
        ("sqlite:////home/me/mlflow.db", notes.UI),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000"),
        ("https://name:word@lab.example/mlflow/", "https://lab.example/mlflow"),
    ],
)
def test_runs_are_shown_where_the_server_is(tracking_uri: str, shown: str) -> None:
    assert notes.ui_address(tracking_uri) == shown


def test_the_digests_of_the_report_become_links() -> None:
    grid = Grid(caption="", header=("", "SHA-256"), rows=[("0", DIGEST)], ends_in_code=True)
    headline = Headline(good_news=False, statement="", numbers=[], facts=[])
    page = render(headline, [Section(title="Runs", grids=[grid])])
    linked = notes.with_links(page, {DIGEST: "http://host/#/experiments/1/runs/r"})
    assert 'href="http://host/#/experiments/1/runs/r" target="_blank" rel="noopener"' in linked
    assert notes.with_links(page, {OTHER: "http://host"}) == page


def test_pages_are_linked_in_a_copy_and_other_files_are_left(tmp_path: Path) -> None:
    evidence, scratch = tmp_path / "evidence", tmp_path / "scratch"
    scratch.mkdir()
    (evidence / "strips").mkdir(parents=True)
    (evidence / "report.html").write_text(f"<code>{DIGEST}</code>")
    (evidence / "strips/one.png").write_bytes(b"png")
    page, picture = notes.linked_files(evidence, {DIGEST: "http://host"}, scratch)
    assert page == (scratch / "report.html", None)
    assert 'href="http://host"' in page[0].read_text()
    assert "href" not in (evidence / "report.html").read_text(), "the output holds a run's id"
    assert picture == (evidence / "strips/one.png", "strips")
