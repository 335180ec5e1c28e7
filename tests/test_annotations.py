import csv
import io
import shutil
from collections import defaultdict
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.annotations import (
    Annotations,
    count,
    label_problem,
    locate,
    normal_title,
    platforms_by_id,
    read_annotations,
    ties,
)
from fvc.errors import FvcError
from fvc.groups import connected

PUBLISHED = Path(__file__).parents[2] / "shared" / "fvc"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published annotations are not here"
)
HEADER = "cascade_id,video_url,label\n"
TITLES_HEADER = "cascade_id,video_url,label,event_title,french,spanish,russian,arabic\n"


def write(folder: Path, first: str, second: str = HEADER, titles: str | None = None) -> Path:
    (folder / "FVC.csv").write_text(first, encoding="utf-8")
    (folder / "FVC_dup.csv").write_text(second, encoding="utf-8")
    if titles is not None:
        (folder / "FVC_text_queries.csv").write_text(titles, encoding="utf-8")
    return folder


def groups_of(annotations: Annotations) -> set[frozenset[str]]:
    """The cascades that are kept together."""
    cascades = {name for video in annotations.videos.values() for name in video.cascades}
    names = connected(ties(annotations))
    groups = defaultdict(set)
    for cascade in cascades:
        groups[names[cascade]].add(cascade)
    return {frozenset(group) for group in groups.values()}


def test_rows_about_one_video_are_joined(tmp_path: Path) -> None:
    # As the published files are: a byte order mark here, Windows line ends there.
    first = "\ufeff" + HEADER + "f7,https://www.youtube.com/watch?v=Y7MJlmbnLQA,fake\n"
    second = HEADER + "f0,https://youtu.be/Y7MJlmbnLQA,parody\n\nf0,https://vimeo.com/1,fake\nf1\n"
    found = read_annotations(write(tmp_path, first, second.replace("\n", "\r\n")))
    (video,) = found.videos.values()
    assert list(found.videos) == ["youtube_Y7MJlmbnLQA"]
    assert video.cascades == {"f0", "f7"}
    assert video.labels == {"fake", "parody"}
    assert found.unparsable == (
        "FVC_dup.csv, line 4: 'https://vimeo.com/1' is on none of facebook, twitter, youtube",
        "FVC_dup.csv, line 5: '' is on none of facebook, twitter, youtube",
    )
    assert found.num_rows == {"FVC.csv": 1, "FVC_dup.csv": 3}
    assert found.num_repeated == 0


def test_case_and_spaces_of_a_label_do_not_count(tmp_path: Path) -> None:
    rows = "f0,https://youtu.be/Y7MJlmbnLQA, Fake \nf0,https://youtu.be/Y7MJlmbnLQA,FAKE\n"
    (video,) = read_annotations(write(tmp_path, HEADER + rows)).videos.values()
    assert video.labels == {"fake"}
    assert video.raw_labels == {"FAKE", "Fake"}


def test_a_row_that_says_nothing_new_is_counted(tmp_path: Path) -> None:
    rows = (
        "f0,https://youtu.be/Y7MJlmbnLQA,fake\n"
        "f0,https://www.youtube.com/watch?v=Y7MJlmbnLQA,Fake\n"
        "f1,https://youtu.be/Y7MJlmbnLQA,fake\n"
    )
    found = read_annotations(write(tmp_path, HEADER + rows, HEADER + rows))
    assert found.num_repeated == 4


