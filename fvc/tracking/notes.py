"""What the pages of runs say of themselves, and how they and our own pages lead to runs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

FOLD_NOTE = (
    "`test/accuracy` and `test/macro_f1` are of calls at a probability of 0.5, before calibration. "
    "The cross-validation's run and its report call at the threshold that the fold chose on its "
    "validation videos, so theirs may differ; `test/roc_auc` knows no threshold."
)
"""What the page of a fold's run says, unless its user has said something."""

UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens unless it is told otherwise."""


def run_route(experiment: str, run_id: str) -> str:
    """The page of a run, from wherever MLflow's pages are."""
    return f"#/experiments/{experiment}/runs/{run_id}"


def ui_address(tracking_uri: str) -> str:
    """The server's own pages, or where those of a store without a server are shown.

    Names and passwords in the address of a server stay out of it.
    """
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https"):
        return UI
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def note_with_links(note: str, routes: Mapping[int, str]) -> str:
    """A note in Markdown that ends with the runs of the folds, a click away."""
    named = ", ".join(f"[fold {fold}]({route})" for fold, route in routes.items())
    return f"{note}\n\nThe runs behind it: {named}."


def with_links(page: str, addresses: Mapping[str, str]) -> str:
    """The page with every digest that names a run linked to that run.

    MLflow shows a page in a frame that may open no other page and knows no address of
    its own, so a link has to be whole, and opens with Ctrl or Cmd held.

    Args:
        page: HTML in which digests stand as `<code>digest</code>`.
        addresses: Of the runs, by digest.
    """
    for digest, address in addresses.items():
        code = f"<code>{digest}</code>"
        page = page.replace(code, f'<a href="{address}" target="_blank" rel="noopener">{code}</a>')
    return page


def linked_files(
    folder: Path, addresses: Mapping[str, str], scratch: Path
) -> Iterator[tuple[Path, str | None]]:
    """Every file below a folder, with the folder that it is in; pages as copies with links."""
    for source in sorted(path for path in folder.rglob("*") if path.is_file()):
        below = source.parent.relative_to(folder).as_posix()
        place = None if below == "." else below
        if source.suffix == ".html":
            copy = scratch / source.name
            page = with_links(source.read_text(encoding="utf-8"), addresses)
            copy.write_text(page, encoding="utf-8")
            yield copy, place
        else:
            yield source, place
