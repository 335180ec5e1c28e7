import hashlib
from collections import OrderedDict
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import outcomes
import polars as pl
import pytest
import torch
from PIL import Image
from settings import clips_config, model_config
from torch import nn

from fvc import networks
from fvc.clip_files import load_clips, save_clips
from fvc.config import ClipsConfig
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence.examples import (
    KINDS,
    PER_KIND,
    Examples,
    choose_examples,
    clip_spans,
    explain_examples,
    numbers_of,
)
from fvc.evidence.explain import HeatMap
from fvc.files import write_json
from fvc.networks import build_network, load_network, save_network
from fvc.predict import clip_logits, video_logit
from fvc.records import OUT_OF_FOLD
from fvc.report.examples import examples_section, sanity, write_files
from fvc.video import probe, read_clips

CALIBRATION = replace(outcomes.CALIBRATION, temperature=2.0, abstain_low=0.45, abstain_high=0.55)


def answer(name: str, group: str, label: str, probability: float) -> dict[str, object]:
    return {
        "video_id": f"youtube_{name}",
        "fold": 0,
        "group": group,
        "label": label,
        "probability_fake": probability,
        "called": "fake" if probability >= CALIBRATION.threshold else "real",
        "verdict": CALIBRATION.verdict(probability),
    }


def chosen_of(rows: list[dict[str, object]]) -> dict[str, list[str]]:
    chosen = choose_examples(OUT_OF_FOLD.frame(rows))
    return {
        kind: [row["video_id"].removeprefix("youtube_") for at, row in chosen if at == kind]
        for kind in KINDS
    }


def test_the_surest_of_each_label_and_the_least_sure_are_chosen() -> None:
    rows = [
        answer("a", "g1", "fake", 0.99),
        answer("b", "g2", "fake", 0.98),
        answer("c", "g3", "real", 0.10),
        answer("d", "g4", "real", 0.90),
        answer("e", "g5", "real", 0.70),
        answer("f", "g6", "fake", 0.20),
        answer("g", "g7", "fake", 0.51),
        answer("h", "g8", "fake", 0.54),
        answer("i", "g9", "real", 0.48),
    ]
    expected = {"hit": ["a", "c"], "miss": ["d", "f"], "abstention": ["g", "i"]}
    assert chosen_of(rows) == expected
    assert chosen_of(rows[::-1]) == expected, "the order of the rows decides"


def test_no_group_and_no_video_is_shown_twice() -> None:
    rows = [
        answer(f"{group}{copy}", f"g{group}", ("real", "fake")[group % 2], share)
        for group in range(9)
        for copy, share in enumerate((0.02, 0.49, 0.97))
    ]
    chosen = choose_examples(OUT_OF_FOLD.frame(rows))
    assert len(chosen) == PER_KIND * len(KINDS)
    assert len({row["group"] for _, row in chosen}) == len(chosen)


def test_the_only_miss_is_shown_although_its_group_holds_the_surest_hit() -> None:
    rows = [answer("a", "g", "fake", 0.99), answer("b", "g", "fake", 0.1)]
    assert chosen_of(rows) == {"hit": [], "miss": ["b"], "abstention": []}


def test_an_answer_with_a_verdict_comes_before_one_without() -> None:
    rows = [answer("a", "g1", "fake", 0.54), answer("b", "g2", "fake", 0.56)]
    rows[0]["probability_fake"] = 0.9  # of a fold with a wider band
    assert chosen_of(rows)["hit"] == ["b"]


@pytest.mark.parametrize("num_frames", [10, 37, 50])
@pytest.mark.parametrize("views", ["spans", "rolling"])
def test_clips_lie_where_the_decoder_took_them(tmp_path: Path, views: str, num_frames: int) -> None:
    config = clips_config(3, 2, 16, views=views, window_s=0.8, stride_s=0.4)
    frames = [np.full((16, 16, 3), 5 * number, np.uint8) for number in range(num_frames)]
    encode(tmp_path / "a.mp4", frames, fps=Fraction(30000, 1001))
    clips = read_clips(tmp_path / "a.mp4", config)
    found = clip_spans(probe(tmp_path / "a.mp4").duration_s, len(clips.pixels), config)
    assert found == clips.spans_s


def test_clips_that_do_not_fit_the_duration_have_no_times() -> None:
    config = clips_config(9, 2, 16, views="rolling", window_s=1.0, stride_s=1.0)
    assert clip_spans(4.0, 4, config) == ((0, 1), (1, 2), (2, 3), (3, 4))
    assert clip_spans(4.0, 5, config) is None


class Corpus:
    """Two folds with small networks, and what these said of videos of several clips."""

    def __init__(self, root: Path, num_clips: int) -> None:
        self.config: ClipsConfig = clips_config(num_clips, 4, 16)
        self.models, self.clips = root / "models", root / "clips"
        model, rows = model_config(), []
        generator = np.random.default_rng(0)
        for fold in range(2):
            torch.manual_seed(fold)
            network = build_network(model, self.config)
            with torch.no_grad():
                network.classifier.weight.mul_(20)
            save_network(network, self.models / str(fold), model, self.config)
            network.eval()
            for number in range(8):
                name = f"{fold}{number}"
                pixels = generator.integers(0, 256, (num_clips, 4, 3, 16, 16), dtype=np.uint8)
                pixels[..., :4, :] = 0
                source = self.clips / f"youtube_{name}.pt"
                save_clips(source, pixels, "key", content=(4, 0, 12, 16))
                logit = video_logit(clip_logits(network, load_clips(source, "clips")))
                label = ("real", "fake")[number % 2]
                row = answer(name, f"g{name}", label, CALIBRATION.probability(logit))
                rows.append({**row, "fold": fold})
        self.tested = OUT_OF_FOLD.frame(rows)

    def explain(self) -> Examples:
        ids = self.tested["video_id"]
        index = pl.DataFrame({"video_id": ids}).with_columns(
            platform=pl.lit("youtube"), duration_s=6.0
        )
        return explain_examples(
            self.tested,
            index,
            {0: CALIBRATION, 1: CALIBRATION},
            models=self.models,
            clips=self.clips,
            config=self.config,
            seed=0,
        )


