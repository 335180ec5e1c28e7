import re
import string
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvc.addresses import MAX_CHARS, NO_IDS, PLATFORMS, parse_url

Y = "Y7MJlmb-_QA"

ADDRESSES = {
    ("youtube", Y): (
        f"https://www.youtube.com/watch?v={Y}",
        f"http://youtube.com/watch?v={Y}",
        f"HTTPS://WWW.YouTube.COM/watch?v={Y}",
        f"www.youtube.com/watch?v={Y}",
        f"youtube.com/watch?v={Y}",
        f"//www.youtube.com/watch?v={Y}",
        f"https://www.youtube.com:443/watch?v={Y}",
        f"https://www.youtube.com./watch?v={Y}",
        f"  https://www.youtube.com/watch?v={Y}\n",
        f"https://m.youtube.com/watch?v={Y}",
        f"https://music.youtube.com/watch?v={Y}&list=RDAMVM{Y}",
        f"https://gaming.youtube.com/watch?v={Y}",
        f"https://www.youtube.com/watch/?v={Y}",
        f"http://m.youtube.com/watch?feature=share&v={Y}&t=3s",
        f"https://www.youtube.com/watch?feature=share&amp;v={Y}",
        f"https://www.youtube.com/watch?app=desktop&v={Y}#t=1m20s",
        f"https://www.youtube.com/watch?v={Y}?feature=share",
        f"https://www.youtube.com/watch?v={Y}/",
        f"https://www.youtube.com/watch?v={quote(Y, safe='').replace('-', '%2D')}",
        f"https://www.youtube.com/watch?v={Y}&v={Y}",
        f"https://www.youtube.com/watch?v={Y}&next=%2Fwatch%3Fv%3DAAAAAAAAAAA",
        f"https://www.youtube.com/watch/{Y}",
        f"https://www.youtube.com/watch_popup?v={Y}",
        f"https://www.youtube.com/ytscreeningroom?v={Y}",
        f"http://m.youtube.com/#/watch?v={Y}",
        f"http://www.youtube.com/v/{Y}",
        f"http://www.youtube.com/v/{Y}&hl=en_US&fs=1",
        f"http://www.youtube.com/vi/{Y}",
        f"http://www.youtube.com/e/{Y}",
        f"https://www.youtube.com/embed/{Y}?start=3&autoplay=1",
        f"https://www.youtube-nocookie.com/embed/{Y}?rel=0",
        f"https://youtube.com/shorts/{Y}?feature=share",
        f"youtube.com/shorts/{Y}/",
        f"https://www.youtube.com/live/{Y}?si=abcDEF",
        f"https://youtu.be/{Y}",
        f"http://www.youtu.be/{Y}/",
        f"https://youtu.be/{Y}?t=3",
        f"https://youtu.be/{Y}?si=AbCdEfGhIjKlMnOp&t=10",
        f"youtu.be/{Y}&feature=share",
        f"https://www.youtube.com/attribution_link?a=8g8kPrPIi&u=%2Fwatch%3Fv%3D{Y}%26feature%3Dshare",
        f"https://www.youtube.com/attribution_link?u=/watch%3Fv%3D{Y}%26feature%3Dshare&a=Jd",
        f"https://www.youtube.com/oembed?url=https%3A//www.youtube.com/watch?v%3D{Y}&format=json",
        f"https://www.youtube.com/signin?next=%2Fwatch%3Fv%3D{Y}&action=x",
        f"https://consent.youtube.com/m?continue=https%3A%2F%2Fwww.youtube.com%2Fwatch%3Fv%3D{Y}",
        f"https://l.facebook.com/l.php?u=https%3A%2F%2Fyoutu.be%2F{Y}&h=AT0",
        f"https://web.archive.org/web/20170921000000/https://www.youtube.com/watch?v={Y}",
        f"https://web.archive.org/web/2017id_/http:/youtu.be/{Y}",
        f"vnd.youtube:{Y}",
        f"vnd.youtube://{Y}?vndapp=youtube_mobile",
        f"vnd.youtube://www.youtube.com/watch?v={Y}",
        f"youtube://{Y}",
    ),
    ("facebook", "916632151837497"): tuple(
        form.replace("ID", "916632151837497")
        for form in (
            "https://WWW.FACEBOOK.com/lioncity/videos/ID/",
            "https://www.facebook.com/videoclick.net/videos/ID",
            "https://www.facebook.com/p/videos/vb.123/ID/?type=2&theater",
            "https://www.facebook.com/p/videos/o.123/ID/?type=2&theater",
            "https://www.facebook.com/p/videos/a-title-of-2017/ID/?__so__=x",
            "https://www.facebook.com/p%C3%A1gina/videos/ID/",
            "https://www.facebook.com/pg/page/videos/ID/",
            "https://www.facebook.com/100012345/videos/ID/",
            "https://m.facebook.com/video.php?v=ID",
            "https://www.facebook.com/video/video.php?v=ID",
            "https://www.facebook.com/photo.php?v=ID&set=vb.1&type=2",
            "https://www.facebook.com/watch/?ref=x&v=ID",
            "https://www.facebook.com/watch?v=ID",
            "https://fb.com/watch/?v=ID",
            "https://www.facebook.com/watch/live/?v=ID&ref=watch_permalink",
            "https://www.facebook.com/video/embed?video_id=ID",
            "https://m.facebook.com/story.php?story_fbid=ID&id=123",
            "https://www.facebook.com/permalink.php?story_fbid=ID&id=123",
            "https://es-la.facebook.com/reel/ID",
            "https://web.facebook.com/reel/ID/?s=single_unit",
            "https://mbasic.facebook.com/p/videos/ID/?refsrc=x",
            "https://touch.facebook.com/p/posts/ID",
            "https://www.facebook.com/groups/abc/permalink/ID/",
            "https://www.facebook.com/groups/123/posts/ID/?comment_id=5",
            "https://www.facebook.com/#!/video.php?v=ID",
            "https://www.facebook.com/plugins/video.php?href=https%3A%2F%2Ffacebook.com%2Fp%2Fvideos%2FID",
            "https://www.facebook.com/login.php?next=https%3A%2F%2Fm.facebook.com%2Fwatch%3Fv%3DID",
            "https://web.archive.org/web/2018/https://www.facebook.com/p/videos/ID/",
        )
    ),
    ("twitter", "880142423867129856"): tuple(
        form.replace("ID", "880142423867129856")
        for form in (
            "https://twitter.com/user/status/ID",
            "http://www.twitter.com/user/status/ID/",
            "https://mobile.twitter.com/user/statuses/ID/video/1",
            "https://twitter.com/user/status/ID/photo/1",
            "https://twitter.com/user/status/ID?ref_src=twsrc%5Etfw",
            "https://twitter.com/#!/user/status/ID",
            "https://twitter.com/i/web/status/ID",
            "https://twitter.com/i/status/ID",
            "https://twitter.com/statuses/ID",
            "https://twitter.com/i/videos/ID?embed_source=facebook",
            "https://twitter.com/i/videos/tweet/ID",
            "https://x.com/i/web/status/ID?s=20",
            "x.com/user/status/ID",
        )
    ),
}


