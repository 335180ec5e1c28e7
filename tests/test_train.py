import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from source_tree import ROOT
from torch import Tensor, nn

from fvc import networks
from fvc.clip_files import save_clips
from fvc.config import Params, load_params
from fvc.errors import FvcError, Stopped
from fvc.files import write_json
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, PREDICTIONS
from fvc.stages import train
from fvc.tracking.store import experiment_id
from fvc.tracking.waiting import WaitingRun

CHOSEN = {
    *("train/learning_rate", "train/batch_size", "train/micro_batch_size", "train/accumulation"),
}
MEASURED = {"train/clips_per_s", "train/data_wait_share", "train/memory_mib"}
SERIES = CHOSEN | {
    *("train/loss", "train/loss_by_hand", "train/accuracy", "train/roc_auc", "train/called_fake"),
    *("train/grad_norm", "train/update_ratio", "train/logit_min", "train/logit_max"),
    *("train/logit_mean", "train/logit_std", "train/logit_unique"),
    *("validation/loss", "validation/roc_auc", "validation/macro_f1"),
    *("validation/called_fake", "validation/logit_std"),
}


class Breaking(nn.Conv3d):
    """Its third batch, which is in the second epoch, is no number any more."""

    def forward(self, pixels: Tensor) -> Tensor:
        self.batches = getattr(self, "batches", 0) + self.training
        return super().forward(pixels) * (torch.nan if self.batches > 2 else 1.0)


