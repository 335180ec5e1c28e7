from pathlib import Path

import pytest

from fvc.annotations import (
    label_problem,
    locate,
    parse_url,
    platforms_by_id,
    read_annotations,
)
from fvc.errors import FvcError
from fvc.groups import connected

PUBLISHED = Path(__file__).parents[2] / "shared" / "fvc"
HEADER = "cascade_id,video_url,label\n"


def write(folder: Path, first: str, second: str = HEADER) -> Path:
    (folder / "FVC.csv").write_text(first, encoding="utf-8")
    (folder / "FVC_dup.csv").write_text(second, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("url", "platform", "source_id"),
    [
        ("https://www.youtube.com/watch?v=Y7MJlmb-_QA", "youtube", "Y7MJlmb-_QA"),
        ("http://m.youtube.com/watch?feature=share&v=Y7MJlmbnLQA&t=3s", "youtube", "Y7MJlmbnLQA"),
        ("https://youtu.be/Y7MJlmbnLQA?t=3", "youtube", "Y7MJlmbnLQA"),
        ("youtube.com/shorts/Y7MJlmbnLQA", "youtube", "Y7MJlmbnLQA"),
        ("https://www.youtube-nocookie.com/embed/Y7MJlmbnLQA?rel=0", "youtube", "Y7MJlmbnLQA"),
        ("https://www.youtube.com/v/Y7MJlmbnLQA", "youtube", "Y7MJlmbnLQA"),
        (
            "https://WWW.FACEBOOK.com/lioncity/videos/916632151837497/",
            "facebook",
            "916632151837497",
        ),
        ("https://www.facebook.com/p/videos/vb.123/456/?type=2&theater", "facebook", "456"),
        ("https://www.facebook.com/p/videos/a-title/456", "facebook", "456"),
        ("https://m.facebook.com/video.php?v=456", "facebook", "456"),
        ("https://www.facebook.com/watch/?ref=x&v=456", "facebook", "456"),
        ("https://m.facebook.com/story.php?story_fbid=456&id=123", "facebook", "456"),
        ("https://es-la.facebook.com/reel/456", "facebook", "456"),
        (
            "https://www.facebook.com/plugins/video.php?href=https%3A%2F%2Ffacebook.com%2Fp%2Fvideos%2F456",
            "facebook",
            "456",
        ),
        ("https://twitter.com/user/status/880142423867129856", "twitter", "880142423867129856"),
        ("https://mobile.twitter.com/user/statuses/99/video/1", "twitter", "99"),
        ("https://x.com/i/web/status/99?s=20", "twitter", "99"),
    ],
)
def test_an_address_names_platform_and_id(url: str, platform: str, source_id: str) -> None:
    assert parse_url(url) == (platform, source_id)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no address",
        "http://[",
        "https://www.youtube.com/watch?v=tooshort",
        "https://www.youtube.com/watch?v=Y7MJlmbnLQAtoolong",
        "https://notyoutube.com/watch?v=Y7MJlmbnLQA",
        "https://www.youtube.com.evil.org/watch?v=Y7MJlmbnLQA",
        "https://www.facebook.com/916632151837497/videos/",
        "https://twitter.com/user",
        "https://vimeo.com/1234",
    ],
)
def test_what_names_no_video_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_url(url)


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
        "FVC_dup.csv, line 4: 'https://vimeo.com/1'",
        "FVC_dup.csv, line 5: ''",
    )


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"fake"}, None),
        ({"real"}, None),
        ({"fake", "real"}, "conflicting_labels"),
        ({"fake", "debunked"}, "conflicting_labels"),
        ({"parody", "uncertain"}, "excluded_label"),
        ({"fake", ""}, "unknown_label"),
        ({"Fake"}, "unknown_label"),
    ],
)
def test_labels_are_never_guessed(labels: set[str], problem: str | None) -> None:
    assert label_problem(labels) == problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cascade_id,url,label\n", "has no column video_url"),
        ("", "has no column cascade_id, video_url, label"),
        (b"cascade_id,video_url,label\n\xff\xfe,x,fake\n", "is no CSV in UTF-8"),
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


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published annotations are not here")
def test_every_published_row_is_understood() -> None:
    found = read_annotations(PUBLISHED)
    assert found.unparsable == ()
    assert len(found.videos) == 5572
    problems = [label_problem(video.labels) for video in found.videos.values()]
    assert problems.count("excluded_label") == 493
    assert problems.count("conflicting_labels") == 2
    assert problems.count("unknown_label") == 0
    links = [(key, name) for key, video in found.videos.items() for name in video.cascades]
    assert len({name for _, name in links}) == 380
    assert len(set(connected(links).values())) == 376