@pytest.mark.parametrize(
    ("url", "platform", "source_id"),
    [(url, *named) for named, urls in ADDRESSES.items() for url in urls],
)
def test_an_address_names_platform_and_id(url: str, platform: str, source_id: str) -> None:
    assert parse_url(url) == (platform, source_id)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no address",
        "http://[",
        "https://[::1/watch?v=Y7MJlmbnLQA",
        "https://youtube.com\u2100/watch?v=Y7MJlmbnLQA",
        "http://\0/",
        "https://www.youtube.com/watch?v=tooshort",
        "https://www.youtube.com/watch?v=Y7MJlmbnLQAtoolong",
        "https://www.youtube.com/watch?v=Y7MJlmbnLQA&v=AAAAAAAAAAA",
        "https://www.youtube.com/watch?list=PLY7MJlmbnLQA",
        "https://www.youtube.com/embed/videoseries?list=PL123",
        "https://www.youtube.com/embed/live_stream?channel=UC123",
        "https://www.youtube.com/Y7MJlmbnLQA",
        "https://youtu.be/",
        "https://notyoutube.com/watch?v=Y7MJlmbnLQA",
        "https://www.youtube.com.evil.org/watch?v=Y7MJlmbnLQA",
        "https://www.youtube.com@evil.org/watch?v=Y7MJlmbnLQA",
        "https://evil.org/https://www.youtube.com/watch?v=Y7MJlmbnLQA",
        "https://www.facebook.com/916632151837497/videos/",
        "https://www.facebook.com/p/videos/916632151837497a",
        "https://www.facebook.com/p/videos/" + 21 * "9",
        "https://www.facebook.com/p/videos/\u0661\u0662\u0663",
        "https://www.facebook.com/p/posts/pfbid02abcDEF",
        "https://www.facebook.com/share/v/1CuMXabcde/",
        "https://www.facebook.com/photo/?fbid=123",
        "https://fb.watch/6abcDEF123/",
        "https://twitter.com/user",
        "https://twitter.com/user/status/88014242\u2026",
        "https://twitter.com/user/status/",
        "https://t.co/abcDEF123",
        "https://vimeo.com/1234",
    ],
)
def test_what_names_no_video_is_refused_by_name(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(url))):
        parse_url(url)