def test_nothing_in_a_row_is_an_error(tmp_path: Path) -> None:
    rows = [
        "f0",
        ",,fake",
        "f0,https://youtu.be/AAAAAAAAAAA",
        "f0,https://youtu.be/BBBBBBBBBBB,hoax,and,more",
        'f0,https://youtu.be/CCCCCCCCCCC,"fake',
        "f0,http://[,fake",
        "f0,https://youtu.be/D\0DDDDDDDDD,fake",
        "f0," + "x" * 100_000 + ",fake",
        "f0," + "x" * 200_000 + ",fake",
        "f0,https://www.facebook.com/p/videos/a, b/123/,fake",
    ]
    found = read_annotations(write(tmp_path, HEADER + "\n".join(rows)))
    problems = {name: label_problem(video.labels) for name, video in found.videos.items()}
    assert problems == {
        "youtube_AAAAAAAAAAA": "unknown_label",
        "youtube_BBBBBBBBBBB": "unknown_label",
        "youtube_CCCCCCCCCCC": None,
    }
    lines = [int(row.split("line ")[1].split(":")[0]) for row in found.unparsable]
    assert lines == [2, 3, 7, 8, 9, 10, 11]
    assert max(map(len, found.unparsable)) < 400


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@settings(deadline=None)
@given(st.lists(st.one_of(LINES, LINES.map(lambda text: f"f0,https://youtu.be/{text}"))))
def test_every_row_is_a_video_or_unparsable(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    rows = [*lines, "f1,https://youtu.be/Y7MJlmbnLQA,fake"]
    found = read_annotations(write(folder, HEADER + "\n".join(rows), titles=TITLES_HEADER))
    assert "youtube_Y7MJlmbnLQA" in found.videos
    assert found.num_rows["FVC.csv"] >= len(found.unparsable) + len(found.videos)
    count(found)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"fake"}, None),
        ({"real"}, None),
        ({"fake", "real"}, "conflicting_labels"),
        ({"fake", "debunked"}, "conflicting_labels"),
        ({"parody", "uncertain"}, "excluded_label"),
        ({"fake", ""}, "unknown_label"),
        ({"hoax"}, "unknown_label"),
    ],
)
def test_labels_are_never_guessed(labels: set[str], problem: str | None) -> None:
    assert label_problem(labels) == problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cascade_id,address,label\n", "has no column video_url"),
        ("", "has no column cascade_id, video_url, label"),
        ("cascade_id,video_url,label\n".encode("utf-16"), "is no CSV in UTF-8"),
        ("cascade_id,video_url,url,label\n", "has 'video_url' and 'url', which both mean"),
    ],
)
def test_a_file_without_its_columns_is_named(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    write(tmp_path, HEADER)
    data = content.encode() if isinstance(content, str) else content
    (tmp_path / "FVC_dup.csv").write_bytes(data)
    with pytest.raises(FvcError, match=rf"FVC_dup\.csv: {message}"):
        read_annotations(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match=r"FVC\.csv: is missing.*dvc add data"):
        read_annotations(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("FVC1/youtube/Y7MJlmbnLQA/video.mp4", ("youtube", "Y7MJlmbnLQA")),
        ("FVC1/twitter/99/video.webm", ("twitter", "99")),
        ("FVC2/456/video.mp4", ("facebook", "456")),
        ("FVC3/Y7MJlmbnLQA/video.mkv", ("youtube", "Y7MJlmbnLQA")),
        ("FVC3/12345678901/video.mkv", ("youtube", "12345678901")),
        ("FVC2/99/video.mkv", ("twitter", "99")),
        ("FVC2/77/video.mkv", ("facebook", "77")),
        ("FVC2/456/thumbnail.jpg", None),
        ("FVC2/456/video.info.json", None),
        ("README.txt", None),
        ("FVC2/strange/video.mp4", None),
        ("FVC1/vimeo/456/video.mp4", None),
    ],
)
def test_a_path_names_platform_and_id(
    tmp_path: Path, path: str, expected: tuple[str, str] | None
) -> None:
    rows = (
        "f0,https://youtu.be/12345678901,fake\n"
        "f1,https://twitter.com/u/status/99,fake\n"
        "f2,https://twitter.com/u/status/77,fake\n"
        "f3,https://facebook.com/p/videos/77,fake\n"
    )
    videos = read_annotations(write(tmp_path, HEADER + rows)).videos
    assert locate(path, platforms_by_id(videos)) == expected


def annotate(folder: Path, titles: dict[str, str]) -> Annotations:
    """One cascade of one video for each line of titles: what follows its label."""
    addresses = {name: f"https://twitter.com/u/status/{n}" for n, name in enumerate(titles)}
    rows = "".join(f"{name},{url},fake\n" for name, url in addresses.items())
    lines = "".join(f"{name},{addresses[name]},fake,{text}\n" for name, text in titles.items())
    return read_annotations(write(folder, HEADER + rows, titles=TITLES_HEADER + lines))


