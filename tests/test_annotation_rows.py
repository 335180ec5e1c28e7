from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.annotation_rows import ALIASES, read_rows
from fvc.errors import FvcError

COLUMNS = ("cascade_id", "video_url", "label")


def read(folder: Path, content: str | bytes) -> list[tuple[int, str, str, str]]:
    source = folder / "FVC.csv"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = read_rows(source, COLUMNS, remedy="Put it there")
    return [
        (row.line, row.get("cascade_id"), row.get("video_url"), row.get("label")) for row in rows
    ]


@pytest.mark.parametrize(
    "header",
    [
        "cascade_id,video_url,label",
        "\ufeffCascade_ID,VIDEO_URL,Label",
        " Cascade ID , video url ,label ",
        "cascadeId,videoUrl,class",
        "cascade,url,annotation",
        '"event-id","Link","Truth Label"',
        "group_id,Video-Link,LABEL,note,,",
    ],
)
def test_a_column_may_have_other_names(tmp_path: Path, header: str) -> None:
    assert read(tmp_path, f"{header}\nf0,u,fake\n") == [(2, "f0", "u", "fake")]


def test_columns_may_have_any_order_and_company(tmp_path: Path) -> None:
    content = "number,label,uploader,url,cascade\n0,real,someone,u,r1\n"
    assert read(tmp_path, content) == [(2, "r1", "u", "real")]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("cascade_id,video_url,label,Label", "has 'label' and 'Label', which both mean label"),
        ("cascade_id,URL,video_url,label", "has 'URL' and 'video_url', which both mean video_url"),
        ("cascade,event_id,url,label", "both mean cascade_id. Keep one of them"),
        ("cascade_id,address,label", "has no column video_url. Its first line must be"),
        ("cascade_id;video_url;label", "has no column cascade_id, video_url, label"),
        ("", "has no column cascade_id, video_url, label"),
        ("\ud800", "is no CSV in UTF-8"),
    ],
)
def test_a_header_that_cannot_be_understood_is_refused(
    tmp_path: Path, header: str, message: str
) -> None:
    content = f"{header}\nf0,u,fake\n".encode(errors="surrogatepass")
    with pytest.raises(FvcError, match=rf"FVC\.csv: .*{message}"):
        read(tmp_path, content)


def test_no_two_columns_share_a_name() -> None:
    names = [name for column, others in ALIASES.items() for name in (column, *others)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_blank_lines_do_not_matter(tmp_path: Path, end: str) -> None:
    lines = ["cascade_id,video_url,label", "", "f0,u,fake", "  ", ",,", "f1,u,real"]
    assert read(tmp_path, end.join(lines)) == [(3, "f0", "u", "fake"), (6, "f1", "u", "real")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f0", ("f0", "", "")),
        ("f0,u,fake,more,and more", ("f0", "u", "fake")),
        (' f0 ," u ","fake"', ("f0", "u", "fake")),
        ('f0,u,"fake', ("f0", "u", "fake")),
        ('f0,u,fa"ke', ("f0", "u", 'fa"ke')),
        ('f0,"a,b",fake', ("f0", "a,b", "fake")),
        ("f0,u\0v,fake", ("f0", "u\0v", "fake")),
        ("f0,u\u2028v\x85w\x0bx,fake", ("f0", "u\u2028v\x85w\x0bx", "fake")),
        ("f0,u," + "x" * 100_000, ("f0", "u", "x" * 100_000)),
    ],
)
def test_no_row_disturbs_the_next(
    tmp_path: Path, line: str, expected: tuple[str, str, str]
) -> None:
    found = read(tmp_path, f"cascade_id,video_url,label\n{line}\nf1,u,real\n")
    assert found == [(2, *expected), (3, "f1", "u", "real")]


@pytest.mark.parametrize("line", [b"f0,caf\xe9,fake", b"f0," + b"x" * 200_000 + b",fake"])
def test_a_line_that_cannot_be_read_is_a_row_with_a_problem(tmp_path: Path, line: bytes) -> None:
    source = tmp_path / "FVC.csv"
    source.write_bytes(b"cascade_id,video_url,label\n" + line + b"\nf1,u,real\n")
    broken, whole = read_rows(source, COLUMNS, remedy="Put it there")
    assert broken.line == 2
    assert broken.problem is not None
    assert broken.problem.startswith("is no CSV in UTF-8")
    assert (whole.problem, whole.get("cascade_id")) == (None, "f1")


def test_cells_beyond_the_header_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "FVC.csv"
    source.write_text("cascade_id,video_url,label\nf0\nf0,u,fake\nf0,u,fake,a,b\n")
    rows = read_rows(source, COLUMNS, remedy="Put it there")
    assert [row.num_surplus for row in rows] == [0, 0, 2]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40).map(lambda line: line.translate(None, b"\r\n"))))
def test_any_bytes_are_rows(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    source = tmp_path_factory.getbasetemp() / "any.csv"
    header = b"cascade_id,video_url,label"
    source.write_bytes(b"\n".join([header, *(b"f0," + line for line in lines)]))
    rows = read_rows(source, COLUMNS, remedy="Put it there")
    assert [row.line for row in rows] == list(range(2, len(lines) + 2))
    assert all(row.problem or row.get("cascade_id") == "f0" for row in rows)
