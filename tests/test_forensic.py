import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from made_forensics import CLIPS, MODEL, examples, fitted, noisy, noisy_quarter, scene
from mlflow.tracking import MlflowClient
from outcomes import CALIBRATION
from registering import Corpus as Registered
from settings import clips_config, train_config
from shelf import compose
from source_tree import ROOT

from fvc import costs
from fvc.clip_files import save_clips
from fvc.config import Params, TrainConfig, load_params
from fvc.distributed import World
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence.explain import MOST_ALIKE, Explained, randomisation_check, randomised
from fvc.evidence.explainers import explainer_of
from fvc.evidence.fold_outputs import read_history
from fvc.evidence.occlusion import CELLS, occlusion
from fvc.files import write_json
from fvc.networks import ClipClassifier, build_network, load_network, save_network
from fvc.predict import clip_logits, video_logit, video_logits
from fvc.records import FOLDS, PREDICTIONS
from fvc.serving.answering import Answerer, Wishes
from fvc.serving.packaging import load_model
from fvc.serving.settings import Settings
from fvc.stages import train
from fvc.tracking.store import experiment_id
from fvc.training.boosting import boost, measure, rounds_as_epochs
from fvc.training.losses import make_loss
from fvc.validation import roc_auc


class Corpus:
    """Forty videos in two folds, already clips; fakes carry noise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = load_params(ROOT / "params.yaml")
        self.params: Params = replace(
            params,
            model=MODEL,
            clips=CLIPS,
            split=replace(params.split, folds=(0, 1)),
            train=replace(params.train, best_by="validation/roc_auc"),
        )
        rows: list[dict[str, object]] = []
        for number, (clip, label) in enumerate(examples(0, 40)):
            video_id, fold = f"youtube_{number:02}", number // 2 % 2
            pair = np.stack([clip.numpy(), np.roll(clip.numpy(), 3, axis=3)])
            save_clips(root / "clips" / f"{video_id}.pt", pair, "key")
            save_clips(root / "augmented" / f"{video_id}.pt", pair[:1, :, :, :, ::-1], "key")
            validates = [1 - fold] if number < 16 else []
            row = {"video_id": video_id, "group": f"g{number}", "part": "fold", "fold": fold}
            rows.append({**row, "label": ("real", "fake")[label], "validates": validates})
        FOLDS.write(root / "folds.parquet", FOLDS.frame(rows))
        write_json(root / "clips.json", {"data_sha256": "d" * 64})

    def train(self, model: str = "models/0") -> Path:
        train.run(
            self.params,
            fold=0,
            clips=self.root / "clips",
            clips_summary=self.root / "clips.json",
            augmented=self.root / "augmented",
            flow=self.root / "flow",
            folds=self.root / "folds.parquet",
            model=self.root / model,
            checkpoints=self.root / "checkpoints" / "0",
            runs=self.root / "runs",
        )
        return self.root / model


@pytest.fixture
def corpus(tmp_path: Path, store: MlflowClient) -> Corpus:
    del store
    return Corpus(tmp_path)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ClipClassifier:
    return fitted(tmp_path_factory.mktemp("scratch"))


def test_a_fold_is_fitted_and_learns(corpus: Corpus, store: MlflowClient) -> None:
    model = corpus.train()
    predictions = PREDICTIONS.read(model / "predictions.parquet")
    tested = predictions.filter(part="test")
    labels = (tested["label"] == "fake").to_numpy().astype(int)
    assert roc_auc(tested["logit"].to_numpy(), labels) > 0.9
    assert predictions["num_clips"].to_list() == [2] * predictions.height
    assert sorted(path.name for path in model.iterdir()) == [
        *("history.csv", "network.json", "predictions.parquet", "weights.safetensors"),
    ]
    history = read_history(model / "history.csv", "")
    assert history["epoch"].to_list() == list(range(100))
    assert history["train/loss"][-1] < history["train/loss"][0]
    [run] = store.search_runs([experiment_id(store)], "tags.`fvc.kind` = 'fold'")
    assert run.data.tags["fvc.network"] == "forensic"
    assert run.data.metrics.keys() >= {"train/loss", "validation/roc_auc", "test/roc_auc"}
    assert len(store.get_metric_history(run.info.run_id, "validation/loss")) == 100
    kept = {each.path for each in store.list_artifacts(run.info.run_id)}
    assert {"importance.csv", "weights.safetensors", "train.log"} <= kept
    log = (corpus.root / "checkpoints" / "0" / "train.log").read_text()
    assert "epoch 100/100" in log
    best = history["validation/loss"].arg_min()
    assert run.data.tags["fvc.best_epoch"] == str((best or 0) + 1)
    assert run.data.metrics["best/validation_loss"] == pytest.approx(
        history["validation/loss"].min()
    )


def test_a_second_fit_gives_the_same_bytes(corpus: Corpus) -> None:
    first = {path.name: path.read_bytes() for path in corpus.train("first").iterdir()}
    second = {path.name: path.read_bytes() for path in corpus.train("second").iterdir()}
    assert first == second


def test_what_is_loaded_scores_as_what_was_saved(network: ClipClassifier, tmp_path: Path) -> None:
    save_network(network, tmp_path, MODEL, CLIPS)
    loaded = load_network(tmp_path)
    clips = torch.stack([clip for clip, _ in examples(200, 12)])
    assert torch.equal(clip_logits(loaded, clips), clip_logits(network, clips))
    save_network(loaded, tmp_path / "again", MODEL, CLIPS)
    names = ("weights.safetensors", "network.json")
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_clip_scores_alike_alone_and_among_others(network: ClipClassifier) -> None:
    clips = torch.stack([clip for clip, _ in examples(300, 11)])
    alone = torch.cat([clip_logits(network, clip[None]) for clip in clips])
    assert torch.equal(clip_logits(network, clips), alone)
    assert video_logits(network, [clips])[0] == video_logit(alone)


def test_padding_is_no_part_of_a_clip(network: ClipClassifier) -> None:
    native = clips_config(1, 4, 32, fit="native")
    network = ClipClassifier(
        network.features,
        channels=1,
        dropout=0.0,
        clips=native,
        mean=(0.0,) * 3,
        std=(1 / 255,) * 3,
        classifier=network.classifier,
    ).eval()
    clip = torch.from_numpy(scene(1, high=20))[None]
    padded = torch.from_numpy(noisy(scene(1)))[None].clone()
    padded[..., :20, :] = clip
    mask = torch.zeros(1, 32, 32, dtype=torch.bool)
    mask[:, :20] = True
    alone = network(network.normalise(clip))
    assert torch.equal(network(network.normalise(padded, mask), mask), alone)
    assert not torch.equal(network(network.normalise(padded)), alone)


def test_black_and_thin_clips_have_a_finite_logit(network: ClipClassifier) -> None:
    black = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    thin = black.clone()
    thin[..., :9, :] = 90
    assert clip_logits(network, torch.cat([black, thin])).isfinite().all()


CONFIGS = [
    train_config(imbalance="none"),
    train_config(),
    train_config(imbalance="class_weights", label_smoothing=0.1),
    train_config(loss="class_balanced", imbalance="none"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_that_is_fitted_is_the_one_that_is_named(
    config: TrainConfig, tmp_path: Path
) -> None:
    """The first baseline is the constant with the least loss: weights and targets decide it."""
    network = build_network(MODEL, CLIPS)
    clips = [example for example in examples(0, 40) if example[1] or example[0].sum() % 2]
    videos, labels = zip(*examples(60, 4), strict=True)
    measured = measure(network, clips, [clip[None] for clip in videos], labels, lambda: False)
    boost(network, measured, config, seed=0, scratch=tmp_path)
    counts = np.bincount(measured.labels)
    weighed = replace(config, imbalance="class_weights") if config.imbalance != "none" else config
    loss = make_loss(weighed, (int(counts[0]), int(counts[1])))
    targets = measured.labels * (1 - config.label_smoothing) + config.label_smoothing / 2

    def mean_loss(constant: float) -> float:
        return float(loss.by_hand(np.full(len(targets), constant), targets).mean())

    baseline = network.classifier.baseline.item()
    assert counts[0] != counts[1]
    assert all(mean_loss(baseline) < mean_loss(baseline + step) for step in (-0.01, 0.01))


def test_the_importance_names_what_tells(tmp_path: Path) -> None:
    fitted(tmp_path)
    table = pl.read_csv(tmp_path / "importance.csv")
    assert table["gain"].is_sorted(descending=True)
    assert table["gain"][0] > 0


def test_clips_of_one_frame_are_fitted_too(tmp_path: Path) -> None:
    clips = clips_config(1, 1, 32)
    network = build_network(MODEL, clips)
    made = [(clip[:1], label) for clip, label in examples(0, 20)]
    measured = measure(network, made, [made[0][0][None]], [0], lambda: False)
    result = boost(network, measured, train_config(), seed=0, scratch=tmp_path)
    assert result.history[-1]["train/roc_auc"] == 1


@pytest.mark.parametrize("changes", [{"loss": "focal"}, {"mixup_alpha": 0.4}])
def test_what_trees_cannot_do_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FvcError, match="trees are fitted"):
        rounds_as_epochs(train_config(**changes))


@pytest.mark.parametrize("setting", ["model.head=inception", "model.pretrained=published"])
def test_what_it_has_not_is_refused_when_parameters_are_read(setting: str, tmp_path: Path) -> None:
    with pytest.raises(FvcError, match="fitted without gradients"):
        compose(tmp_path / "params.yaml", "model=forensic", setting)


def test_what_it_takes_is_timed_on_a_clip_with_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one that is black all over there is nothing to measure, and it takes no time."""
    timed = []

    def watched(network: ClipClassifier, pixels: torch.Tensor) -> torch.Tensor:
        timed.append(network.features(network.normalise(pixels)))
        return clip_logits(network, pixels)

    monkeypatch.setattr(costs, "clip_logits", watched)
    costs.cost_of(MODEL, CLIPS, torch.device("cpu"))
    assert timed
    assert all(features.isfinite().any() for features in timed)


