"""From archives to a verdict over HTTP, in a fresh clone, by the commands that users type."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from browsing import ABSENT, BROWSER, browse
from clones import Clone, clone_of
from http_server import served

from fvc.annotations import read_annotations
from fvc.clip_files import load_clips
from fvc.evidence.calibration import Calibration
from fvc.matching import REASONS
from fvc.networks import load_network
from fvc.predict import clip_logits, video_logit

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    clone = clone_of(ROOT, tmp_path_factory.mktemp("clone") / "fvc")
    clone.must("fvc", "demo", "data", "--videos", "24", "--seed", "1")
    clone.must("dvc", "add", "--quiet", "data")
    clone.must("dvc", "repro")
    clone.must("git", "commit", "--quiet", "--all", "--message", "Another corpus")
    return clone


def test_every_video_is_accounted_for(clone: Clone) -> None:
    index = pl.read_parquet(clone.folder / "work/index.parquet")
    rejected = pl.read_csv(clone.folder / "work/rejected.csv")
    annotated = set(read_annotations(clone.folder / "data/annotations").videos)
    listed = [*index["video_id"], *rejected["video_id"].drop_nulls()]
    assert len(listed) == len(set(listed)), "a video is listed twice"
    assert annotated <= set(listed), "an annotated video is in neither table"
    present = {path.parent.name for path in (clone.folder / "work/videos").rglob("video.*")}
    assert present <= {name.split("_", 1)[1] for name in listed}
    assert index.height >= 24
    assert rejected["reason"].is_in(list(REASONS)).all()


def test_the_notebook_walks_through_what_there_is(clone: Clone, tmp_path: Path) -> None:
    walked = tmp_path / "walked.ipynb"
    clone.must("papermill", "notebooks/fvc.ipynb", str(walked), "--cwd", "notebooks")
    cells = json.loads(walked.read_text())["cells"]
    outputs = [each for cell in cells for each in cell.get("outputs", ())]
    assert not [each for each in outputs if each.get("name") == "stderr"], "a warning is shown"
    assert sum("image/png" in each.get("data", {}) for each in outputs) >= 6
    [page] = [text for each in outputs if "srcdoc" in (text := html_of(each))]
    assert "ROC-AUC" in page


@pytest.mark.skipif(BROWSER is None, reason=ABSENT)
def test_the_report_with_all_its_sections_opens_on_a_phone(clone: Clone, tmp_path: Path) -> None:
    page = (clone.folder / "work/evaluation/report.html").read_text(encoding="utf-8")
    seen = browse(page, tmp_path)
    assert seen.measured == f"too wide by 0 pictures {page.count('<img ')}"
    assert page.count("image/webp") >= 3, "no picture moves"
    assert seen.console == []
    assert seen.asked == ["/frame.html", "/report.html"]


def test_a_map_of_the_trained_network_is_not_one_of_random_weights(clone: Clone) -> None:
    found = json.loads((clone.folder / "work/evaluation/examples.json").read_text())
    likeness = found["rank_correlation_with_random_weights"]
    assert likeness.keys() == {"backbone", "head"}
    assert all(value < 0.5 for value in likeness.values()), likeness


def html_of(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/html", ()))


def test_a_second_run_does_nothing(clone: Clone) -> None:
    said = clone.must("dvc", "repro")
    assert "Data and pipelines are up to date" in said
    assert "took" not in said


def test_folds_are_children_of_one_finished_run(clone: Clone) -> None:
    runs = clone.runs().values()
    [parent] = [run for run in runs if run.data.tags.get("fvc.kind") == "cross-validation"]
    folds = [run for run in runs if run.data.tags.get("fvc.kind") == "fold"]
    assert {run.data.tags["mlflow.parentRunId"] for run in folds} == {parent.info.run_id}
    assert sorted(run.data.tags["fvc.fold"] for run in folds) == list("01234")
    assert {run.info.status for run in (parent, *folds)} == {"FINISHED"}
    names = {file.path for file in clone.store.list_artifacts(folds[0].info.run_id)}
    assert names >= {
        "checkpoint.pt",
        "confusion_matrix.png",
        "history.csv",
        "learning_curves.png",
        "metrics.jsonl",
        "network.json",
        "predictions.parquet",
        "weights.safetensors",
    }
    assert folds[0].data.metrics.keys() >= {
        "train/loss",
        "train/accuracy",
        "train/grad_norm",
        "train/logit_mean",
        "train/logit_std",
        "train/logit_unique",
        "train/learning_rate",
        "train/batch_size",
        "train/clips_per_s",
        "validation/loss",
        "validation/roc_auc",
        "validation/macro_f1",
        "test/roc_auc",
    }


def test_the_locked_test_stays_with_the_registered_version(clone: Clone) -> None:
    folds = pl.read_parquet(clone.folder / "work/folds.parquet")
    locked = set(folds.filter(part="locked")["video_id"])
    for fold in range(5):
        scored = pl.read_parquet(clone.folder / f"work/models/{fold}/predictions.parquet")
        assert not locked & set(scored["video_id"]), "a fold has seen the locked test"
    version = clone.store.get_model_version_by_alias("fvc", "champion")
    assert version.tags["fvc.promotion"] == "unopposed"
    assert version.tags["fvc.beats_probes"] in ("true", "false")
    assert (version.description or "").startswith("#")


def test_one_fold_as_a_project_run(clone: Clone) -> None:
    before = clone.runs()
    clone.must(
        *("mlflow", "run", ".", "-e", "train", "-P", "fold=3"),
        *("--env-manager=local", "--experiment-name", "fvc"),
    )
    [added] = [run for key, run in clone.runs().items() if key not in before]
    assert added.info.status == "FINISHED"
    assert added.data.tags["fvc.fold"] == "3"
    assert "up to date" in clone.must("dvc", "status"), "the pipeline's own outputs changed"
    same = [run for run in before.values() if run.data.tags.get("fvc.fold") == "3"]
    assert added.data.tags["fvc.weights_sha256"] == same[0].data.tags["fvc.weights_sha256"]
    assert added.data.tags["fvc.changed"] == "none"


def test_one_fold_with_other_parameters_as_a_project_run(clone: Clone) -> None:
    before = clone.runs()
    clone.must(
        *("mlflow", "run", ".", "-e", "train", "-P", "fold=3", "-P", "epochs=1"),
        *("-P", "loss=focal", "--env-manager=local", "--experiment-name", "fvc"),
    )
    [added] = [run for key, run in clone.runs().items() if key not in before]
    assert added.info.status == "FINISHED"
    assert (added.data.params["train.epochs"], added.data.params["train.loss"]) == ("1", "focal")
    assert (added.data.params["seed"], added.data.params["fvc.seed"]) == ("params.yaml", "0")
    assert added.data.tags["fvc.changed"] == "train.loss=focal train.epochs=1"
    steps = clone.store.get_metric_history(added.info.run_id, "train/loss")
    assert [point.step for point in steps] == [1]
    assert "up to date" in clone.must("dvc", "status"), "the pipeline's own outputs changed"


def test_the_whole_pipeline_as_a_project_run(clone: Clone) -> None:
    before = clone.runs()
    clone.must("mlflow", "run", ".", "--env-manager=local")
    added = {key: run for key, run in clone.runs().items() if key not in before}
    [parent] = [key for key, run in added.items() if "mlflow.parentRunId" not in run.data.tags]
    children = [run for key, run in added.items() if key != parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent}
    assert sorted(run.data.tags["fvc.fold"] for run in children) == list("01234")
    assert {run.info.status for run in added.values()} == {"FINISHED"}


@pytest.fixture
def restored(clone: Clone) -> Iterator[None]:
    """Experiments change the workspace; the tests after them expect the first pipeline's."""
    yield
    clone.must("git", "checkout", "--quiet", "--", ".")
    clone.must("dvc", "checkout", "--quiet")
    assert "up to date" in clone.must("dvc", "status")


