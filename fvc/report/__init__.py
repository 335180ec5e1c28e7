"""The evidence as one page of HTML that needs nothing else: verdict first, then why.

A page is a headline and sections; what is learned later is one more `Section`.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture with what it shows."""

    image: bytes
    caption: str
    media_type: str = "image/png"
    alt: str = ""
    """For those who cannot see it, where that is not the caption."""
    wide: bool = False
    """It takes the whole width of the page."""

    @property
    def address(self) -> str:
        """The picture itself as an address, so that the page needs no other file."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.image).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table of texts."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    pictures: Sequence[Picture] = ()
    grids: Sequence[Grid] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What a reader takes away who reads no further."""

    beats_probes: bool
    statement: str
    numbers: Sequence[tuple[str, str, str]]
    """Name, value, interval."""
    facts: Sequence[tuple[str, str]]
    """Question and answer."""


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