def test_an_address_of_any_length_and_depth_is_judged_quickly() -> None:
    bomb = "https://www.facebook.com/"
    while len(bomb) < 1_000_000:
        bomb += "videos/" * 100 + "?u=https://www.facebook.com/"
    with pytest.raises(ValueError, match="is longer than any address") as caught:
        parse_url(bomb)
    assert len(str(caught.value)) < 300, "the whole cell would stand in rejected.csv"


def test_an_address_carried_too_deep_is_refused() -> None:
    address = f"https://youtu.be/{Y}"
    found = []
    for _ in range(5):
        try:
            found.append(parse_url(address) == ("youtube", Y))
        except ValueError:
            found.append(False)
        address = "https://l.facebook.com/l.php?" + urlencode({"u": address})
    assert len(address) < MAX_CHARS
    assert found == [True, True, True, True, False]


NUMBERS = st.integers(1, 10**20 - 1).map(str)
YOUTUBE_IDS = st.text(string.ascii_letters + string.digits + "-_", min_size=11, max_size=11)
IDS = {
    "facebook": NUMBERS,
    "twitter": NUMBERS,
    "youtube": YOUTUBE_IDS.filter(lambda found: found not in NO_IDS),
}
HOSTS = {
    "facebook": ("facebook.com", "www.facebook.com", "m.facebook.com", "pt-br.facebook.com"),
    "twitter": ("twitter.com", "www.twitter.com", "mobile.twitter.com", "x.com"),
    "youtube": ("youtube.com", "www.youtube.com", "m.youtube.com", "www.youtube-nocookie.com"),
}
PATHS = {
    "facebook": (
        "/{name}/videos/{id}",
        "/{name}/videos/{name}/{id}/",
        "/reel/{id}",
        "/watch?v={id}",
    ),
    "twitter": ("/{name}/status/{id}", "/i/web/status/{id}/", "/{name}/statuses/{id}/video/1"),
    "youtube": ("/watch?v={id}", "/embed/{id}", "/shorts/{id}/", "/live/{id}", "/v/{id}"),
}
NAMES = st.text(string.ascii_letters + string.digits + ".-_", min_size=1, max_size=20)
OTHER = st.dictionaries(
    st.sampled_from(["t", "feature", "ref", "s", "type", "si", "list"]), st.text(max_size=12)
)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str, str]:
    """An address, and the platform and id that it was made from."""
    platform = draw(st.sampled_from(PLATFORMS))
    source_id, name = draw(IDS[platform]), draw(NAMES)
    host, path = draw(st.sampled_from(HOSTS[platform])), draw(st.sampled_from(PATHS[platform]))
    path = path.format(id=source_id, name=name)
    if other := draw(OTHER):
        path += ("&" if "?" in path else "?") + urlencode(other)
    scheme = draw(st.sampled_from(["", "//", "http://", "https://", "HTTPS://"]))
    return f"{scheme}{host}{path}", platform, source_id


@settings(deadline=None)
@given(addresses())
def test_an_id_comes_back_from_every_address_made_of_it(made: tuple[str, str, str]) -> None:
    url, platform, source_id = made
    assert parse_url(url) == (platform, source_id)


@settings(deadline=None)
@given(addresses())
def test_an_id_comes_back_from_an_address_within_another(made: tuple[str, str, str]) -> None:
    url, platform, source_id = made
    carried = "https://" + url.split("//")[-1]
    assert parse_url(f"https://l.facebook.com/l.php?{urlencode({'u': carried})}") == (
        platform,
        source_id,
    )
    assert parse_url(f"https://web.archive.org/web/2018/{carried}") == (platform, source_id)


@settings(deadline=None)
@given(
    st.one_of(
        st.text(),
        st.tuples(addresses(), st.integers(0, 80), st.text(max_size=3)).map(
            lambda made: made[0][0][: made[1]] + made[2] + made[0][0][made[1] :]
        ),
    )
)
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        platform, source_id = parse_url(text)
    except ValueError:
        return
    assert platform in PLATFORMS
    assert set(source_id) <= set(string.ascii_letters + string.digits + "-_")
    assert len(source_id) == 11 if platform == "youtube" else source_id.isdecimal()
