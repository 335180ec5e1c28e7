import base64
import re

from fvc.report import SVG, Grid, Headline, Picture, Section, Span, render

HEADLINE = Headline(
    good_news=True,
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
        Headline(good_news=False, statement=hostile, numbers=[], facts=[]),
        [
            Section(
                title=hostile,
                text=[hostile],
                pictures=[Picture(image=PNG, caption=f'"{hostile}')],
                grids=[
                    Grid(
                        caption=hostile,
                        header=(hostile,),
                        rows=[(hostile,)],
                        meanings={hostile: hostile},
                        ends_in_code=True,
                    )
                ],
                terms=[(hostile, hostile)],
            )
        ],
    )
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 13


def test_a_model_that_beats_nothing_does_not_look_like_one_that_does() -> None:
    open_question = Headline(good_news=False, statement="No.", numbers=[], facts=[])
    assert '<header class="beats">' in render(HEADLINE, [])
    assert '<header class="open">' in render(open_question, [])


def test_pictures_have_a_text_for_those_who_cannot_see_them() -> None:
    page = render(HEADLINE, SECTIONS)
    assert re.findall(r'alt="([^"]*)"', page) == ["A curve", "B"]
    assert page.count("class=wide") == 1


def test_headings_are_in_order_and_every_table_cell_has_a_header() -> None:
    page = render(HEADLINE, SECTIONS)
    assert re.findall(r"<h(\d)", page) == ["1", "2", "2", "2"]
    assert '<html lang="en">' in page
    assert '<th scope="col">n</th>' in page
    assert '<th scope="row">real</th>' in page


def test_the_page_forbids_itself_scripts_and_everything_from_elsewhere() -> None:
    page = render(HEADLINE, SECTIONS)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page


def test_a_drawing_may_be_dark_and_a_photograph_may_not() -> None:
    drawn = Picture(image=b"<svg/>", caption="drawn", media_type=SVG)
    page = render(HEADLINE, [Section(title="", pictures=[drawn, Picture(image=PNG, caption="p")])])
    assert re.findall(r"<img( class=drawn)? src=\"data:([^;]*)", page) == [
        (" class=drawn", "image/svg+xml"),
        ("", "image/png"),
    ]


def test_a_picture_says_what_is_to_be_seen_where_the_caption_does_not() -> None:
    picture = Picture(image=PNG, caption="Fold 0", alt="The loss falls from 0.7 to 0.4")
    page = render(HEADLINE, [Section(title="", pictures=[picture])])
    assert 'alt="The loss falls from 0.7 to 0.4"><figcaption>Fold 0<' in page


def test_an_interval_is_drawn_where_it_lies_and_what_is_unknown_is_not() -> None:
    spans = [Span(value=0.8, low=0.7, high=0.9, stands_out=True), Span(value=None)]
    rows = [("this model", "0.8"), ("a probe", "unknown")]
    grid = Grid(caption="", header=("", "ROC-AUC"), rows=rows, spans=spans)
    page = render(HEADLINE, [Section(title="", grids=[grid])])
    known, unknown = re.findall(r"<svg class=.*?</svg>", page, re.DOTALL)
    assert 'class="interval" x1="70.0%" x2="90.0%"' in known
    assert '<circle cx="80.0%"' in known
    assert "circle" not in unknown
    assert 'class="interval"' not in unknown


def test_a_word_is_explained_where_it_stands() -> None:
    grid = Grid(caption="", header=("",), rows=[("ECE",)], meanings={"ECE": "how far off"})
    page = render(HEADLINE, [Section(title="", terms=[("Fold", "a part")], grids=[grid])])
    assert "ECE<small>how far off</small>" in page
    assert "<dt>Fold</dt><dd>a part</dd>" in page