@pytest.mark.usefixtures("restored")
def test_experiments_share_the_store(clone: Clone) -> None:
    before = clone.runs()
    quick = ("-S", "train.epochs=1", "-S", "split.folds=[0,1,2]")
    clone.must("dvc", "exp", "run", *quick, "-S", "train.learning_rate=5.0e-4")
    sweep = ("-S", "train.learning_rate=2.0e-4", "-S", "train.loss=focal")
    clone.must("dvc", "exp", "run", "--queue", *quick, *sweep)
    # Not through `must`: the worker that it leaves behind would hold the pipes open.
    subprocess.run(
        ("dvc", "queue", "start"),
        cwd=clone.folder,
        env=clone.environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 900
    while "Success" not in (said := clone.must("dvc", "queue", "status")):
        assert "Failed" not in said, said
        assert time.monotonic() < deadline, said
        time.sleep(2)
    clone.must("dvc", "queue", "stop")
    added = [run for key, run in clone.runs().items() if key not in before]
    parents = [run for run in added if run.data.tags["fvc.kind"] == "cross-validation"]
    told_apart = {
        run.data.tags["fvc.changed"]: (
            run.data.params["train.loss"],
            run.data.params["train.learning_rate"],
        )
        for run in parents
    }
    always = "split.folds=[0,1,2]"
    assert told_apart == {
        f"{always} train.learning_rate=0.0005 train.epochs=1": ("bce", "0.0005"),
        f"{always} train.loss=focal train.learning_rate=0.0002 train.epochs=1": ("focal", "0.0002"),
    }
    for run in added:
        tags = run.data.tags
        name = tags["fvc.experiment"] if run in parents else f"fold {tags['fvc.fold']}"
        assert run.info.run_name == f"{name} {tags['fvc.changed']}"
    assert len({run.data.tags["fvc.experiment"] for run in parents}) == 2


@pytest.fixture(scope="module")
def address(clone: Clone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The served champion."""
    log = tmp_path_factory.mktemp("serving") / "log"
    with served(
        "models:/fvc@champion", folder=clone.folder, environment=clone.environment, log=log
    ) as (address, _):
        yield address


def ask(address: str, *videos: bytes, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    records = [{"video": base64.b64encode(video).decode()} for video in videos]
    request = urllib.request.Request(
        address,
        json.dumps({"dataframe_records": records, "params": params or {}}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        answers: list[dict[str, Any]] = json.load(reply)["predictions"]
    return answers


def test_the_served_model_answers_as_the_pipeline_does(
    clone: Clone, address: str, tmp_path: Path
) -> None:
    index = pl.read_parquet(clone.folder / "work/index.parquet")
    video = clone.folder / "work/videos" / index["path"][0]
    good, bad = ask(address, video.read_bytes(), b"no video at all")
    assert good["error"] is None
    assert 0 <= good["probability_fake"] <= 1
    assert good["verdict"] in ("real", "fake", "uncertain")
    [clip] = good["clips"]
    assert clip["start_s"] == 0
    assert clip["end_s"] == pytest.approx(index["duration_s"][0], abs=0.2)
    assert clip["probability_fake"] == good["probability_fake"]
    assert (bad["probability_fake"], bad["verdict"], bad["clips"]) == (None, None, [])
    assert "not_a_video" in bad["error"]
    fold = json.loads((clone.folder / "work/registered.json").read_text())["fold"]
    calibrations = json.loads((clone.folder / "work/evaluation/calibration.json").read_text())
    calibration = Calibration.from_dict(calibrations[str(fold)])
    stored = load_clips(clone.folder / f"work/clips/{index['video_id'][0]}.pt", "clips")
    network = load_network(clone.folder / f"work/models/{fold}")
    expected = calibration.probability(video_logit(clip_logits(network, stored)))
    assert good["probability_fake"] == pytest.approx(expected, abs=1e-5)
    assert good["threshold"] == calibration.threshold
    version = clone.store.get_model_version_by_alias("fvc", "champion").version
    assert good["model_version"] == f"fvc/{version}"
    assert good["video_sha256"] == index["sha256"][0]
    out = tmp_path / "scores.jsonl"
    assert "1 scored, 0 failed" in clone.must("fvc", "predict", str(video), "--out", str(out))
    [line] = out.read_text().splitlines()
    assert json.loads(line)["probability_fake"] == pytest.approx(expected, abs=1e-5)


def test_an_answer_leads_back_to_run_and_commit(clone: Clone, address: str, tmp_path: Path) -> None:
    video = (
        clone.folder
        / "work/videos"
        / pl.read_parquet(clone.folder / "work/index.parquet")["path"][0]
    )
    [answer] = ask(address, video.read_bytes())
    source = tmp_path / "answer.json"
    source.write_text(json.dumps({"predictions": [answer]}))
    said = clone.must("fvc", "trace", str(source))
    version = clone.store.get_model_version("fvc", answer["model_version"].split("/")[1])
    commit = clone.must("git", "rev-parse", "HEAD~1").strip()
    weights = version.tags["fvc.weights_sha256"]
    folds = (clone.folder / "work/folds.csv.sha256").read_text().split()[0]
    # Experiments before this have registered versions of their own, which may be the challenger.
    assert "champion" in version.aliases
    aliases = f"({', '.join(sorted(version.aliases))})"
    for told in (version.run_id, commit, weights, folds, aliases):
        assert str(told) in said
    assert answer["video_sha256"] in clone.must("fvc", "trace", str(video))


def test_a_request_may_ask_for_more(clone: Clone, address: str) -> None:
    path = pl.read_parquet(clone.folder / "work/index.parquet")["path"][0]
    video = (clone.folder / "work/videos" / path).read_bytes()
    [answer] = ask(address, video, params={"clips": 3, "threshold": 0.0, "explain": True})
    assert len(answer["clips"]) == 3
    assert (answer["threshold"], answer["verdict"]) == (0.0, "fake")
    assert base64.b64decode(answer["overlay_png"]).startswith(b"\x89PNG")
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, video, params={"clips": 0})
    assert refused.value.code == 400
    assert b"clips is 0, not between 1 and 64" in refused.value.read()


@pytest.mark.parametrize(
    ("damage", "command", "said"),
    [
        ("rm -r data/archives/*", "fvc extract", "data/archives: .*archive"),
        ("rm -r data", "fvc extract", "data/archives: "),
        ("rm -r data/*", "dvc repro", "data/archives: "),
        ("sed -i 1s/label/verdict/ data/annotations/FVC.csv", "dvc repro", r"FVC\.csv: .*label"),
        ("sed -i 's/ epochs:.*/ epochs:/' params.yaml", "fvc train --fold 0", r"train\.epochs"),
        ("true", "fvc train --fold 9", "fold 9: there is none"),
        ("rm work/folds.parquet", "fvc train --fold 0", "is missing. Run 'dvc repro split'"),
    ],
)
def test_bad_input_is_one_line(
    clone: Clone, tmp_path: Path, damage: str, command: str, said: str
) -> None:
    copy = Clone(tmp_path / "copy")
    ignored = shutil.ignore_patterns("mlruns", "checkpoints", "runs", "models", "cache")
    shutil.copytree(clone.folder, copy.folder, ignore=ignored)
    copy.must("bash", "-c", damage)
    before = tree(copy.folder / "work")
    done = copy.run(*command.split())
    assert done.returncode != 0, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.match(f"error: .*{said}", line), line
    assert "Traceback" not in done.stderr
    if command.startswith("fvc"):
        assert done.returncode == 1
        assert done.stderr.strip() == line
        assert tree(copy.folder / "work") == before, "something was left half-written"


def tree(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder, but for the locks."""
    files = (path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {path: path.read_bytes() for path in files}
