import base64
import re

from fvc.report import Grid, Headline, Picture, Section, render

HEADLINE = Headline(
    beats_probes=True,
    statement="It works.",
    numbers=[("ROC-AUC per video", "0.900", "0.800 to 0.950")],
    facts=[("Leaks?", "None")],
)

PNG = b"\x89PNG not really"

SECTIONS = [
    Section(
        title="Curves",
        text=["One paragraph."],
        pictures=[
            Picture(image=PNG, caption="A curve"),
            Picture(image=PNG, caption="B", wide=True),
        ],
    ),
    Section(title="Data", grids=[Grid(caption="Counts", header=("", "n"), rows=[("real", "3")])]),
]


def test_the_verdict_comes_before_everything_else() -> None:
    page = render(HEADLINE, SECTIONS)
    body = page[page.index("<body>") :]
    places = [body.index(text) for text in ("It works.", "0.900", "Leaks?", "Curves", "Data")]
    assert places == sorted(places)


def test_the_page_needs_no_other_file() -> None:
    page = render(HEADLINE, SECTIONS)
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not re.search(r"https?:|url\(|@import|<script|<link", page)
    encoded = next(address for address in addresses if address.startswith("data:"))
    assert base64.b64decode(encoded.partition(",")[2]) == PNG


def test_every_link_leads_to_a_section() -> None:
    page = render(HEADLINE, SECTIONS)
    links, targets = re.findall(r'href="#([^"]+)"', page), re.findall(r'id="([^"]+)"', page)
    assert links == targets
    assert len(links) == len(SECTIONS)


def test_texts_are_escaped() -> None:
    hostile = "<script>alert('x')</script>"
    page = render(
        Headline(beats_probes=False, statement=hostile, numbers=[], facts=[]),
        [
            Section(
                title=hostile,
                text=[hostile],
                pictures=[Picture(image=PNG, caption=f'"{hostile}')],
                grids=[Grid(caption=hostile, header=(hostile,), rows=[(hostile,)])],
            )
        ],
    )
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 9


def test_a_model_that_beats_nothing_does_not_look_like_one_that_does() -> None:
    open_question = Headline(beats_probes=False, statement="No.", numbers=[], facts=[])
    assert '<header class="beats">' in render(HEADLINE, [])
    assert '<header class="open">' in render(open_question, [])


def test_pictures_have_a_text_for_those_who_cannot_see_them() -> None:
    page = render(HEADLINE, SECTIONS)
    assert re.findall(r'alt="([^"]*)"', page) == ["A curve", "B"]
    assert page.count("class=wide") == 1
