import csv
import io
import zipfile
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from jaxtyping import UInt8
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from fvc.addresses import parse_url
from fvc.annotations import locate, platforms_by_id, read_annotations
from fvc.config import load_params
from fvc.demo.corpus import write_corpus
from fvc.demo.footage import Camera
from fvc.demo.manipulations import IN_SPACE, IN_TIME
from fvc.demo.originals import Original
from fvc.demo.plan import ENCODINGS, cascade_sizes, plan
from fvc.demo.rendering import frames_of, render
from fvc.demo.reposts import EDITS, timeline
from fvc.demo.scenes import Scene
from fvc.demo.specifications import Encoding, Footage, Plan, Video
from fvc.errors import FvcError
from fvc.fingerprint import FRAME_SIDE_PX, fingerprint
from fvc.near_duplicates import near_duplicates
from fvc.stages import demo

SEEDS = range(3)
INDEX = load_params(Path(__file__).parents[1] / "params.yaml").index


@pytest.fixture(scope="module")
def small() -> Plan:
    return plan(8, seed=6)


@pytest.fixture(scope="module")
def corpus(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("demo") / "data"
    write_corpus(target, small)
    return target


def footage(*manipulations: str, **changes: object) -> Footage:
    base = Footage(
        cascade_id="f0",
        seed=7,
        scene="street",
        variant=0,
        width=160,
        height=120,
        fps=Fraction(25),
        num_frames=60,
        manipulations=manipulations,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def video(source: Footage, **changes: object) -> Video:
    base = Video(
        footage=source,
        copy=1,
        seed=8,
        subset="FVC1",
        platform="youtube",
        source_id="abcdefghijk",
        edits=(),
        scale_percent=70,
        fps=source.fps,
        variable_rate=False,
        encoding=Encoding("libx264", "mp4", "yuv420p"),
        quality=0,
        sound=False,
        rotation_deg=0,
        odd_size=False,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def first_frame(copy: Video) -> UInt8[np.ndarray, "H W 3"]:
    return next(frames_of(copy, timeline(copy)[0]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_videos", [8, 24, 64, 256])
def test_as_many_videos_are_usable_as_asked_for(num_videos: int, seed: int) -> None:
    planned = plan(num_videos, seed)
    labels = Counter(video.footage.label for video in planned.usable)
    assert labels == {"real": num_videos // 2, "fake": num_videos // 2}
    cascades = {video.footage.cascade_id: video.footage.label for video in planned.usable}
    assert len(planned.originals) == len(cascades)
    assert len(set(Counter(cascades.values()).values())) == 1, "a label has more cascades"


@pytest.mark.parametrize("num_videos", range(1, 200))
def test_cascades_have_one_to_five_videos(num_videos: int) -> None:
    sizes = cascade_sizes(num_videos)
    assert sum(sizes) == num_videos
    assert 1 <= min(sizes) <= max(sizes) <= 5


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_videos", [24, 64])
def test_five_folds_and_a_locked_test_are_possible(num_videos: int, seed: int) -> None:
    cascades = {video.footage.cascade_id for video in plan(num_videos, seed).usable}
    for label in ("f", "r"):
        assert sum(cascade.startswith(label) for cascade in cascades) >= 5 + 2


@pytest.mark.parametrize("seed", SEEDS)
def test_even_a_small_corpus_has_all_that_is_found_in_real_ones(seed: int) -> None:
    planned = plan(24, seed)
    usable = planned.usable
    assert {video.encoding for video in usable} == set(ENCODINGS)
    assert {video.rotation_deg for video in usable} == {0, 90, 180, 270}
    assert {video.sound for video in usable} == {True, False}
    assert {video.variable_rate for video in usable} == {True, False}
    assert any(video.odd_size for video in usable)
    assert {*IN_TIME, *IN_SPACE} <= {name for each in usable for name in each.footage.manipulations}
    seconds = [float(video.footage.num_frames / video.footage.fps) for video in usable]
    assert max(seconds) > 15
    assert min(video.fps for video in usable) == 15
    assert max(video.fps for video in usable) == 60
    assert Counter(video.damage for video in planned.defects).keys() == {
        "none",
        "truncated",
        "empty",
    }
    assert any(video.one_frame for video in planned.defects)
    labels = {row.label for row in planned.duplicates}
    assert labels == {"real", "fake", "uncertain", "debunked", "parody"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_videos", [24, 64])
def test_each_defect_is_what_the_corpus_s_readers_will_find(num_videos: int, seed: int) -> None:
    planned = plan(num_videos, seed)
    annotated: dict[str, set[tuple[str, str]]] = {}
    for row in (*planned.originals, *planned.duplicates):
        video_id = "_".join(parse_url(row.video_url))
        annotated.setdefault(video_id, set()).add((row.cascade_id, row.label))
    present = {
        f"{video.platform}_{video.source_id}" for video in (*planned.usable, *planned.defects)
    }
    usable = {f"{video.platform}_{video.source_id}" for video in planned.usable}
    assert annotated.keys() - present, "no annotated video is missing"
    assert present - annotated.keys(), "no present video is without annotation"
    assert usable <= annotated.keys()
    assert any(len({label for _, label in rows}) == 2 for rows in annotated.values())
    for video_id in usable:
        assert len({label for _, label in annotated[video_id]}) == 1
    joined = [rows for rows in annotated.values() if len({cascade for cascade, _ in rows}) == 2]
    assert joined
    assert all(len({label for _, label in rows}) == 1 for rows in joined)


def test_the_label_does_not_follow_from_the_file() -> None:
    usable = plan(1024, seed=0).usable
    features = [
        (
            video.footage.width,
            video.footage.height,
            video.footage.num_frames,
            video.fps,
            video.footage.num_frames / video.footage.fps,
            ENCODINGS.index(video.encoding),
            video.quality,
            video.sound,
            video.rotation_deg,
            video.odd_size,
            video.variable_rate,
            len(video.edits),
            len(video.path),
        )
        for video in usable
    ]
    labels = [video.footage.label == "fake" for video in usable]
    guessed = cross_val_predict(
        RandomForestClassifier(100, random_state=0),
        np.array(features, dtype=np.float64),
        labels,
        groups=[video.footage.cascade_id for video in usable],
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    assert 0.4 < roc_auc_score(labels, guessed) < 0.6, "metadata tell fake from real"


@pytest.mark.parametrize("name", IN_TIME)
@pytest.mark.parametrize("seed", range(20))
def test_changes_in_time_show_only_what_was_filmed(name: str, seed: int) -> None:
    for num_frames in (30, 101, 800):
        order = IN_TIME[name](num_frames, np.random.default_rng(seed))
        assert order.shape == (num_frames,)
        assert order.min() >= 0
        assert order.max() < 2 * num_frames
        unusual = np.count_nonzero(np.diff(order) != 1)
        large = unusual >= num_frames * 25 // 100
        assert large or name == "repeat", "the change is too small to be seen"


@pytest.mark.parametrize("seed", range(20))
def test_a_repeated_stretch_is_seen_three_times(seed: int) -> None:
    order = IN_TIME["repeat"](100, np.random.default_rng(seed))
    shown = Counter(order.tolist())
    assert sum(times == 3 for times in shown.values()) >= 15


@pytest.mark.parametrize("name", sorted({*IN_SPACE} - {"refilm"}))
@pytest.mark.parametrize("seed", SEEDS)
def test_changes_in_space_leave_the_rest_of_the_frame_alone(name: str, seed: int) -> None:
    change = IN_SPACE[name](60, 120, 160, np.random.default_rng(seed))
    camera = Camera(footage(seed=seed))
    for number in (0, 30, 59):
        frame = camera.frame(number)
        before = frame.copy()
        differs = (change(frame, number) != before).any(axis=2)
        assert np.array_equal(frame, before)
        assert 0.01 < differs.mean() < 0.6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (480, 360), (160, 120)])
def test_the_pattern_of_a_screen_lies_still_and_is_seen_in_a_small_clip(
    width: int, height: int, seed: int
) -> None:
    change = IN_SPACE["refilm"](60, height, width, np.random.default_rng(seed))
    grey = np.full((height, width, 3), 128, np.uint8)
    seen = change(grey, 0)
    assert np.array_equal(seen, change(grey, 59))
    size = (width * 64 // max(width, height), height * 64 // max(width, height))
    assert cv2.resize(seen, size, interpolation=cv2.INTER_AREA).std() > 15


def test_a_real_video_shows_what_the_camera_saw() -> None:
    source = footage()
    original, camera = Original(source), Camera(source)
    frames = [original.frame(number) for number in range(source.num_frames)]
    assert all(np.array_equal(frame, camera.frame(row)) for row, frame in enumerate(frames))
    steps = [np.abs(cv2.absdiff(*pair)).mean() for pair in pairwise(frames)]
    assert min(steps) > 1, "a real video has frozen frames, which only fakes may have"


@pytest.mark.parametrize("seed", SEEDS)
def test_something_moves_in_every_scene(seed: int) -> None:
    scene = Scene(footage(seed=seed), height=360, width=480, num_steps=600)
    moving = [
        (scene.view(step, 0, 0, height=360, width=480) != scene.background).any(axis=2).mean()
        for step in range(0, 600, 20)
    ]
    assert max(moving) > 0.002
    assert len(set(moving)) > 2


def test_each_edit_does_what_its_name_says() -> None:
    source = footage()
    plain = first_frame(video(source))
    edited = {name: first_frame(video(source, edits=(name,))) for name in EDITS}
    assert edited["scale"].shape[1] < plain.shape[1] * 0.85
    assert plain.shape > edited["crop"].shape > tuple(side * 9 // 10 for side in plain.shape)
    assert (edited["letterbox"].max(axis=(1, 2)) == 0).sum() >= 20 or (
        edited["letterbox"].max(axis=(0, 2)) == 0
    ).sum() >= 24
    assert abs(edited["brightness"].mean() / plain.mean() - 1) > 0.1
    assert 0.005 < (edited["watermark"] != plain).any(axis=2).mean() < 0.1
    assert len(timeline(video(source, edits=("trim",), seed=3))[0]) < source.num_frames


@pytest.mark.parametrize("rotation_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("odd_size", [True, False])
def test_a_copy_is_displayed_upright(rotation_deg: int, odd_size: bool, tmp_path: Path) -> None:
    encoding = Encoding("libx264", "mp4", "yuv444p")
    source = footage(num_frames=4)
    copy = video(source, encoding=encoding, rotation_deg=rotation_deg, odd_size=odd_size)
    (tmp_path / "video.mp4").write_bytes(render(copy))
    _, shown = cv2.VideoCapture(str(tmp_path / "video.mp4")).read()
    expected = first_frame(copy)
    assert expected.shape[0] % 2 == expected.shape[1] % 2 == odd_size
    assert shown.shape == expected.shape
    assert np.abs(shown[:, :, ::-1].astype(int) - expected).mean() < 16


def test_a_slower_copy_lasts_as_long() -> None:
    source = footage(fps=Fraction(60), num_frames=180)
    for fps in (Fraction(60), Fraction(30000, 1001), Fraction(15)):
        numbers, times_s = timeline(video(source, fps=fps))
        assert times_s is None
        assert len(numbers) / fps == pytest.approx(3, abs=0.1)
        assert numbers.max() < 180
    numbers, times_s = timeline(video(source, fps=Fraction(15), variable_rate=True))
    assert times_s is not None
    assert len(numbers) == len(times_s) < 45
    assert len({round(step, 6) for step in np.diff(times_s)}) > 1


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fingerprints_join_copies_and_never_two_cascades(seed: int) -> None:
    usable = plan(64, seed).usable[::2]
    side = (FRAME_SIDE_PX, FRAME_SIDE_PX)
    prints = []
    for copy in usable:
        numbers, _ = timeline(replace(copy, variable_rate=False))
        two_per_s = numbers[:: round(copy.fps / 2)][:12]
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames_of(copy, two_per_s)]
        small = [cv2.resize(frame, side, interpolation=cv2.INTER_AREA) for frame in grey]
        prints.append(fingerprint(np.stack(small)))
    names = [copy.footage.cascade_id for copy in usable]
    found = near_duplicates(
        prints, max_distance=INDEX.fingerprint_distance, min_share=INDEX.fingerprint_share
    )
    assert all(names[match.one] == names[match.other] for match in found), (
        "two cascades would become one group"
    )
    related = [(a, b) for b in range(len(names)) for a in range(b) if names[a] == names[b]]
    assert len(found) > 0.5 * len(related), "copies are no near-duplicates"


def test_the_layout_is_that_of_the_real_corpus(corpus: Path, small: Plan) -> None:
    paths = {str(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file()}
    archives = {f"archives/FVC{number}.zip" for number in (1, 2, 3)}
    assert paths == archives | {"annotations/FVC.csv", "annotations/FVC_dup.csv"}
    for name in ("FVC.csv", "FVC_dup.csv"):
        with (corpus / "annotations" / name).open(newline="") as stream:
            assert next(csv.reader(stream)) == ["cascade_id", "video_url", "label"]
    annotated = read_annotations(corpus / "annotations")
    assert annotated.unparsable == ()
    platforms = platforms_by_id(annotated.videos)
    for each in (*small.usable, *small.defects):
        assert locate(each.path, platforms) == (each.platform, each.source_id)


def test_every_usable_video_plays_and_every_defect_does_not(corpus: Path, small: Plan) -> None:
    archives = {
        name: zipfile.ZipFile(corpus / "archives" / f"{name}.zip")
        for name in ("FVC1", "FVC2", "FVC3")
    }
    names = {"libx264": "h264", "libx265": "hevc", "libvpx-vp9": "vp9", "libsvtav1": "av1"}
    for each in small.usable:
        with av.open(io.BytesIO(archives[each.subset].read(each.path)), "r") as source:
            assert len(list(source.decode(video=0))) > 1
            codec = source.streams.video[0].codec_context.codec.canonical_name
            assert codec == names.get(each.encoding.codec, each.encoding.codec)
            assert len(source.streams.audio) == each.sound
    for each in small.defects:
        content = archives[each.subset].read(each.path)
        if each.damage == "empty":
            assert content == b""
        if each.damage == "truncated":
            with pytest.raises(av.FFmpegError):
                av.open(io.BytesIO(content), "r")
    for archive in archives.values():
        archive.close()


def test_two_runs_give_equal_bytes(corpus: Path, small: Plan, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", small)
    for path in corpus.rglob("*"):
        if path.is_file():
            again = tmp_path / "again" / path.relative_to(corpus)
            assert path.read_bytes() == again.read_bytes(), f"{path.name} differs"


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("mine")
    with pytest.raises(FvcError, match="holds something already"):
        demo.main([str(tmp_path / "data")])
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "precious"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, small: Plan) -> None:
    broken = replace(small.usable[0], encoding=Encoding("no_such_codec", "mp4", "yuv420p"))
    with pytest.raises(KeyError, match="no_such_codec"):
        write_corpus(tmp_path / "data", Plan((broken,), (), (), ()))
    assert list(tmp_path.iterdir()) == []


def test_the_command_fills_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def plan_one(num_videos: int, seed: int) -> Plan:
        asked.append((num_videos, seed))
        return Plan((video(footage(num_frames=3)),), (), (), ())

    monkeypatch.setattr(demo, "plan", plan_one)
    target = tmp_path / "data"
    target.mkdir()
    demo.main([str(target), "--videos", "9", "--seed", "4"])
    assert asked == [(9, 4)]
    assert {path.name for path in target.iterdir()} == {"annotations", "archives"}
    assert "1 real and 0 fake videos" in capsys.readouterr().err


def test_too_few_videos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FvcError, match="fewer than the 8"):
        demo.main([str(tmp_path / "data"), "--videos", "7"])
    assert list(tmp_path.iterdir()) == []
