"""From a verdict to what it rests on, in a store of two folds and one registered version."""

import json
import os
import shlex
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from registering import Corpus, one_layer

from fvc import networks
from fvc.errors import FvcError
from fvc.files import read_json, sha256_of_file, write_json
from fvc.protocol import folds_sha256
from fvc.records import FOLDS, INDEX, OUT_OF_FOLD
from fvc.report.provenance import rebuilding_commands
from fvc.serving.answering import Wishes
from fvc.serving.outputs import COLUMNS
from fvc.serving.packaging import load_answerer
from fvc.stages import trace
from fvc.tracking.lineage import lineage_of_fold, lineage_of_model

TESTED = "e" * 64
"""SHA-256 of the one video that is not locked; fold 0 tests it, and fold 1 trains on it."""


@pytest.fixture
def corpus(tmp_path: Path, store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A registered network of fold 1, and the verdict of fold 0's on a video."""
    del store
    monkeypatch.setattr(networks, "build_features", one_layer)
    corpus = Corpus(tmp_path)
    row = {"video_id": "youtube_tested", "group": "g", "part": "fold", "fold": 0, "label": "fake"}
    folds = FOLDS.read(tmp_path / "folds.parquet")
    folds = pl.concat([folds, FOLDS.frame([{**row, "validates": []}])])
    FOLDS.write(tmp_path / "folds.parquet", folds)
    index = INDEX.read(tmp_path / "index.parquet")
    own = dict.fromkeys(INDEX.columns) | {"video_id": "youtube_tested", "sha256": TESTED}
    videos = {
        name: sha256_of_file(tmp_path / "videos" / f"{name}.mp4") for name in index["video_id"]
    }
    index = index.with_columns(sha256=pl.col("video_id").replace_strict(videos))
    INDEX.write(tmp_path / "index.parquet", pl.concat([index, INDEX.frame([own])]))
    corpus.add_network(0, brightness=0.001, ranks_validation=False)
    corpus.add_network(1, brightness=0.002, ranks_validation=True)
    corpus.add_evidence()
    scored = {"probability_fake": 0.25, "called": "real", "verdict": "uncertain"}
    verdicts = {name: row[name] for name in ("video_id", "fold", "group", "label")} | scored
    OUT_OF_FOLD.write(tmp_path / "evaluation" / "out_of_fold.csv", OUT_OF_FOLD.frame([verdicts]))
    corpus.register()
    return corpus


def traced(corpus: Corpus, what: Path | str, **flags: Any) -> list[dict[str, Any]]:
    """What the command says to programs."""
    target = corpus.root / "trace.json"
    trace.run(
        str(what),
        video=flags.get("video", ""),
        model=flags.get("model", "models:/fvc@champion"),
        index=flags.get("index", corpus.root / "index.parquet"),
        folds=corpus.root / "folds.parquet",
        json=target,
    )
    found: list[dict[str, Any]] = read_json(target, "trace")
    return found


def answer(sha256: str | None, **changes: Any) -> dict[str, Any]:
    usual = {"model_version": "fvc/1", "probability_fake": 0.9, "verdict": "fake", "threshold": 0.5}
    rest: dict[str, Any] = {
        "file": "clip.mp4",
        "clips": [],
        "overlay_png": None,
        "error": None,
    }
    return {**usual, **rest, "video_sha256": sha256, **changes}


def test_an_answer_leads_to_version_run_folds_and_data(
    corpus: Corpus, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    source = corpus.root / "answer.json"
    write_json(source, {"predictions": [answer("f" * 64)]})
    [found] = traced(corpus, source)
    version = store.get_model_version("fvc", "1")
    lineage = found["lineage"]
    assert lineage["model"] == "models:/fvc/1"
    assert lineage["aliases"] == ["challenger", "champion"]
    assert lineage["run_id"] == version.run_id
    assert lineage["fold"] == 1
    weights = corpus.root / "models" / "1" / "weights.safetensors"
    assert lineage["weights_sha256"] == sha256_of_file(weights)
    assert lineage["data_sha256"] == "d" * 64
    table = FOLDS.read(corpus.root / "folds.parquet")
    assert lineage["folds_sha256"] == folds_sha256(table)
    [verdict] = found["verdicts"]
    assert verdict["name"] == "clip.mp4"
    assert "none of its videos has these bytes" in verdict["standing"]
    printed = capsys.readouterr().out
    for told in (version.run_id, lineage["folds_sha256"], lineage["data_sha256"], "fake, 0.900"):
        assert str(told) in printed


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_format_of_predict_is_read(corpus: Corpus, suffix: str) -> None:
    locked = sha256_of_file(corpus.root / "videos" / "youtube_03.mp4")
    failed = answer(None, verdict=None, probability_fake=None, error="too_large: 9 MiB, above 1")
    answers = [answer(TESTED), answer(locked), failed]
    source = corpus.root / f"answers{suffix}"
    if suffix == ".parquet":
        pl.DataFrame(answers, schema=COLUMNS).write_parquet(source)
    elif suffix == ".csv":
        frame = pl.DataFrame(answers, schema=COLUMNS)
        frame.with_columns(clips=pl.lit("[]")).write_csv(source)
    else:
        source.write_text("".join(f"{json.dumps(one)}\n" for one in answers))
    [found] = traced(corpus, source)
    standings = [verdict["standing"] for verdict in found["verdicts"]]
    assert standings == [
        "youtube_tested trained this network, so the verdict shows what was learned by heart",
        "youtube_03 is in the locked test, which this network never saw",
        "unknown: it was not read",
    ]
    assert found["verdicts"][2]["verdict"] == "no verdict (too_large: 9 MiB, above 1)"
    [chosen] = traced(corpus, source, video=locked[:12])
    assert [verdict["video_sha256"] for verdict in chosen["verdicts"]] == [locked]


def test_a_video_of_the_corpus_leads_to_the_fold_that_tests_it(
    corpus: Corpus, store: MlflowClient
) -> None:
    [found] = traced(corpus, TESTED[:10])
    [verdict] = found["verdicts"]
    assert (verdict["verdict"], verdict["probability_fake"]) == ("uncertain", 0.25)
    assert verdict["standing"] == "youtube_tested tested this network, which never saw it"
    assert found["lineage"]["fold"] == 0
    assert found["lineage"]["model"] == "", "the network of fold 0 was not registered"
    run = store.get_run(found["lineage"]["run_id"])
    assert run.data.tags["fvc.fold"] == "0"


def test_a_fold_whose_network_is_registered_is_told_as_its_version(
    corpus: Corpus, store: MlflowClient
) -> None:
    version = store.get_model_version("fvc", "1")
    assert version.run_id is not None
    above = store.get_run(version.run_id).data.tags["mlflow.parentRunId"]
    found = lineage_of_fold(store, above, 1)
    assert (found.model, found.aliases) == ("models:/fvc/1", ["challenger", "champion"])
    assert found.run_id == version.run_id
    del corpus


def test_a_locked_video_leads_to_the_version_that_scored_it(corpus: Corpus) -> None:
    video = corpus.root / "videos" / "youtube_03.mp4"
    [found] = traced(corpus, video)
    [verdict] = found["verdicts"]
    assert found["lineage"]["model"] == "models:/fvc/1"
    assert verdict["verdict"] == "fake"
    assert verdict["probability_fake"] > verdict["threshold"]
    assert verdict["standing"] == "youtube_03 is in the locked test, which this network never saw"


def test_another_division_is_not_taken_for_the_networks_own(corpus: Corpus) -> None:
    folds = FOLDS.read(corpus.root / "folds.parquet")
    FOLDS.write(corpus.root / "folds.parquet", folds.with_columns(group=pl.lit("one")))
    source = corpus.root / "answer.json"
    write_json(source, answer(TESTED))
    [found] = traced(corpus, source)
    assert "another one than the network was trained with" in found["verdicts"][0]["standing"]


def test_without_a_corpus_the_answer_still_leads_to_its_model(corpus: Corpus) -> None:
    source = corpus.root / "answer.json"
    write_json(source, [answer(TESTED)])
    [found] = traced(corpus, source, index=corpus.root / "nowhere")
    assert found["lineage"]["model"] == "models:/fvc/1"
    assert found["verdicts"][0]["standing"].startswith("unknown: 'dvc repro split' has not run")


def test_weights_that_were_changed_in_the_store_are_told(
    corpus: Corpus, store: MlflowClient
) -> None:
    [weights] = (corpus.root / "mlruns").rglob("network/weights.safetensors")
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(FvcError, match=r"models:/fvc/1: its weights are .*they were changed"):
        lineage_of_model(store, "fvc/1")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(answer(TESTED, model_version=3)), "whose model_version is 3"),
        (json.dumps(answer(TESTED, threshold="high")), "whose threshold is 'high'"),
        ("[", "cannot be read"),
        ('{"predictions": [1]}', "holds no answers"),
        (json.dumps({"verdict": "fake"}), "holds no answers"),
        (json.dumps(answer(TESTED, model_version=None)), "names no model_version"),
        (json.dumps(answer(TESTED, model_version="fvc/9")), "models:/fvc/9: is not in"),
        (json.dumps(answer(TESTED, model_version="m-9")), "models:/m-9: is not in"),
        ("[]", "holds no answer at all"),
    ],
)
def test_what_leads_nowhere_is_named(corpus: Corpus, content: str, said: str) -> None:
    source = corpus.root / "answer.json"
    source.write_text(content)
    with pytest.raises(FvcError, match=said):
        traced(corpus, source)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nowhere.mp4", "is neither a file nor a SHA-256"),
        ("0" * 64, "is the SHA-256 of no video in the corpus"),
        ("nowhere.json", "cannot be read"),
    ],
)
def test_what_is_no_video_is_named(corpus: Corpus, what: str, said: str) -> None:
    with pytest.raises(FvcError, match=said):
        traced(corpus, what)