def test_what_the_forensic_classifier_has_not_is_refused() -> None:
    with pytest.raises(FvcError, match=r"Set model\.head to linear"):
        build_network(replace(MODEL, head="inception"), CLIPS)
    with pytest.raises(FvcError, match=r"Set model\.pretrained to none"):
        build_network(replace(MODEL, pretrained="published"), CLIPS)


def test_several_processes_are_refused(corpus: Corpus) -> None:
    alone = World.single(torch.device("cpu"))
    with pytest.raises(FvcError, match="fitted by one process, not by 2"):
        train.train_fold(
            corpus.params,
            train.read_parts(corpus.params, 0, corpus.root / "folds.parquet")[1],
            fold=0,
            clips=corpus.root / "clips",
            augmented=corpus.root / "augmented",
            flow=None,
            checkpoints=corpus.root,
            binding="",
            ranks=replace(alone, size=2),
        )


@pytest.mark.parametrize("quarter", range(4))
def test_the_map_marks_the_part_with_the_trace(network: ClipClassifier, quarter: int) -> None:
    shares = []
    for seed in range(500, 503):
        clip = torch.from_numpy(noisy_quarter(scene(seed), quarter))
        found = occlusion(network, clip, "fake")["occlusion"]
        assert found.values.shape == (4, 32, 32)
        assert found.cells == CELLS
        own = found.values.reshape(4, 2, 16, 2, 16)[:, quarter // 2, :, quarter % 2]
        shares.append(own.sum() / found.values.sum())
    assert np.mean(shares) > 0.5, "the quarter with the noise is not what is marked"


def test_maps_depend_on_what_was_learned(network: ClipClassifier) -> None:
    assert explainer_of(network) is occlusion
    clips = [torch.from_numpy(noisy_quarter(scene(600 + each), each)) for each in (0, 3)]
    explained = [
        Explained(clip=clip, side="fake", maps=occlusion(network, clip, "fake")) for clip in clips
    ]
    found = randomisation_check(network, explained, range(3), explainer_of(network))
    assert found["occlusion"] is not None
    assert found["occlusion"] < MOST_ALIKE
    assert torch.equal(randomised(network, 0).classifier.left, network.classifier.left)


def test_bars_stay_black_while_parts_are_smoothed(network: ClipClassifier) -> None:
    clip = torch.from_numpy(noisy_quarter(scene(700, high=24), 0))
    barred = torch.nn.functional.pad(clip, (0, 0, 4, 4))
    bars = []

    class Watching(torch.nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            bars.append(given[..., [0, 1, 2, 3, -4, -3, -2, -1], :])
            measured: torch.Tensor = network.features(given)
            return measured

    watched = copy.copy(network)
    watched._modules = {**network._modules, "features": Watching()}
    found = occlusion(watched, barred, "fake")["occlusion"]
    assert not found.is_blank
    assert found.within == (slice(4, 28), slice(0, 32))
    assert not found.values[:, [0, 3, -4, -1]].any(), "what is not measured has no part in a map"
    assert not torch.cat(bars).any(), "a bar was taken for a part of the picture"
    assert occlusion(network, torch.zeros_like(barred), "real")["occlusion"].is_blank


def test_the_registered_classifier_answers_as_in_process(
    tmp_path: Path, store: MlflowClient, network: ClipClassifier
) -> None:
    del store
    corpus = Registered(tmp_path)
    corpus.params = replace(corpus.params, model=MODEL)
    for fold in (0, 1):
        folder = tmp_path / "models" / str(fold)
        save_network(network, folder, MODEL, corpus.params.clips)
        rows: list[dict[str, object]] = [
            {"video_id": f"facebook_{number}", "fold": fold, "part": "validation", "num_clips": 1}
            | {
                "label": ("real", "fake")[number % 2],
                "probability_fake": 0.5,
                "logit": float(number % 2),
            }
            for number in range(4)
        ]
        PREDICTIONS.write(folder / "predictions.parquet", PREDICTIONS.frame(rows))
    corpus.add_evidence()
    corpus.register()
    frames = noisy(scene(0, frames=12, high=48, wide=64)).transpose(0, 2, 3, 1)
    encode(tmp_path / "video.mp4", frames, fps=12)
    content = (tmp_path / "video.mp4").read_bytes()
    settings = Settings(
        clips=corpus.params.clips, calibration=CALIBRATION, limits=corpus.params.serving
    )
    answerer = Answerer(load_network(tmp_path / "models" / "0"), settings, None, decoders=1)
    try:
        expected = answerer.answers([content], Wishes(explain=True))[0]
    finally:
        answerer.close()
    model = load_model("models:/fvc@champion")
    table = pd.DataFrame({"video": [content]})
    answers = cast(list[dict[str, Any]], model.predict(table, params={"explain": True}))
    assert answers[0]["error"] is None
    for name in ("probability_fake", "clips", "overlay_png"):
        assert answers[0][name] == expected[name]
