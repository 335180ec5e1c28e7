import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from mlflow.entities.model_registry import ModelVersion
from mlflow.tracking import MlflowClient
from source_tree import ROOT
from torch import nn

from fvc import networks, serving, tracking
from fvc.clip_files import save_clips
from fvc.config import Params, load_params
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence.calibration import Calibration
from fvc.files import read_json, sha256_of_file, write_json
from fvc.networks import build_network, save_network
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, PREDICTIONS
from fvc.stages import register

CALIBRATION = Calibration(
    temperature=1.0,
    threshold=0.5,
    abstain_low=0.4,
    abstain_high=0.6,
    criterion="macro_f1",
    target_error_rate=0.1,
    num_real=4,
    num_fake=4,
)


class Corpus:
    """Two trained folds and their evidence; sixteen locked videos, of which fakes are brighter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = load_params(ROOT / "params.yaml")
        self.params: Params = replace(
            params,
            clips=replace(params.clips, num_frames=4, side_px=16),
            split=replace(params.split, folds=(0, 1)),
            evaluate=replace(params.evaluate, bootstrap_samples=100),
        )
        rows: list[dict[str, object]] = []
        generator = np.random.default_rng(0)
        for number in range(16):
            video_id, fake = f"youtube_{number:02}", number % 2
            pixels = generator.integers(0, 100, (1, 4, 3, 16, 16)) + 120 * fake
            save_clips(root / "clips" / f"{video_id}.pt", pixels.astype(np.uint8), "key")
            row = {"video_id": video_id, "group": f"g{number}", "part": "locked"}
            rows.append({**row, "label": ("real", "fake")[fake], "fold": None, "validates": []})
        FOLDS.write(root / "folds.parquet", FOLDS.frame(rows))
        write_json(root / "clips.json", {"data_sha256": "d" * 64})

    def add_network(self, fold: int, *, brightness: float, ranks_validation: bool) -> None:
        """A network whose logit is the brightness of the clip times a factor."""
        torch.manual_seed(fold)
        network = build_network(self.params.model, self.params.clips)
        for parameter in network.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(network.features.weight, brightness)  # type: ignore[arg-type]
        nn.init.ones_(network.classifier.weight)
        folder = self.root / "models" / str(fold)
        save_network(network, folder, self.params.model, self.params.clips)
        rows: list[dict[str, object]] = [
            {
                "video_id": f"facebook_{number}",
                "fold": fold,
                "part": "validation",
                "label": ("real", "fake")[number % 2],
                "probability_fake": 0.5,
                "logit": float(number % 2) if ranks_validation else 0.0,
                "num_clips": 1,
            }
            for number in range(4)
        ]
        PREDICTIONS.write(folder / "predictions.parquet", PREDICTIONS.frame(rows))

    def add_evidence(self, *, low: float = 0.8, probe: float = 0.7) -> None:
        scores = {"value": 0.9, "low": low, "high": 0.95}
        metrics = {"video": {"roc_auc": scores, "macro_f1": scores}, "leaks": 0}
        evaluation = self.root / "evaluation"
        probes = {"best_probe": "container", "best_probe_roc_auc": probe}
        write_json(evaluation / "metrics.json", metrics | probes)
        calibrations = {str(fold): CALIBRATION.as_dict() for fold in (0, 1)}
        write_json(evaluation / "calibration.json", calibrations)

    def register(self) -> dict[str, Any]:
        paths = {
            "models": self.root / "models",
            "evaluation": self.root / "evaluation",
            "clips": self.root / "clips",
            "clips_summary": self.root / "clips.json",
            "folds": self.root / "folds.parquet",
            "summary": self.root / "registered.json",
        }
        self.track()
        register.run(self.params, **paths)
        decided: dict[str, Any] = read_json(paths["summary"], "register")
        return decided

    def track(self) -> None:
        """What evaluate does: runs for the folds, below one for the cross-validation."""
        identity = tracking.Identity(
            params=self.params,
            data_sha256="d" * 64,
            folds_sha256=folds_sha256(FOLDS.read(self.root / "folds.parquet")),
        )
        outputs = [
            tracking.FoldOutputs(
                fold=fold,
                weights_sha256=sha256_of_file(folder / "weights.safetensors"),
                history=[],
                results={"test/roc_auc": 0.5},
                files=[],
            )
            for fold in (0, 1)
            for folder in [self.root / "models" / str(fold)]
        ]
        tracking.complete_cross_validation(identity, outputs, {}, self.root / "evaluation", "")


@pytest.fixture
def corpus(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    del store
    monkeypatch.setitem(networks.FEATURES, "r3d_18", lambda _: nn.Conv3d(3, 512, 3))
    corpus = Corpus(tmp_path)
    corpus.add_network(0, brightness=0.001, ranks_validation=False)
    corpus.add_network(1, brightness=0.001, ranks_validation=True)
    corpus.add_evidence()
    return corpus


def aliased(client: MlflowClient, alias: str) -> ModelVersion:
    return client.get_model_version_by_alias("fvc", alias)


def test_the_best_fold_by_validation_becomes_the_first_champion(
    corpus: Corpus, store: MlflowClient
) -> None:
    decided = corpus.register()
    assert decided["fold"] == 1
    assert decided["promotion"] == "unopposed"
    assert decided["locked"]["roc_auc"]["value"] == 1
    assert "version" not in json.dumps(decided), "a version number differs from run to run"
    champion = aliased(store, "champion")
    assert champion.version == aliased(store, "challenger").version
    assert champion.tags["fvc.evidence.promotion"] == "unopposed"
    assert champion.tags["fvc.beats_probes"] == "true"
    assert "became champion because none was in service" in (champion.description or "")

    def again() -> tuple[bytes, int]:
        corpus.register()
        versions = store.search_model_versions("name = 'fvc'")
        return (corpus.root / "registered.json").read_bytes(), len(versions)

    before = (corpus.root / "registered.json").read_bytes()
    assert again() == (before, 1), "the same candidate was registered twice or decided otherwise"


def test_a_registered_model_answers(corpus: Corpus, store: MlflowClient) -> None:
    corpus.register()
    assert aliased(store, "champion").run_id
    model = serving.load_model("models:/fvc@champion")
    bright = BytesIO()
    encode(bright, np.full((12, 16, 16, 3), 230, np.uint8), fps=12)
    answer = serving.ask(model, bright.getvalue())
    assert answer["error"] is None
    assert answer["probability_fake"] > 0.5
    assert [clip["end_s"] for clip in answer["clips"]] == [1.0]
    run = store.get_run(str(aliased(store, "champion").run_id))
    logged = store.search_logged_models([run.info.experiment_id])
    assert [entry.source_run_id for entry in logged] == [run.info.run_id], "it lies elsewhere"


def test_a_worse_candidate_challenges_and_is_refused(corpus: Corpus, store: MlflowClient) -> None:
    corpus.register()
    first = aliased(store, "champion").version
    corpus.add_network(1, brightness=-0.001, ranks_validation=True)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "is worse than" in " ".join(decided["reasons"])
    assert decided["locked"]["roc_auc"]["value"] == 0
    assert aliased(store, "champion").version == first
    assert aliased(store, "challenger").version != first


def test_a_candidate_that_does_not_beat_the_probes_is_refused(
    corpus: Corpus, store: MlflowClient
) -> None:
    corpus.register()
    first = aliased(store, "champion").version
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    corpus.add_evidence(low=0.6)
    decided = corpus.register()
    assert (decided["promotion"], decided["beats_probes"]) == ("refused", False)
    assert aliased(store, "champion").version == first
    corpus.add_evidence()
    assert corpus.register()["promotion"] == "won"
    assert aliased(store, "champion").version != first


def test_a_corrected_label_is_another_locked_test(corpus: Corpus, store: MlflowClient) -> None:
    corpus.register()
    table = FOLDS.read(corpus.root / "folds.parquet")
    corrected = pl.when(pl.col("video_id") == "youtube_00").then(pl.lit("fake"))
    FOLDS.write(
        corpus.root / "folds.parquet",
        table.with_columns(label=corrected.otherwise(pl.col("label"))),
    )
    decided = corpus.register()
    assert decided["promotion"] == "won", "the opponent is scored anew, on the same videos"
    assert len(store.search_model_versions("name = 'fvc'")) == 2


def test_a_champion_whose_scores_were_stored_with_other_columns_is_scored_anew(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log_older(candidate: register.Candidate, locked: pl.DataFrame, *rest: Any) -> str:
        return log(candidate, locked.drop("clips_key"), *rest)

    log = register.log_candidate
    with monkeypatch.context() as patch:
        patch.setattr(register, "log_candidate", log_older)
        corpus.register()
    corpus.add_network(1, brightness=-0.001, ranks_validation=True)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "is worse than" in " ".join(decided["reasons"])


def test_a_champion_of_an_older_version_of_the_code_blocks_nothing(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_older(settings: serving.Settings, folder: Path) -> None:
        write(settings, folder)
        for name in ("serving.json", "network.json"):
            content = read_json(folder / name, "register")
            # Before clips had windows, and other ways to sample and to fit.
            content["clips"] = {"num_clips": 1, "num_frames": 4, "side_px": 16, "timeout_s": 60.0}
            write_json(folder / name, content)

    write = serving.Settings.write
    with monkeypatch.context() as patch:
        patch.setattr(serving.Settings, "write", write_older)
        corpus.register()
    first = aliased(store, "champion").version
    video = corpus.root / "clips" / "youtube_00.pt"
    save_clips(video, np.zeros((1, 4, 3, 16, 16), np.uint8), "key of another version")
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "cannot see these clips" in " ".join(decided["reasons"])
    assert aliased(store, "champion").version == first


@pytest.mark.parametrize("killed_in", ["champion_of", "describe", "move_aliases"])
def test_killed_after_registering_it_goes_on_with_the_same_version(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(register, killed_in, killed)
        with pytest.raises(RuntimeError, match="killed"):
            corpus.register()
    assert not (corpus.root / "registered.json").exists()
    corpus.register()
    assert len(store.search_model_versions("name = 'fvc'")) == 1
    assert str(aliased(store, "champion").version) == "1"


def test_a_candidate_without_a_run_is_refused(corpus: Corpus) -> None:
    corpus.register()
    corpus.add_network(1, brightness=0.003, ranks_validation=True)
    with pytest.raises(FvcError, match="its run is not in the MLflow store"):
        register.run(
            corpus.params,
            models=corpus.root / "models",
            evaluation=corpus.root / "evaluation",
            clips=corpus.root / "clips",
            clips_summary=corpus.root / "clips.json",
            folds=corpus.root / "folds.parquet",
            summary=corpus.root / "registered.json",
        )


def test_locked_scores_are_of_the_locked_videos_alone(corpus: Corpus) -> None:
    network = networks.load_network(corpus.root / "models" / "1")
    table = FOLDS.read(corpus.root / "folds.parquet")
    videos = register.locked_videos(table, corpus.root / "clips")
    locked = register.score_locked(network, videos, corpus.root / "clips")
    assert locked["video_id"].to_list() == sorted(table["video_id"])
    logits = dict(zip(locked["video_id"], locked["logit"], strict=True))
    fakes = {video for video, label in table.select("video_id", "label").rows() if label == "fake"}
    assert min(logits[video] for video in fakes) > max(
        logit for video, logit in logits.items() if video not in fakes
    )