def test_a_model_without_a_version_is_named(corpus: Corpus) -> None:
    with pytest.raises(FvcError, match="models:/fvc@nobody: "):
        traced(corpus, TESTED, model="models:/fvc@nobody")


@pytest.mark.usefixtures("corpus")
def test_the_commands_are_those_of_the_commit_and_its_parameters(
    store: MlflowClient, tmp_path: Path
) -> None:
    lineage = lineage_of_model(store, "fvc/1")
    lineage = replace(lineage, commit="a" * 40, changed="train.epochs=3 split.folds=[0,1]")
    commands = rebuilding_commands(lineage, tmp_path / "my work")
    assert f"git checkout --quiet {'a' * 40}" in commands
    assert "dvc exp run --force -S train.epochs=3 -S 'split.folds=[0,1]'" in commands
    assert "dvc repro --force" in rebuilding_commands(replace(lineage, changed=""), None)
    clone = next(command for command in commands if command.startswith("git clone"))
    assert str(tmp_path / "my work") in shlex.split(clone)


DVC = """#!/bin/sh
echo "dvc $*" >> "$LOG"
test "$*" != "cache dir" || echo /cache
test "$1" != repro || { mkdir -p work/models/1; echo weights > work/models/1/weights.safetensors
  echo folds > work/folds.csv.sha256; echo '"data_sha256": "d"' > work/clips.json; }
"""


