"""The evidence as one page of HTML that needs nothing else: verdict first, then why.

A page is a headline and sections; what is learned later is one more `Section`.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).with_name("page.html")

PNG, SVG = "image/png", "image/svg+xml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture with what it shows."""

    image: bytes
    """The file: a PNG, or what `media_type` says."""
    caption: str
    wide: bool = False
    """It takes the whole width of the page."""
    media_type: str = PNG
    alt: str | None = None
    """What is to be seen, for those who cannot; the caption where there is none."""

    @property
    def address(self) -> str:
        """The picture itself as an address, so that the page needs no other file."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.image).decode()}"

    @property
    def is_drawn(self) -> bool:
        """It has no colours of its own to keep: on a dark page it may be dark."""
        return self.media_type == SVG


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A value between 0 and 1 with its interval, drawn on a line; what is None is left out."""

    value: float | None
    low: float | None = None
    high: float | None = None
    stands_out: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table of texts."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    spans: Sequence[Span] = ()
    """One per row, drawn in a column of its own; none or all."""
    spans_title: str = ""
    """The header of that column."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What the first cell of a row means, by its text."""
    ends_in_code: bool = False
    """The last column holds digests; where these are known as runs, MLflow's copy links them."""


Terms = Sequence[tuple[str, str]]
"""Words, each with what it means."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()
    terms: Terms = ()
    """Words that a reader meets here first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What a reader takes away who reads no further."""

    good_news: bool
    """It may look like that."""
    statement: str
    numbers: Sequence[tuple[str, str, str]]
    """Name, value, interval."""
    facts: Sequence[tuple[str, str]]
    """Question and answer."""
    text: Sequence[str] = ()
    """The statement in plain words, and what to beware of."""
    comparison: Grid | None = None
    """The model beside its rivals."""
    terms: Terms = ()
    title: str = "how far to trust this model"
    """The question that the page answers."""


def render(headline: Headline, sections: Sequence[Section]) -> str:
    """The whole page; every text is escaped."""
    loader = jinja2.FileSystemLoader(TEMPLATE.parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE.name).render(headline=headline, sections=sections)