@pytest.fixture
def small_features(monkeypatch: pytest.MonkeyPatch) -> None:
    def features(*_: object) -> nn.Module:
        backbone = nn.Sequential(nn.Conv3d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        head = nn.Sequential(nn.Conv3d(8, 16, 1), nn.ReLU())
        parts: OrderedDict[str, nn.Module] = OrderedDict(backbone=backbone, head=head)
        return nn.Sequential(parts)

    monkeypatch.setattr(networks, "build_features", features)


@pytest.fixture
def corpus(tmp_path: Path, small_features: None) -> Corpus:  # noqa: ARG001
    return Corpus(tmp_path, num_clips=3)


def test_each_example_is_explained_by_the_network_that_tested_it(corpus: Corpus) -> None:
    found = corpus.explain()
    assert {example.video["fold"] for example in found.examples} == {0, 1}
    for example in found.examples:
        network = load_network(corpus.models / str(example.video["fold"]))
        source = corpus.clips / f"{example.video['video_id']}.pt"
        logits = clip_logits(network, load_clips(source, "clips"))
        side = 1 if example.video["called"] == "fake" else -1
        assert (side * logits[example.number] >= side * logits).all(), "not the strongest clip"
        assert torch.equal(example.explained.clip, load_clips(source, "clips")[example.number])
        expected = [CALIBRATION.probability(logit) for logit in logits.tolist()]
        assert list(example.probabilities) == expected
        assert example.spans_s == ((0, 2), (2, 4), (4, 6))
        assert example.bars[0] == 0.25
        assert all(0 <= share < 1 for share in example.bars[1].values())
    assert all(value is not None for value in found.likeness.values())


def test_a_network_that_says_something_else_than_its_predictions_is_refused(
    corpus: Corpus,
) -> None:
    changed = 1 - pl.col("probability_fake")
    corpus.tested = corpus.tested.with_columns(probability_fake=changed.clip(0, 0.3))
    with pytest.raises(FvcError, match=r"network of fold 0 gives .* Run 'dvc repro -f -s train@0'"):
        corpus.explain()


def test_equal_inputs_give_equal_files_and_old_ones_go(corpus: Corpus, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        found = corpus.explain()
        write_files(examples_section(found)[1], folder)
        write_json(folder / "examples.json", numbers_of(found))
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
        }

    (tmp_path / "again").mkdir()
    (tmp_path / "again/hit_9.jpg").write_bytes(b"of an earlier corpus")
    first = digests(tmp_path / "first")
    assert digests(tmp_path / "again") == first
    kinds = [name.rpartition(".")[2] for name in first]
    assert (kinds.count("jpg"), kinds.count("webp"), kinds.count("png")) == (6, 6, 6)


def test_the_section_tells_where_the_network_looked_and_claims_no_more(corpus: Corpus) -> None:
    found = corpus.explain()
    section, files = examples_section(found)
    assert len(section.pictures) == len(files) == 3 * len(found.examples)
    strip, moving, profile = section.pictures[:3]
    first = found.examples[0].video
    for part in (first["video_id"], first["group"], f"labelled {first['label']}", "youtube"):
        assert part in strip.caption
    assert f"{first['probability_fake']:.3f}" in strip.caption
    assert "Black bars are 25% of the clip" in strip.caption
    assert "each of its 3 clips" in profile.caption
    assert (strip.alt or "").startswith("Frames of youtube_")
    assert moving.address.startswith("data:image/webp;base64,")
    assert "not why" in section.text[0]
    with Image.open(BytesIO(moving.image)) as image:
        assert getattr(image, "n_frames", 1) == 4, "one for each frame of the clip"
        assert image.info["loop"] == 0
    assert max(map(len, files.values())) < 300_000


@pytest.mark.usefixtures("small_features")
def test_one_clip_has_no_profile_and_the_caption_says_so(tmp_path: Path) -> None:
    section, files = examples_section(Corpus(tmp_path, num_clips=1).explain())
    assert not [name for name in files if name.endswith("png")]
    assert "there is no profile over time" in section.pictures[0].caption


def test_blank_maps_and_unknown_times_are_said_to_be_so(corpus: Corpus) -> None:
    found = corpus.explain()
    blank = HeatMap(values=np.zeros((4, 16, 16), np.float32), cells=(2, 8, 8))
    first = found.examples[0]
    maps = {"backbone": blank, "head": blank}
    changed = replace(first, spans_s=None, explained=replace(first.explained, maps=maps))
    section, _ = examples_section(replace(found, examples=[changed]))
    strip, _, profile = section.pictures
    assert "Blank where nothing spoke for" in strip.caption
    assert "time not known" in strip.caption
    assert "not known" in profile.caption
    assert "No answer was" in section.text[-1]


def test_maps_that_do_not_depend_on_what_was_learned_are_flagged() -> None:
    good, bad, none = sanity({"backbone": 0.49, "head": 0.5, "features": None})
    assert "Warning" not in good
    assert "below 0.5" in good
    assert "Inception block do not depend on what was learned: do not read them" in bad
    assert "blank" in none


def test_nothing_tested_is_no_chart() -> None:
    section, files = examples_section(Examples(examples=[], likeness={}))
    assert section.text == ["No video was tested, so there is none to show."]
    assert not files
