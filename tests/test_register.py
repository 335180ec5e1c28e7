import json
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest
from jaxtyping import UInt8
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from registering import Corpus, one_layer

from fvc import networks
from fvc.clip_files import save_clips
from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence import locked
from fvc.evidence.promotion import Opponent
from fvc.files import read_json, write_json
from fvc.records import FOLDS
from fvc.serving.packaging import ask, load_model
from fvc.serving.settings import Settings
from fvc.stages import register, rollback
from fvc.tracking import registry


@pytest.fixture
def corpus(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    del store
    monkeypatch.setattr(networks, "build_features", one_layer)
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
    assert champion.tags["fvc.promotion"] == "unopposed"
    assert champion.tags["fvc.beats_probes"] == "true"
    assert "became champion because none was in service" in (champion.description or "")
    for name in ("data", "folds", "params", "weights"):
        assert len(champion.tags[f"fvc.{name}_sha256"]) == 64
    with pytest.raises(MlflowException, match="alias previous not found"):
        aliased(store, "previous")
    with registry.stored("1") as kept:
        curve = (kept / "risk_coverage.csv").read_text()
    own = "coverage,selective_risk,sureness\n0.5,0.0,0.75\n1.0,0.125,0.5\n"
    assert curve == own, "how far to trust this fold's network stays with it, not the others'"

    def again() -> tuple[bytes, int]:
        corpus.register()
        versions = store.search_model_versions("name = 'fvc'")
        return (corpus.root / "registered.json").read_bytes(), len(versions)

    before = (corpus.root / "registered.json").read_bytes()
    assert again() == (before, 1), "the same candidate was registered twice or decided otherwise"


def test_a_version_names_the_commit_it_was_made_of(corpus: Corpus, store: MlflowClient) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "--quiet"), (*identity, "commit", "--quiet", "--allow-empty", "-mx")):
        subprocess.run(("git", *command), cwd=corpus.root, check=True)
    corpus.register()
    asked = ("git", "rev-parse", "HEAD")
    head = subprocess.run(asked, cwd=corpus.root, check=True, capture_output=True, text=True)
    assert aliased(store, "champion").tags["mlflow.source.git.commit"] == head.stdout.strip()


def test_a_registered_model_answers(corpus: Corpus, store: MlflowClient) -> None:
    corpus.register()
    assert aliased(store, "champion").run_id
    model = load_model("models:/fvc@champion")
    bright = BytesIO()
    encode(bright, np.full((12, 16, 16, 3), 230, np.uint8), fps=12)
    answer = ask(model, bright.getvalue())
    assert answer["error"] is None
    assert answer["probability_fake"] > 0.5
    assert [clip["end_s"] for clip in answer["clips"]] == [1.0]
    run = store.get_run(str(aliased(store, "champion").run_id))
    logged = store.search_logged_models([run.info.experiment_id])
    assert [entry.source_run_id for entry in logged] == [run.info.run_id], "it lies elsewhere"


def test_other_limits_make_another_version_and_no_reading(
    corpus: Corpus, store: MlflowClient
) -> None:
    corpus.register()
    limits = replace(corpus.params.serving, max_mib=5.0)
    corpus.params = replace(corpus.params, serving=limits)
    decided = corpus.register()
    assert str(aliased(store, "champion").version) == "2", decided["reasons"]
    assert decided["locked_readings"] == 1, "the same weights on the same videos"
    path = mlflow.artifacts.download_artifacts("models:/fvc@champion")
    settings = read_json(Path(path) / "artifacts" / "network" / "serving.json", "register")
    assert settings["limits"]["max_mib"] == 5.0
    corpus.register()
    assert str(aliased(store, "challenger").version) == "2"


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
    assert registry.version_of(store, "previous") is None


def test_leaks_are_refused_even_where_no_champion_is(corpus: Corpus, store: MlflowClient) -> None:
    corpus.add_evidence(leaks=3)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "The audit found 3 leaks." in decided["reasons"]
    assert registry.version_of(store, "champion") is None
    assert str(aliased(store, "challenger").version) == "1"