def git_in(root: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *who, *words], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.usefixtures("corpus")
def test_the_commands_leave_the_repository_alone_also_if_they_are_given_twice(
    store: MlflowClient, tmp_path: Path
) -> None:
    """With a stand-in for DVC, and for the environment."""
    root, tools, place = (tmp_path / name for name in ("a repository", "tools", "place"))
    for folder in (root, tools, place):
        folder.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "MLFLOW_TRACKING_URI": "http://production",
    }
    (tools / "dvc").write_text(DVC)
    (tools / "dvc").chmod(0o755)
    (root / "Makefile").write_text("setup:\n\tmkdir -p .venv/bin\n\ttouch .venv/bin/activate\n")

    git = partial(git_in, root)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "--message", "second")
    lineage = replace(lineage_of_model(store, "fvc/1"), commit=commit, changed="")
    script = "\n".join(
        [*rebuilding_commands(lineage, root), 'echo "in $PWD: $MLFLOW_TRACKING_URI"']
    )

    def paste() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash"], input=script, cwd=place, env=environment, capture_output=True, text=True
        )

    done = paste()
    assert f"in {place}: http://production" in done.stdout, "the user's own shell was changed"
    assert "weights.safetensors" in done.stdout, done.stderr
    assert '"data_sha256": "d"' in done.stdout
    clone = place / f"fvc-{commit[:7]}"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True)
    assert head.stdout.strip() == commit
    first = (tmp_path / "log").read_text().splitlines()
    assert first == [
        "dvc cache dir",
        "dvc cache dir --local /cache",
        "dvc checkout data.dvc",
        "dvc repro --force",
    ]
    again = paste()
    assert "already exists" in again.stderr
    assert (tmp_path / "log").read_text().splitlines() == [*first, "dvc cache dir"]
    assert git("log", "-1", "--format=%s") == "second", "the repository was changed"
    assert git("status", "--porcelain") == ""


def test_a_model_loaded_from_its_run_leads_back_to_it(corpus: Corpus, store: MlflowClient) -> None:
    version = store.get_model_version("fvc", "1")
    answerer = load_answerer(f"runs:/{version.run_id}/fvc")
    try:
        said = answerer.answer((corpus.root / "videos" / "youtube_03.mp4").read_bytes(), Wishes())
    finally:
        answerer.close()
    source = corpus.root / "answer.json"
    write_json(source, said)
    [found] = traced(corpus, source)
    assert said["model_version"].startswith("m-")
    assert found["lineage"]["model"] == f"models:/{said['model_version']}"
    assert found["lineage"]["run_id"] == version.run_id