def test_without_titles_nothing_is_joined(tmp_path: Path) -> None:
    rows = "f0,https://twitter.com/u/status/1,fake\nf1,https://twitter.com/u/status/2,fake\n"
    found = read_annotations(write(tmp_path, HEADER + rows))
    assert (found.titles, found.untitled) == ({}, ())
    assert groups_of(found) == {frozenset({"f0"}), frozenset({"f1"})}


def test_equal_titles_join_cascades(tmp_path: Path) -> None:
    found = annotate(
        tmp_path,
        {
            "f0": "Caf\u00e9 on fire,a,b,c,d",
            "f1": "  CAFE\u0301  on\u00a0fire ,e,f,g,h",
            "f2": "Cafe on fire,a,b,c,d",
            "r0": "Stra\u00dfe,a,b,c,d",
            "r1": "STRASSE,a,b,c,d",
        },
    )
    joined = {frozenset({"f0", "f1"}), frozenset({"f2"}), frozenset({"r0", "r1"})}
    assert groups_of(found) == joined


def test_a_title_joins_whatever_its_commas_do(tmp_path: Path) -> None:
    found = annotate(
        tmp_path,
        {
            "f0": "Fire in Cape Town,South Africa,feu,Afrique,fuego,Africa,c,d",
            "f1": '"Fire in Cape Town, South Africa",feu,fuego,c,d',
            "f2": "South Africa,a,b,c,d",
            "f3": "Fire in Cape Town and more,feu,fuego,c1,c2,d",
            "f4": "Fire in Cape Town and more,other,b,c,d",
        },
    )
    assert groups_of(found) == {frozenset({"f0", "f1"}), frozenset({"f2"}), frozenset({"f3", "f4"})}


@pytest.mark.parametrize(
    "line",
    [
        "f0,u,fake,,a,b,c,d",
        "f0,u,fake",
        ",u,fake,title,a,b,c,d",
        "f0,u,with a comma,fake,title,a,b,c,d",
        "f0,u,fake,title" + 1000 * ",x",
        "f0,u,fake," + "x" * 200_000,
    ],
)
def test_a_row_that_gives_no_title_is_listed(tmp_path: Path, line: str) -> None:
    rows = "f0,https://twitter.com/u/status/1,fake\n"
    found = read_annotations(write(tmp_path, HEADER + rows, titles=TITLES_HEADER + line))
    assert found.titles == {}
    (listed,) = found.untitled
    assert listed.startswith("FVC_text_queries.csv, line 2: ")
    assert count(found)["rows_without_title"] == 1


def test_titles_of_unknown_cascades_join_nothing(tmp_path: Path) -> None:
    rows = "f5,https://twitter.com/u/status/1,fake\n"
    titles = TITLES_HEADER + "f0,u,fake,title,a,b,c,d\nf5,u,fake,title,a,b,c,d\n"
    found = read_annotations(write(tmp_path, HEADER + rows, titles=titles))
    assert set(connected(ties(found)).values()) == {"f5"}


def test_titles_without_their_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HEADER, titles="cascade_id,video_url,label\n")
    with pytest.raises(FvcError, match=r"FVC_text_queries\.csv: has no column event_title"):
        read_annotations(tmp_path)


TEXTS = st.text("ab ,.'\u00e9\u0416", max_size=12).filter(lambda text: text.strip(" ,"))


@settings(max_examples=50, deadline=None)
@given(title=TEXTS, translations=st.lists(TEXTS, min_size=4, max_size=4), quoted=st.booleans())
def test_the_title_is_always_among_its_readings(
    tmp_path_factory: pytest.TempPathFactory, title: str, translations: list[str], quoted: bool
) -> None:
    title = title.lstrip(" ,")
    folder = tmp_path_factory.getbasetemp() / "titles"
    folder.mkdir(exist_ok=True)
    cells = io.StringIO()
    csv.writer(cells).writerow([title, *translations])
    line = cells.getvalue().strip("\r\n") if quoted else ",".join([title, *translations])
    readings = annotate(folder, {"f0": line}).titles["f0"]
    if quoted:
        assert readings == {normal_title(title)}
    assert normal_title(title) in readings
    first = normal_title(title.split(",")[0])
    assert all(reading.startswith(first) for reading in readings), "a reading begins elsewhere"


@pytest.fixture(scope="module")
def published() -> Annotations:
    return read_annotations(PUBLISHED)