def test_a_champion_that_changes_while_it_is_met_is_not_passed_over(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_champions(corpus)
    compare, met = register.compare, []

    def slow(client: MlflowClient, champion: ModelVersion, *rest: Any) -> Opponent:
        met.append(str(champion.version))
        opponent = compare(client, champion, *rest)
        # Another machine, with the same store.
        store.set_registered_model_alias("fvc", "champion", "1")
        return opponent

    monkeypatch.setattr(register, "compare", slow)
    corpus.add_network(1, brightness=0.003, ranks_validation=True)
    decided = corpus.register()
    assert met == ["2", "1"]
    assert "version 1" in decided["reasons"][-1]
    assert in_service(store) == ["3", "1", "3"]


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
    assert aliased(store, "previous").version == first, "nobody knows who served before"


def lock(corpus: Corpus, videos: range) -> None:
    """Let some of the videos be the locked test."""
    table = FOLDS.read(corpus.root / "folds.parquet")
    inside = pl.col("video_id").is_in([f"youtube_{number:02}" for number in videos])
    part = pl.when(inside).then(pl.lit("locked")).otherwise(pl.lit("fold"))
    FOLDS.write(corpus.root / "folds.parquet", table.with_columns(part=part))


def test_a_champion_is_retired_for_good_and_has_a_way_back(
    corpus: Corpus, store: MlflowClient
) -> None:
    corpus.register()
    store.set_model_version_tag("fvc", "1", registry.WITHDRAWN, "true")
    store.delete_registered_model_alias("fvc", "champion")
    assert corpus.register()["promotion"] == "refused"
    assert registry.version_of(store, "champion") is None
    store.delete_model_version_tag("fvc", "1", registry.WITHDRAWN)
    assert corpus.register()["promotion"] == "unopposed"
    assert aliased(store, "champion").version == aliased(store, "challenger").version


def test_readings_of_the_locked_test_are_counted(corpus: Corpus, store: MlflowClient) -> None:
    assert corpus.register()["locked_readings"] == 1
    assert corpus.register()["locked_readings"] == 1, "a version that is found reads nothing"
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    assert corpus.register()["locked_readings"] == 2
    second = aliased(store, "challenger")
    assert second.tags["fvc.locked_readings"] == "2"
    assert "read **2 times** so far" in (second.description or "")
    store.delete_model_version("fvc", str(second.version))
    corpus.add_network(1, brightness=0.004, ranks_validation=True)
    assert corpus.register()["locked_readings"] == 3, "who looked has looked, deleted or not"
    lock(corpus, range(12))
    corpus.add_network(1, brightness=0.003, ranks_validation=True)
    assert corpus.register()["locked_readings"] == 2, "another locked test; the champion read it"


@pytest.mark.usefixtures("store")
def darker_fakes(file: Path, side_px: int) -> UInt8[np.ndarray, "1 4 3 H W"]:
    """Clips by which brightness ranks the videos the wrong way round."""
    fake = int(file.stem.removeprefix("youtube_")) % 2
    return np.full((1, 4, 3, side_px, side_px), 0 if fake else 200, np.uint8)


def test_the_champions_stored_scores_are_used(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("the champion was scored again")

    corpus.register()
    monkeypatch.setattr(locked, "load_registered", refuse)
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    # Other clips of the same videos: each network has seen them as it does.
    for file in (corpus.root / "clips").iterdir():
        save_clips(file, darker_fakes(file, 16), "another key")
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "is worse than version 1" in " ".join(decided["reasons"])


def test_a_corrected_label_is_another_locked_test(corpus: Corpus, store: MlflowClient) -> None:
    corpus.register()
    table = FOLDS.read(corpus.root / "folds.parquet")
    corrected = pl.when(pl.col("video_id") == "youtube_00").then(pl.lit("fake"))
    FOLDS.write(
        corpus.root / "folds.parquet",
        table.with_columns(label=corrected.otherwise(pl.col("label"))),
    )
    decided = corpus.register()
    assert decided["promotion"] == "won", "the opponent is measured anew, on the same videos"
    assert len(store.search_model_versions("name = 'fvc'")) == 2


def test_on_another_locked_test_both_are_scored_anew(corpus: Corpus) -> None:
    lock(corpus, range(12))
    corpus.register()
    lock(corpus, range(16))
    corpus.add_network(1, brightness=-0.001, ranks_validation=True)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "is worse than version 1: the interval" in decided["reasons"][-1]
    assert "Of these videos, 4 were not locked when version 1 was" in decided["reasons"][-1]
    assert decided["locked_readings"] == 2


def see_otherwise(corpus: Corpus, side_px: int) -> None:
    """Other clips for the networks to come, of other videos: all are dark."""
    corpus.params = replace(corpus.params, clips=replace(corpus.params.clips, side_px=side_px))
    for file in (corpus.root / "clips").iterdir():
        save_clips(file, darker_fakes(file, side_px), "another key")
    corpus.add_network(1, brightness=0.002, ranks_validation=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_champion_that_sees_other_clips_is_scored_on_what_it_sees(
    corpus: Corpus, damaged: bool
) -> None:
    lock(corpus, range(12))
    corpus.register()
    lock(corpus, range(16))
    see_otherwise(corpus, 24)
    if damaged:
        (corpus.root / "videos" / "youtube_03.mp4").write_bytes(b"no video")
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    said = "video youtube_03 cannot be decoded so" if damaged else "is worse than version 1"
    assert said in decided["reasons"][-1], "the champion was shown the candidate's clips"


def forget_settings(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register as an older version of the code did, which had fewer settings."""

    def write_older(settings: Settings, folder: Path) -> None:
        write(settings, folder)
        for name in ("serving.json", "network.json"):
            content = read_json(folder / name, "register")
            # Before clips had windows, and other ways to sample and to fit.
            content["clips"] = {"num_clips": 1, "num_frames": 4, "side_px": 16, "timeout_s": 60.0}
            write_json(folder / name, content)

    write = Settings.write
    with monkeypatch.context() as patch:
        patch.setattr(Settings, "write", write_older)
        corpus.register()


def test_a_champion_of_an_older_version_of_the_code_blocks_nothing(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(corpus, monkeypatch)
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    assert corpus.register()["promotion"] == "won", "its scores are known, its network not needed"
    assert str(aliased(store, "previous").version) == "1"


def test_why_a_champion_cannot_be_compared_is_said(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(corpus, monkeypatch)
    lock(corpus, range(12))
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "is unknown: its network is of another version of this code" in decided["reasons"][-1]
    assert str(aliased(store, "champion").version) == "1"
    store.delete_registered_model_alias("fvc", "champion")
    assert corpus.register()["promotion"] == "unopposed", "the remedy that is named does not work"
    assert str(aliased(store, "champion").version) == "2"


def two_champions(corpus: Corpus) -> None:
    """The second has replaced the first."""
    corpus.register()
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    assert corpus.register()["promotion"] == "won"


def in_service(store: MlflowClient) -> list[str]:
    return [str(aliased(store, alias).version) for alias in ("champion", "previous", "challenger")]


def test_a_rollback_survives_the_next_registration(corpus: Corpus, store: MlflowClient) -> None:
    two_champions(corpus)
    summary = (corpus.root / "registered.json").read_bytes()
    assert in_service(store) == ["2", "1", "2"]
    rollback.run()
    corpus.register()
    assert in_service(store) == ["1", "2", "2"], "what a person undid was done again"
    assert (corpus.root / "registered.json").read_bytes() == summary
    corpus.add_evidence(low=0.85)
    decided = corpus.register()
    assert decided["promotion"] == "refused"
    assert "out of service by 'fvc rollback'" in " ".join(decided["reasons"])
    assert in_service(store) == ["1", "2", "2"]


def test_a_champion_whose_evidence_has_changed_stays_and_says_so(
    corpus: Corpus, store: MlflowClient
) -> None:
    two_champions(corpus)
    corpus.add_evidence(low=0.6)
    decided = corpus.register()
    assert (decided["promotion"], decided["beats_probes"]) == ("won", False)
    assert "It is champion already" in decided["reasons"][-1]
    assert in_service(store) == ["2", "1", "2"]
    assert "does **not** beat" in (aliased(store, "champion").description or "")


@pytest.mark.parametrize("killed_in", ["settle", "describe", "write_json"])
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
        corpus.only_register()


def test_what_a_stopped_registration_left_is_removed(
    corpus: Corpus, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "_create_model_version", killed)
        with pytest.raises(RuntimeError, match="killed"):
            corpus.register()
    corpus.register()
    run = store.get_run(str(aliased(store, "champion").run_id))
    assert len(store.search_logged_models([run.info.experiment_id])) == 1
