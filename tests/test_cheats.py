"""Models that cheat, and folds that leak: each is caught, and none replaces a champion.

The clips are stored as stage clips stores them, and what a network would say of them is said by
classifiers that see what a cheat would see. Evaluation, gate and registry are what the pipeline
runs; what lies in the registry are other networks, sound ones, so that only the evidence refuses.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import registering
from evaluating import Corpus, described, quick_params
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from sklearn.linear_model import LogisticRegression

from fvc import networks
from fvc.clip_files import load_clips, save_clips
from fvc.errors import FvcError
from fvc.evidence.fold_outputs import HISTORY_COLUMNS
from fvc.evidence.probes import PROBES
from fvc.evidence.summary import headline_of, tracked_metrics
from fvc.files import read_json, write_json
from fvc.fold_videos import LABELS
from fvc.networks import WEIGHTS
from fvc.records import FOLDS, INDEX, PREDICTIONS, REJECTED, part_in
from fvc.report import Section, assembly
from fvc.report.verdict import note_of
from fvc.stages import evaluate, split
from fvc.tracking import registry

NUM_GROUPS = 60
COPIES = 3
SIDE_PX = 32
FOLDS_OF = 3

Features = Callable[[np.ndarray], np.ndarray]
"""What a model sees of (T, C, H, W) pixels."""


def black_rows(clip: np.ndarray) -> np.ndarray:
    """The height of the upper bar: all that this model sees."""
    dark = (clip <= 16).all(axis=(0, 1, 3))
    return np.array([np.cumprod(dark).sum()])


def mean_motion(clip: np.ndarray) -> np.ndarray:
    """How much changes from frame to frame, in each quarter of the picture."""
    change = np.abs(np.diff(clip.astype(np.int64), axis=0)).mean(axis=(0, 1))
    half = SIDE_PX // 2
    quarters = change.reshape(2, half, 2, half).mean(axis=(1, 3))
    return quarters.ravel()


def footage(
    generator: np.random.Generator, *, scene: np.ndarray, moves: bool, bar: int
) -> np.ndarray:
    """One clip of six frames between black bars; what `moves` flickers twice as much."""
    noise = generator.normal(0, 14 if moves else 7, (6, 3, SIDE_PX, SIDE_PX))
    pixels = np.clip(scene + noise, 30, 255)
    if bar:
        pixels[:, :, :bar] = pixels[:, :, -bar:] = generator.integers(0, 8)
    return pixels.astype(np.uint8)


@dataclass(frozen=True)
class Cheat:
    """A corpus of stored clips, and what trains on it and weighs it."""

    corpus: Corpus

    @property
    def root(self) -> Path:
        return self.corpus.root

    @property
    def folds(self) -> pl.DataFrame:
        return FOLDS.read(self.root / "folds.parquet")

    def learn(self, features: Features, *, shuffled: bool = False) -> None:
        """Fit a classifier on each fold's training clips, and leave what a training leaves."""
        folds = self.folds
        seen = np.stack(
            [
                features(load_clips(self.root / "clips" / f"{name}.pt", "clips")[0].numpy())
                for name in folds["video_id"]
            ]
        ).astype(float)
        seen = (seen - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-9)
        labels = np.array([LABELS[label] for label in folds["label"]])
        for fold in range(FOLDS_OF):
            parts = folds.select(part=part_in(fold))["part"].to_numpy()
            train = parts == "train"
            taught = labels[train]
            if shuffled:
                taught = np.random.default_rng(fold).permutation(taught)
            model = LogisticRegression().fit(seen[train], taught)
            logits = model.decision_function(seen)
            rows = folds.select(
                "video_id",
                pl.lit(fold, pl.Int64).alias("fold"),
                pl.Series("part", parts),
                "label",
                pl.Series("probability_fake", 1 / (1 + np.exp(-logits))),
                pl.Series("logit", logits),
                pl.lit(1, pl.Int64).alias("num_clips"),
            )
            folder = self.root / "models" / str(fold)
            PREDICTIONS.write(folder / "predictions.parquet", rows)
            (folder / WEIGHTS).touch()
            history = {name: [0.7] for name in HISTORY_COLUMNS}
            pl.DataFrame({**history, "epoch": [1]}).write_csv(folder / "history.csv")

    def weigh(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.corpus.run() / "metrics.json", "evaluate")
        return found


@dataclass
class Gate:
    """A store in which networks of one layer are registered, all of which pass the locked test."""

    corpus: registering.Corpus
    client: MlflowClient
    candidates: int = 0

    def knock(self, evidence: Path | None = None) -> dict[str, Any]:
        """Register one more network, with what evaluate wrote into a folder, or sound evidence."""
        self.candidates += 1
        for fold in (0, 1):
            brightness = 0.001 * self.candidates
            self.corpus.add_network(fold, brightness=brightness, ranks_validation=fold == 1)
        self.corpus.add_evidence()
        if evidence:
            for name in ("metrics.json", "slices.json", "risk_coverage_by_fold.csv"):
                shutil.copy(evidence / name, self.corpus.root / "evaluation")
        return self.corpus.register()

    @property
    def champion(self) -> str | None:
        """The number of the version in service."""
        version = registry.version_of(self.client, "champion")
        return None if version is None else registry.number_of(version)