@needs_published
def test_every_published_row_is_understood(published: Annotations) -> None:
    found = published
    assert found.unparsable == ()
    assert found.untitled == ()
    assert count(found) == {
        "rows": {"FVC.csv": 380, "FVC_dup.csv": 5199},
        "rows_repeated": 1,
        "rows_unparsable": 0,
        "videos": 5572,
        "videos_with_conflicting_labels": 2,
        "videos_in_several_cascades": 3,
        "cascades": 380,
        "cascades_with_title": 380,
        "rows_without_title": 0,
        "groups": 367,
    }
    problems = [label_problem(video.labels) for video in found.videos.values()]
    assert problems.count("excluded_label") == 493
    assert problems.count("unknown_label") == 0
    platforms = [video.platform for video in found.videos.values()]
    counts = {name: platforms.count(name) for name in set(platforms)}
    assert counts == {"facebook": 2062, "twitter": 141, "youtube": 3369}


@needs_published
def test_published_numbers_are_those_of_another_reader(published: Annotations) -> None:
    frames = [pl.read_csv(PUBLISHED / name) for name in ("FVC.csv", "FVC_dup.csv")]
    rows = pl.concat(frames)
    address = pl.col("video_url").str
    rows = rows.with_columns(
        platform=address.extract(r"^https://(?:www\.)?(\w+)\.com/"),
        source_id=address.extract(r"(?:\?v=|/videos/|/status/)([\w-]+)/?$"),
    )
    videos = rows.group_by("platform", "source_id").agg(
        pl.col("label").unique(), pl.col("cascade_id").unique()
    )
    assert {
        (video.platform, video.source_id, frozenset(video.labels), frozenset(video.cascades))
        for video in published.videos.values()
    } == {(*named, frozenset(one), frozenset(other)) for *named, one, other in videos.rows()}
    assert rows.group_by("label").len().sort("label").rows() == [
        ("debunked", 89),
        ("fake", 2920),
        ("parody", 66),
        ("real", 2164),
        ("uncertain", 340),
    ]
    assert len(rows) - len(rows.unique()) == published.num_repeated


@needs_published
def test_published_videos_that_rows_disagree_about(published: Annotations) -> None:
    videos = published.videos
    conflicting = {name: video.labels for name, video in videos.items() if len(video.labels) > 1}
    assert conflicting == {
        "youtube_cyiHil6lUlY": {"parody", "real"},
        "youtube_u8RuDS18R_E": {"debunked", "fake"},
    }
    shared = {name: video.cascades for name, video in videos.items() if len(video.cascades) > 1}
    assert shared == {
        "youtube_CjZt_9iehWI": {"f144", "f145"},
        "youtube_CkLI6Qb4drI": {"f140", "f142"},
        "youtube_FJcVcV46XBE": {"f138", "f139", "f140"},
    }


@needs_published
def test_published_groups(published: Annotations, tmp_path: Path) -> None:
    for name in ("FVC.csv", "FVC_dup.csv"):
        shutil.copy(PUBLISHED / name, tmp_path)
    untitled = read_annotations(tmp_path)
    assert count(untitled)["groups"] == 376
    before, after = groups_of(untitled), groups_of(published)
    assert (len(before), len(after)) == (376, 367)
    assert {tuple(sorted(group)) for group in after - before} == {
        ("f178", "f179"),
        ("f58", "f59"),
        ("r10", "r37"),
        ("r101", "r102"),
        ("r105", "r106"),
        ("r107", "r108"),
        ("r89", "r90"),
        ("r92", "r93"),
        ("r94", "r95"),
    }


@needs_published
def test_published_titles_with_commas_are_read_in_every_way(published: Annotations) -> None:
    titles = published.titles
    assert len(titles) == 380
    assert sum(len(readings) > 1 for readings in titles.values()) == 62
    whole = {
        "f23": "tornado in cape town,south africa",
        "f172": "you spent \u00a32,000 on chicken fillets",
        "r10": "white tiger kills man who fell into its enclosure at delhi zoo",
        "r27": "south carolina cop shoots unarmed black man,walter scott,in the back",
        "r134": "mountain lion (cougar,puma) - high sierra trail,ca",
        "r163": "mandalay bay las vegas shooting october 1,2017",
    }
    for cascade, title in whole.items():
        assert title in titles[cascade], cascade