class Collapsed(nn.Conv3d):
    """Features of nothing, so that all logits are the classifier's offset."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) * 0.0


class Corpus:
    """Sixteen tiny videos in two folds, already clips; fakes are brighter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        params = load_params(ROOT / "params.yaml")
        self.params: Params = replace(
            params,
            clips=replace(params.clips, num_frames=4, side_px=16),
            split=replace(params.split, folds=(0, 1)),
            train=replace(params.train, epochs=2),
        )
        self.write_clips()
        rows: list[dict[str, object]] = []
        for number in range(16):
            label = "fake" if number % 2 else "real"
            video_id = f"youtube_{number:02}"
            rows.append(
                {
                    "video_id": video_id,
                    "group": f"g{number}",
                    "label": label,
                    "part": "fold",
                    "fold": number // 2 % 2,
                    "validates": [1 - number // 2 % 2] if number < 8 else [],
                }
            )
        FOLDS.write(root / "folds.parquet", FOLDS.frame(rows))
        write_json(root / "clips.json", {"data_sha256": "d" * 64})

    def write_clips(self, sizes: Sequence[tuple[int, int]] = ((16, 16),), most: int = 1) -> None:
        """Give each video clips of one of these sizes, 1 to `most` of them."""
        generator = np.random.default_rng(0)
        for number in range(16):
            shape = (1 + number % most, 4, 3, *sizes[number % len(sizes)])
            pixels = generator.integers(0, 156, shape, np.uint8) + 90 * (number % 2)
            for folder in ("clips", "augmented"):
                target = self.root / folder / f"youtube_{number:02}.pt"
                save_clips(target, pixels.astype(np.uint8), "key")

    def train(self, fold: int, model: str = "models/0") -> Path:
        train.run(
            self.params,
            fold=fold,
            clips=self.root / "clips",
            clips_summary=self.root / "clips.json",
            augmented=self.root / "augmented",
            flow=self.root / "flow",
            folds=self.root / "folds.parquet",
            model=self.root / model,
            checkpoints=self.root / "checkpoints" / str(fold),
            runs=self.root / "runs",
        )
        return self.root / model


@pytest.fixture
def corpus(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """With a network so small that it is not the point."""
    del store
    monkeypatch.setattr(networks, "build_features", lambda *_: nn.Conv3d(3, 512, 3, padding=1))
    return Corpus(tmp_path)


def fold_runs(client: MlflowClient) -> list[Run]:
    experiment = experiment_id(client)
    return list(client.search_runs([experiment], "tags.`fvc.kind` = 'fold'"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_fold_leaves_its_outputs_and_one_run(corpus: Corpus, store: MlflowClient) -> None:
    model = corpus.train(0)
    names = {"history.csv", "network.json", "predictions.parquet", "weights.safetensors"}
    assert set(contents(model)) == names
    predictions = PREDICTIONS.read(model / "predictions.parquet")
    assert predictions.group_by("part").len().sort("part").rows() == [
        ("test", 8),
        ("train", 4),
        ("validation", 4),
    ]
    history = pl.read_csv(model / "history.csv")
    assert set(history.columns) > {"epoch"} | SERIES, "a series is lost"
    assert not set(history.columns) & MEASURED, "equal trainings would give other outputs"
    stages = [name for name in history.columns if name.startswith("train/stage_grad_norm/")]
    assert stages
    assert all(history[name].null_count() == 0 for name in {*SERIES, *stages})
    [run] = fold_runs(store)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "fold 0"
    results = {"test/roc_auc", "test/macro_f1", "test/accuracy"}
    assert run.data.metrics.keys() >= SERIES | MEASURED | results | set(stages)
    assert not [name for name in run.data.tags if name.startswith("fvc.warning")]
    for section in ("train", "model", "engine", "loader"):
        for name, value in asdict(getattr(corpus.params, section)).items():
            shown = json.dumps(value) if isinstance(value, tuple) else str(value)
            assert run.data.params[f"{section}.{name}"] == shown, "a setting is not with the run"
    assert run.data.tags.keys() >= {
        *("fvc.fold", "fvc.weights_sha256", "fvc.network", "fvc.params_sha256"),
        *("fvc.data_sha256", "fvc.folds_sha256", "fvc.dvc_lock", "fvc.precision"),
    }
    published = folds_sha256(FOLDS.read(corpus.root / "folds.parquet"))
    assert run.data.tags["fvc.folds_sha256"] == published, "the published hash finds no run"
    files = {file.path for file in store.list_artifacts(run.info.run_id)}
    assert files >= names | {
        *("checkpoint.pt", "confusion_matrix.png", "learning_curves.png", "metrics.jsonl"),
        "train.log",
    }


def test_trained_again_it_is_the_same_bytes_and_the_same_run(
    corpus: Corpus, store: MlflowClient
) -> None:
    first = contents(corpus.train(0))
    again = contents(corpus.train(0, "again"))
    assert again == first, "a resumed training gives other outputs"
    [run] = fold_runs(store)
    steps = [point.step for point in store.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [1, 2], "a step was logged twice"
    for checkpoint in (corpus.root / "checkpoints" / "0").iterdir():
        checkpoint.unlink()
    assert contents(corpus.train(0, "anew")) == first, "two trainings from scratch differ"


def log_of(client: MlflowClient, run: Run) -> str:
    return Path(client.download_artifacts(run.info.run_id, "train.log")).read_text("utf-8")


def test_the_log_goes_with_the_run_and_is_in_no_output(
    corpus: Corpus, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.train(0)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fold 0")]
    assert [line.split("  ")[1] for line in shown] == ["epoch 1/2", "epoch 2/2"]
    [run] = fold_runs(store)
    first = log_of(store, run)
    assert all(line in first for line in shown)
    corpus.train(0, "again")
    assert log_of(store, run).startswith(first), "a resumed training loses its log"
    assert first in (corpus.root / "checkpoints" / "0" / "train.log").read_text("utf-8")


def test_a_training_that_diverges_keeps_its_checkpoint_and_says_so(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "build_features", lambda *_: Breaking(3, 512, 3, padding=1))
    corpus.params = replace(corpus.params, train=replace(corpus.params.train, batch_size=4))
    with pytest.raises(FvcError, match="training diverged"):
        corpus.train(0)
    [run] = fold_runs(store)
    assert run.info.status == "FAILED"
    text = run.data.tags["fvc.warning.nan"]
    log = log_of(store, run)
    assert f"WARNING fvc.training.reporting: nan: {text}" in log
    assert "ERROR fvc.training.log: epoch" in log
    kept = [path.name for path in (corpus.root / "checkpoints" / "0").glob("epoch-*.pt")]
    assert kept, f"no good checkpoint is left: {text}"


def test_collapsed_logits_are_told_before_the_first_epoch_ends(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "build_features", lambda *_: Collapsed(3, 512, 3, padding=1))
    monkeypatch.setattr("fvc.training.epoch.CHECKED_STEPS", 1)
    corpus.params = replace(corpus.params, train=replace(corpus.params.train, batch_size=4))
    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_sigterm", lambda: nullcontext(lambda: True))
        with pytest.raises(Stopped, match="0 epochs and 1 steps"):
            corpus.train(0)
    [run] = fold_runs(store)
    text = run.data.tags["fvc.warning.collapsed_logits"]
    assert text.startswith("epoch 1, step 1: all training clips have the same logit. Lower")
    assert f"WARNING fvc.training.reporting: collapsed logits: {text}" in log_of(store, run)
    corpus.train(0)
    assert log_of(store, run).count("collapsed logits: ") == 1


def test_other_clips_are_trained_on_anew(corpus: Corpus, store: MlflowClient) -> None:
    first = contents(corpus.train(0))
    for number in range(16):
        source = corpus.root / "clips" / f"youtube_{number:02}.pt"
        pixels = np.full((1, 4, 3, 16, 16), 5 * number, np.uint8)
        save_clips(source, pixels, "of another decoder")
    again = contents(corpus.train(0, "again"))
    assert again["weights.safetensors"] != first["weights.safetensors"], (
        "a checkpoint of other clips was resumed"
    )
    assert len(fold_runs(store)) == 2


def test_the_loader_changes_neither_outputs_nor_run(corpus: Corpus, store: MlflowClient) -> None:
    first = contents(corpus.train(0))
    for checkpoint in (corpus.root / "checkpoints" / "0").iterdir():
        checkpoint.unlink()
    loader = replace(corpus.params.loader, cache="ram", prefetch_batches=0)
    corpus.params = replace(corpus.params, loader=loader)
    assert contents(corpus.train(0, "again")) == first
    assert len(fold_runs(store)) == 1, "another loader is taken for another training"


def test_on_the_fly_needs_no_stored_versions_and_can_be_stopped(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    stored = contents(corpus.train(0))
    shutil.rmtree(corpus.root / "augmented")
    augment = replace(corpus.params.augment, mode="on_the_fly", versions=2)
    corpus.params = replace(corpus.params, augment=augment)
    whole = contents(corpus.train(0, "whole"))
    assert whole["weights.safetensors"] != stored["weights.safetensors"]
    shutil.rmtree(corpus.root / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(WaitingRun, "log_history", stop)
        with pytest.raises(KeyboardInterrupt):
            corpus.train(0, "stopped")
    assert not (corpus.root / "stopped").exists()
    assert contents(corpus.train(0, "resumed")) == whole


def test_videos_may_differ_in_size_and_number_of_clips(corpus: Corpus) -> None:
    corpus.write_clips(sizes=[(16, 9), (12, 16), (16, 16)], most=3)
    clips = replace(corpus.params.clips, fit="native", views="rolling", num_clips=3)
    corpus.params = replace(corpus.params, clips=clips)
    predictions = PREDICTIONS.read(corpus.train(0) / "predictions.parquet")
    counts = {int(row["video_id"][-2:]): row["num_clips"] for row in predictions.to_dicts()}
    assert counts == {number: 1 + number % 3 for number in range(16)}
    assert predictions["logit"].is_finite().all()


@pytest.mark.parametrize("fold", [-1, 2])
def test_a_fold_that_is_not_there_is_refused(corpus: Corpus, fold: int) -> None:
    with pytest.raises(FvcError, match=rf"fold {fold}: there is none; split.folds is \[0, 1\]"):
        corpus.train(fold)
    assert not (corpus.root / "models").exists()


def test_a_fold_that_trains_on_one_class_is_refused(corpus: Corpus) -> None:
    folds = corpus.root / "folds.parquet"
    rows = FOLDS.read(folds)
    trains = (pl.col("fold") == 1) & (pl.col("validates").list.len() == 0)
    FOLDS.write(folds, rows.filter(~trains | (pl.col("label") == "real")))
    said = r"folds\.parquet: fold 0 has no fake video to train\. Add videos, .*dvc repro split"
    with pytest.raises(FvcError, match=said):
        corpus.train(0)
    assert not (corpus.root / "models").exists()


@pytest.mark.parametrize("name", ["start_training", "score_fold"])
def test_memory_that_does_not_suffice_for_the_network_ends_in_one_line(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train, name, fail)
    with pytest.raises(FvcError, match=r"ran out \(CUDA out of memory.*start again"):
        corpus.train(0)


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
@pytest.mark.parametrize(("folder", "stage"), [("clips", "clips"), ("augmented", "augment")])
def test_missing_clips_name_the_stage_that_makes_them_before_there_is_a_run(
    corpus: Corpus, store: MlflowClient, folder: str, stage: str, damaged: bool
) -> None:
    for file in (corpus.root / folder).glob("*.pt"):
        file.unlink()
        if damaged:
            file.write_bytes(b"damaged")
    with pytest.raises(FvcError, match=rf"youtube_\d\d\.pt.*[Rr]un 'dvc repro {stage}'") as raised:
        corpus.train(0)
    assert ("Delete it" in str(raised.value)) is damaged
    assert not fold_runs(store)


@pytest.mark.parametrize(("batch_size", "stop"), [(1, 2), (3, 3)])
def test_stopped_after_the_last_step_of_an_epoch_it_goes_on_with_the_next(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch, batch_size: int, stop: int
) -> None:
    """Batches are accumulated, so the last step of an epoch has fewer of them."""
    corpus.params = replace(
        corpus.params, train=replace(corpus.params.train, batch_size=batch_size)
    )
    whole = contents(corpus.train(0, "whole"))
    shutil.rmtree(corpus.root / "checkpoints")
    asked = itertools.count(1)

    @contextmanager
    def stopping() -> Iterator[Callable[[], bool]]:
        """Asked after each of the two steps, then before each video of the validation."""
        yield lambda: next(asked) == stop

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_sigterm", stopping)
        with pytest.raises(Stopped):
            corpus.train(0, "stopped")
    statuses = [run.info.status for run in fold_runs(store)]
    assert "KILLED" in statuses, "a run that goes on is no failure"
    assert contents(corpus.train(0, "resumed")) == whole


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(ROOT)]
    # Tests before this one leave there which experiment of their own store they used.
    own = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment = {
        **own,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    command = [sys.executable, str(Path(__file__).parent / "killing.py"), str(tmp_path), "0"]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    assert contents(tmp_path / "killed" / "model") == contents(tmp_path / "whole" / "model")
    epochs = pl.read_csv(tmp_path / "whole" / "model" / "history.csv").height
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    killed, whole = sorted(fold_runs(client), key=lambda run: run.info.start_time)
    for run in (killed, whole):
        assert run.info.status == "FINISHED"
        for name in SERIES:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
            assert steps == list(range(1, epochs + 1)), f"{name} has a step twice, or lacks one"


def test_other_parameters_from_the_command_line_reach_a_run_of_their_own(
    corpus: Corpus, store: MlflowClient
) -> None:
    source = corpus.root / "params.yaml"
    source.write_text(json.dumps(asdict(corpus.params)))
    places = {
        "--params": source,
        "--model": corpus.root / "model",
        **{f"--{name}": corpus.root / name for name in ("clips", "augmented", "flow")},
        "--checkpoints": corpus.root / "checkpoints",
        **{"--clips-summary": corpus.root / "clips.json", "--runs": corpus.root / "runs"},
        "--folds": corpus.root / "folds.parquet",
    }
    flags = ["--fold=0", *(f"{flag}={place}" for flag, place in places.items())]
    train.main([*flags, "--set", "train.epochs=1", "--set=train.learning_rate=0.5"])
    assert pl.read_csv(corpus.root / "model" / "history.csv").height == 1
    [run] = fold_runs(store)
    assert run.data.params["train.learning_rate"] == "0.5"
    assert "mlflow.parentRunId" not in run.data.tags, "its cross-validation would never end"
    with pytest.raises(SystemExit):
        train.main([*flags, "--se", "train.epochs=1"])