@pytest.fixture
def gate(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(networks, "build_features", registering.one_layer)
    return Gate(registering.Corpus(tmp_path / "registered"), store)


def make(root: Path, *, bars_tell: bool = False, motion_tells: bool = False) -> Cheat:
    """Sixty cascades of three videos that share a scene and a label; stage split divides them."""
    generator = np.random.default_rng(0)
    rows, params = [], quick_params(FOLDS_OF)
    for number in range(NUM_GROUPS):
        fake = number % 2 == 1
        scene = generator.uniform(60, 200, (3, 1, 1)) + generator.normal(
            0, 20, (3, SIDE_PX, SIDE_PX)
        )
        for copy in range(COPIES):
            video_id = f"youtube_{number:03}{copy}"
            likely = (0.9 if fake else 0.1) if bars_tell else 0.5
            bar = 4 if generator.random() < likely else 0
            pixels = footage(generator, scene=scene, moves=fake and motion_tells, bar=bar)
            save_clips(root / "clips" / f"{video_id}.pt", pixels[None], "key")
            label = "fake" if fake else "real"
            rows.append(described({"video_id": video_id, "group": f"g{number}", "label": label}))
    index = INDEX.frame(rows).with_columns(
        # The header tells nothing here, not even which cascade it is.
        width=pl.lit(320, pl.Int64),
        size_bytes=pl.Series(generator.integers(10_000, 20_000, len(rows))),
        duration_s=pl.Series(generator.uniform(4, 9, len(rows))),
        platform=pl.Series(generator.choice(["youtube", "twitter"], len(rows))),
    )
    INDEX.write(root / "index.parquet", index)
    REJECTED.write(root / "rejected.csv", REJECTED.frame([]))
    write_json(root / "index.json", {"availability": {}})
    cheat = Cheat(Corpus(root=root, params=params))
    split.run(
        params,
        index=root / "index.parquet",
        probes=root / "probes",
        folds=root / "folds.parquet",
        summary=root / "split.json",
    )
    return cheat


@pytest.fixture(autouse=True)
def _numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = {name: Figure((1, 1)) for name in assembly.CAPTIONS}
    monkeypatch.setattr(evaluate, "figures_of", lambda *_: blank)
    # A logistic regression has no maps.
    monkeypatch.setattr(evaluate, "explain", lambda *_, **__: Section(title="Examples"))


def scores(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: probe["roc_auc"]["value"] for name, probe in metrics["probes"].items()}


def test_an_honest_model_passes(tmp_path: Path, gate: Gate) -> None:
    honest = make(tmp_path, motion_tells=True)
    honest.learn(mean_motion)
    metrics = honest.weigh()
    assert metrics["leaks"] == 0
    assert metrics["video"]["roc_auc"]["low"] > 0.8
    assert max(scores(metrics).values()) < 0.75
    gate.knock()
    won = gate.knock(tmp_path / "evaluation")
    assert (won["promotion"], won["beats_probes"]) == ("won", True)
    assert metrics["beats_probes"] is True, "report and gate do not agree"
    assert gate.champion == "2"


def moved(folds: pl.DataFrame, chosen: pl.Expr) -> pl.DataFrame:
    """The chosen videos are tested by the next fold."""
    nothing = pl.lit([], pl.List(pl.Int64))
    return folds.with_columns(
        fold=pl.when(chosen).then((pl.col("fold") + 1) % FOLDS_OF).otherwise("fold"),
        validates=pl.when(chosen).then(nothing).otherwise(pl.col("validates")),
    )


def leaky(folds: pl.DataFrame) -> pl.DataFrame:
    """The last copy of each cascade outside the locked test is tested by another fold."""
    last = pl.col("video_id").str.ends_with(str(COPIES - 1))
    return moved(folds, (pl.col("part") == "fold") & last)


def test_folds_that_leak_are_caught_by_the_audit_and_by_the_cascade_lookup(
    tmp_path: Path,
    gate: Gate,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheat = make(tmp_path)
    divided, audited = cheat.folds, read_json(tmp_path / "split.json", "split")["audit"]
    FOLDS.write(tmp_path / "folds.parquet", leaky(divided))
    cheat.learn(lambda clip: clip[0].mean(axis=0).ravel())
    metrics = cheat.weigh()
    assert audited["leaks"] == 0, "split wrote clean folds; these were changed afterwards"
    assert metrics["leaks"] >= 40, "each divided cascade has to be counted"
    assert " share group g" in capsys.readouterr().err
    assert scores(metrics)["cascade"] > 0.9
    assert metrics["best_probe"] == "cascade"
    assert metrics["beats_probes"] is False
    leaks = f"The audit found {metrics['leaks']} leaks."
    refused = gate.knock(tmp_path / "evaluation")
    assert (refused["promotion"], refused["reasons"][0]) == ("refused", leaks)
    assert gate.champion is None, "none in service is better than one that cheats"
    gate.knock()
    refused = gate.knock(tmp_path / "evaluation")
    assert (refused["promotion"], refused["reasons"][0]) == ("refused", leaks)
    assert gate.champion == "2"
    assert f"Yes; the audit found {metrics['leaks']} leaks" in page_of(tmp_path)
    # And such folds never come out of stage split.
    monkeypatch.setattr(split, "divide", lambda *_: leaky(divided))
    with pytest.raises(FvcError, match="the split leaks"):
        split.run(
            cheat.corpus.params,
            index=tmp_path / "index.parquet",
            probes=tmp_path / "probes",
            folds=tmp_path / "again.parquet",
            summary=tmp_path / "again.json",
        )
    assert not (tmp_path / "again.parquet").exists()


def page_of(root: Path) -> str:
    return (root / "evaluation" / "report.html").read_text(encoding="utf-8")


def test_one_divided_cascade_is_enough(tmp_path: Path, gate: Gate) -> None:
    honest = make(tmp_path, motion_tells=True)
    one = honest.folds.filter(part="fold")["video_id"][0]
    FOLDS.write(tmp_path / "folds.parquet", moved(honest.folds, pl.col("video_id") == one))
    honest.learn(mean_motion)
    metrics = honest.weigh()
    assert metrics["leaks"] > 0
    assert metrics["beats_probes"] is True, "only the audit can see this one"
    assert note_of(metrics).startswith("**These numbers prove nothing")
    assert headline_of(metrics)["leaks"] == tracked_metrics(metrics)["audit/leaks"] > 0
    assert gate.knock(tmp_path / "evaluation")["promotion"] == "refused"
    assert gate.champion is None


def test_a_model_of_shuffled_labels_is_at_chance_and_refused(tmp_path: Path, gate: Gate) -> None:
    cheat = make(tmp_path, motion_tells=True)
    cheat.learn(lambda clip: clip[0].mean(axis=0).ravel(), shuffled=True)
    metrics = cheat.weigh()
    found = metrics["video"]["roc_auc"]
    assert found["low"] < 0.5 < found["high"]
    assert metrics["leaks"] == 0
    assert metrics["beats_probes"] is False
    first = gate.knock(tmp_path / "evaluation")
    assert (first["promotion"], first["beats_probes"]) == ("unopposed", False)
    expect_warnings(gate, tmp_path)
    assert gate.knock()["promotion"] == "won"
    refused = gate.knock(tmp_path / "evaluation")
    assert (refused["promotion"], refused["beats_probes"]) == ("refused", False)
    assert "does not beat the probes" in refused["reasons"][1]
    assert gate.champion == "2"


def test_a_model_that_reads_black_bars_is_reached_by_their_probe(
    tmp_path: Path, gate: Gate
) -> None:
    cheat = make(tmp_path, bars_tell=True)
    cheat.learn(black_rows)
    metrics = cheat.weigh()
    found, probes = metrics["video"]["roc_auc"], scores(metrics)
    assert found["low"] > 0.75, "without the probe, this would pass for a good model"
    assert probes["bars"] == pytest.approx(found["value"], abs=0.03)
    others = {name: value for name, value in probes.items() if name not in ("bars", "frame")}
    assert found["low"] > max(others.values()), "what sees no pixels does not catch it"
    assert metrics["best_probe"] in ("bars", "frame")
    assert metrics["beats_probes"] is False
    first = gate.knock(tmp_path / "evaluation")
    assert (first["promotion"], first["beats_probes"]) == ("unopposed", False)
    expect_warnings(gate, tmp_path)
    gate.knock()
    refused = gate.knock(tmp_path / "evaluation")
    assert (refused["promotion"], refused["beats_probes"]) == ("refused", False)
    assert f"'{PROBES[metrics['best_probe']]}'" in refused["reasons"][1]
    assert gate.champion == "2"


def expect_warnings(gate: Gate, root: Path) -> None:
    """The champion is one because none was in service: tags, card and report open with that."""
    champion = gate.client.get_model_version_by_alias("fvc", "champion")
    tags = (champion.tags["fvc.promotion"], champion.tags["fvc.beats_probes"])
    assert tags == ("unopposed", "false")
    opening = (champion.description or "").split("##")[0]
    assert "became champion because none was in service. It does **not** beat" in opening
    opening = page_of(root).split("<section")[0]
    assert "not shown to beat" in opening
    assert "where none is in service it may be the first" in opening
