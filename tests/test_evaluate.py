import json
import re
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import numpy as np
import polars as pl
import pytest
from evaluating import Corpus, change_logits, constant, make_corpus, make_single, perfect
from matplotlib.figure import Figure
from mlflow.tracking import MlflowClient
from small_networks import CLIPS, small_network
from source_tree import ROOT

from fvc.encoding import encode
from fvc.errors import FvcError
from fvc.evidence import rescoring
from fvc.evidence.perturbations import version_names
from fvc.evidence.summary import tracked_metrics
from fvc.files import read_json, write_json
from fvc.records import FOLDS, INDEX, OUT_OF_FOLD
from fvc.report import Section, assembly
from fvc.stages import evaluate
from fvc.tracking.store import experiment_id


@pytest.fixture(autouse=True)
def no_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores here are made up, and no network behind them can be explained."""
    monkeypatch.setattr(evaluate, "explain", lambda *_, **__: Section(title="Examples"))


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a run, and most tests read the numbers."""
    blank = {name: Figure((1, 1)) for name in assembly.CAPTIONS}
    monkeypatch.setattr(evaluate, "figures_of", lambda *_: blank)
    monkeypatch.setattr(evaluate, "learning_of", lambda *_: [])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_evidence_is_complete_and_nothing_else_is_left(tmp_path: Path) -> None:
    written = files_of(make_corpus(tmp_path).run())
    assert set(written) == {
        "calibration.json",
        "confusion_matrix.png",
        "headline.json",
        "learning_curves.png",
        "metrics.json",
        "out_of_fold.csv",
        "pr.csv",
        "pr.png",
        "probes.png",
        "reliability.png",
        "report.html",
        "risk_coverage.csv",
        "risk_coverage.png",
        "risk_coverage_by_fold.csv",
        "robustness.csv",
        "robustness.json",
        "roc.csv",
        "roc.png",
        "slices.json",
        "slices.png",
    }
    assert all(written.values())


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    first, second = files_of(corpus.run()), files_of(corpus.run(tmp_path / "again"))
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.usefixtures("blank_pictures")
def test_each_video_is_tested_once_by_the_fold_that_did_not_train_on_it(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    tested = OUT_OF_FOLD.read(corpus.run() / "out_of_fold.csv")
    places = FOLDS.read(tmp_path / "folds.parquet").filter(part="fold")
    assert tested["video_id"].is_unique().all()
    assert set(tested.select("video_id", "fold").rows()) == set(
        places.select("video_id", "fold").rows()
    )
    assert read_json(tmp_path / "evaluation/metrics.json", "")["counts"]["videos"] == tested.height


@pytest.mark.usefixtures("blank_pictures")
def test_locked_rows_change_nothing(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    before = files_of(corpus.run())
    change_logits(corpus, "locked", float("nan"))
    assert files_of(corpus.run()) == before, "the locked test was read"


@pytest.mark.usefixtures("blank_pictures")
def test_training_scores_change_nothing(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    before = files_of(corpus.run())
    change_logits(corpus, "train", 99.0)
    assert files_of(corpus.run()) == before


@pytest.mark.usefixtures("blank_pictures")
def test_test_scores_do_not_change_the_calibration(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    before = (corpus.run() / "calibration.json").read_bytes()
    change_logits(corpus, "test", -3.0)
    assert (corpus.run() / "calibration.json").read_bytes() == before


@pytest.mark.usefixtures("blank_pictures")
def test_a_perfect_network_is_perfect_and_beats_the_probes(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, num_groups=42, score=perfect)
    metrics = read_json(corpus.run() / "metrics.json", "")
    for unit in ("video", "cascade"):
        roc_auc = metrics[unit]["roc_auc"]
        assert (roc_auc["value"], roc_auc["high"]) == (1.0, 1.0)
        assert 0.75 < roc_auc["low"] < 0.85, "twenty groups of a class cannot show more"
        assert metrics[unit]["macro_f1"]["value"] == 1.0
    assert metrics["folds"]["roc_auc"] == {"0": 1.0, "1": 1.0, "2": 1.0, "mean": 1.0, "std": 0.0}
    assert metrics["beats_probes"] is True


def test_a_network_that_always_says_the_same_is_at_chance(tmp_path: Path) -> None:
    metrics = read_json(make_corpus(tmp_path, score=constant).run() / "metrics.json", "")
    assert metrics["folds"]["roc_auc"]["mean"] == 0.5
    assert metrics["beats_probes"] is False
    assert "not shown to beat guessing" in (tmp_path / "evaluation/report.html").read_text()


def test_one_class_is_reported_as_unknown_not_as_a_number(tmp_path: Path) -> None:
    evaluation = make_corpus(tmp_path, only="fake").run()
    metrics = read_json(evaluation / "metrics.json", "")
    assert metrics["video"]["roc_auc"] == {
        "value": None,
        "low": None,
        "high": None,
        "reason": "all videos are fake",
    }
    assert metrics["folds"]["roc_auc"]["std"] is None
    assert metrics["beats_probes"] is False
    assert metrics["counts"]["uncertain"] == metrics["counts"]["videos"]
    assert "all videos are fake" in (evaluation / "report.html").read_text()


def test_a_single_division_has_a_value_and_no_deviation(tmp_path: Path) -> None:
    evaluation = make_single(tmp_path).run()
    metrics = read_json(evaluation / "metrics.json", "")
    tested = OUT_OF_FOLD.read(evaluation / "out_of_fold.csv")
    places = FOLDS.read(tmp_path / "folds.parquet")
    assert sorted(tested["video_id"]) == sorted(places.filter(fold=0)["video_id"])
    pooled = metrics["video"]["roc_auc"]["value"]
    assert metrics["folds"]["roc_auc"] == {"0": pooled, "mean": pooled, "std": None}
    tracked = tracked_metrics(metrics)
    assert tracked["test_over_folds/roc_auc_mean"] == pooled
    assert "test_over_folds/roc_auc_std" not in tracked
    assert np.isfinite(list(tracked.values())).all()
    assert all(probe["roc_auc"]["value"] is not None for probe in metrics["probes"].values())
    assert metrics["probes"]["cascade"]["roc_auc"]["value"] == 0.5
    page = (evaluation / "report.html").read_text()
    assert "training, validation and test" in page
    assert ">nan<" not in page.lower()


@pytest.mark.usefixtures("blank_pictures")
def test_metrics_are_those_of_the_published_rows(tmp_path: Path) -> None:
    evaluation = make_corpus(tmp_path).run()
    metrics = read_json(evaluation / "metrics.json", "")
    tested = OUT_OF_FOLD.read(evaluation / "out_of_fold.csv")
    right = (tested["label"] == tested["called"]).mean()
    assert metrics["video"]["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
    decided = tested.filter(pl.col("verdict") != "uncertain")
    assert metrics["counts"]["uncertain"] == tested.height - decided.height
    curves = pl.read_csv(evaluation / "risk_coverage_by_fold.csv").filter(coverage=1.0)
    wrong = tested.group_by("fold").agg(pl.col("label").ne(pl.col("called")).mean()).sort("fold")
    risk = curves.sort("fold")["selective_risk"].to_list()
    assert risk == pytest.approx(wrong["label"].to_list()), "not of each fold's own test videos"
    counted = tested.group_by("label", "called").len()
    for label, called, count in counted.rows():
        assert metrics["counts"][f"{label}_called_{called}"] == count


@pytest.mark.usefixtures("blank_pictures")
def test_numbers_are_at_the_leaves(tmp_path: Path) -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for inner in value.values() for leaf in leaves(inner)]
        return [value]

    metrics = json.loads((make_corpus(tmp_path).run() / "metrics.json").read_text())
    assert metrics.pop("best_probe") in metrics["probes"]
    for table in (metrics["video"], metrics["cascade"]):
        assert table.pop("ece").keys() == {"value", "low", "high", "reason"}
    assert {type(leaf) for leaf in leaves(metrics)} <= {int, float, bool}


@pytest.mark.usefixtures("blank_pictures")
def test_the_report_says_what_was_rejected_and_what_is_locked(tmp_path: Path) -> None:
    page = (make_corpus(tmp_path).run() / "report.html").read_text()
    assert '<th scope="row">missing</th><td>2</td>' in page
    assert "<td>real</td><td>5</td><td>4 (80%)</td><td>3 (60%)</td>" in page
    assert "locked test, not read here</th><td>3</td><td>2</td><td>1</td><td>2</td>" in page


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("name", ["predictions.parquet", "history.csv"])
def test_a_missing_fold_is_named_with_its_remedy(tmp_path: Path, name: str) -> None:
    corpus = make_corpus(tmp_path)
    (tmp_path / "models/1" / name).unlink()
    with pytest.raises(FvcError, match=rf"models/1/{name}: is missing\. Run 'dvc repro") as caught:
        corpus.run()
    assert not (tmp_path / "evaluation").exists(), f"half-written after: {caught.value}"


@pytest.mark.usefixtures("blank_pictures")
def test_damaged_clips_are_named_with_their_remedy(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    damaged = sorted((tmp_path / "clips").iterdir())[-1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(FvcError, match=rf"{damaged.name}: is damaged\. Delete it and run 'dvc"):
        corpus.run()
    damaged.unlink()
    with pytest.raises(FvcError, match=rf"{damaged.name}: is missing\. Run 'dvc repro clips'"):
        corpus.run()
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.usefixtures("blank_pictures")
def test_predictions_of_another_split_are_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    make_corpus(tmp_path / "other", num_groups=26)
    corpus.predictions(2).write_bytes(
        (tmp_path / "other/models/2/predictions.parquet").read_bytes()
    )
    with pytest.raises(FvcError, match=r"other folds than those of the split. Run .*train@2'"):
        corpus.run()


@pytest.mark.usefixtures("blank_pictures")
def test_an_infinite_logit_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    change_logits(corpus, "test", float("inf"))
    with pytest.raises(FvcError, match="not finite"):
        corpus.run()


@pytest.mark.usefixtures("blank_pictures")
def test_a_video_outside_the_index_is_refused(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    INDEX.write(tmp_path / "index.parquet", INDEX.read(tmp_path / "index.parquet").head(20))
    with pytest.raises(FvcError, match=r"hold different videos\. Run 'dvc repro split'"):
        corpus.run()


@pytest.mark.usefixtures("blank_pictures")
def test_stale_models_of_more_folds_are_not_read(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    before = files_of(corpus.run())
    stale = tmp_path / "models/3"
    stale.mkdir()
    (stale / "predictions.parquet").write_bytes(b"of an earlier, larger K")
    assert files_of(corpus.run()) == before


@pytest.fixture
def filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus with its videos, fakes darker, and networks; two of each fold are perturbed."""
    corpus = make_corpus(tmp_path)
    for video_id, path, label in (
        INDEX.read(tmp_path / "index.parquet").select("video_id", "path", "label").rows()
    ):
        generator = np.random.default_rng(int(video_id[8:]))
        brightest = 100 if label == "fake" else 250
        noise = generator.integers(0, brightest, (10, 32, 48, 3), dtype=np.uint8)
        encode(tmp_path / "videos" / path, list(noise))
    network = small_network().eval()
    monkeypatch.setattr(rescoring, "load_network", lambda _: network)
    chosen = replace(corpus.params.evaluate, robustness_videos=2)
    return replace(corpus, params=replace(corpus.params, evaluate=chosen, clips=CLIPS))


@pytest.mark.usefixtures("blank_pictures")
def test_perturbed_videos_are_scored_and_reported(filmed: Corpus) -> None:
    evaluation = filmed.run()
    found = read_json(evaluation / "robustness.json", "")
    assert (found["chosen"], found["videos"], found["fake"]) == (6, 6, 3)
    assert [effect["version"] for effect in found["effects"]] == ["stored", *version_names()]
    assert pl.read_csv(evaluation / "robustness.csv").height == 1 + len(version_names())
    assert (evaluation / "robustness.png").stat().st_size > 0
    page = (evaluation / "report.html").read_text()
    assert re.search(r"After strong re-compression \(CRF 42\), \d of 6 verdicts change", page)
    tested = OUT_OF_FOLD.read(evaluation / "out_of_fold.csv")
    stored = {effect["version"]: effect for effect in found["effects"]}["stored"]
    assert tested.height > 6, "all videos were perturbed, so none was chosen"
    assert stored["roc_auc"]["value"] is not None


@pytest.mark.usefixtures("blank_pictures")
def test_kept_scores_of_perturbed_videos_give_equal_bytes(
    filmed: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(filmed.run())
    kept = list((filmed.root / "robustness").iterdir())
    assert len(kept) == 6
    nothing: list[object] = []
    monkeypatch.setattr(
        rescoring, "run_isolated", lambda _, items, **__: nothing if not items else 1 / 0
    )
    assert files_of(filmed.run()) == before, "kept scores are not what was scored"


@pytest.mark.usefixtures("blank_pictures")
def test_a_video_that_cannot_be_perturbed_is_reported(filmed: Corpus) -> None:
    filmed.run()
    for path in (filmed.root / "videos").rglob("video.mp4"):
        path.write_bytes(path.read_bytes()[:400])
    rmtree(filmed.root / "robustness")
    found = read_json(filmed.run() / "robustness.json", "")
    assert (found["chosen"], found["videos"], len(found["failures"])) == (6, 0, 6)
    page = (filmed.root / "evaluation/report.html").read_text()
    assert "6 of 6 chosen videos could not be scored" in page


@pytest.mark.usefixtures("blank_pictures")
def test_the_command_tracks_what_it_found_and_rebuilds_missing_runs(
    tmp_path: Path, store: MlflowClient
) -> None:
    make_corpus(tmp_path, num_folds=5, num_groups=24)
    write_json(tmp_path / "clips.json", {"data_sha256": "d" * 64})
    (tmp_path / "params.yaml").write_text(
        re.sub(r"(robustness_videos:) \d+", r"\1 0", (ROOT / "params.yaml").read_text())
    )
    paths = {
        "params": "params.yaml",
        "models": "models",
        "videos": "videos",
        "index": "index.parquet",
        "index-summary": "index.json",
        "rejected": "rejected.csv",
        "clips": "clips",
        "probes": "probes",
        "clips-summary": "clips.json",
        "folds": "folds.parquet",
        "split": "split.json",
        "robustness": "robustness",
        "evaluation": "evaluation",
    }
    flags = [word for flag, name in paths.items() for word in (f"--{flag}", str(tmp_path / name))]
    experiment = experiment_id(store)
    store.delete_experiment(experiment)
    with pytest.raises(FvcError, match="this experiment was deleted"):
        evaluate.main(flags)
    assert not (tmp_path / "evaluation").exists(), "it is refused before the work"
    store.restore_experiment(experiment)
    evaluate.main(flags)
    metrics = read_json(tmp_path / "evaluation/metrics.json", "")
    assert set(metrics["folds"]["roc_auc"]) == {"0", "1", "2", "3", "4", "mean", "std"}
    evaluate.main([*flags, "--only-track"])
    runs = store.search_runs([experiment_id(store)])
    [parent] = [run for run in runs if run.data.tags["fvc.kind"] == "cross-validation"]
    assert len(runs) == 6, "the second call must find the runs of the first"
    assert parent.data.metrics["test/roc_auc"] == metrics["video"]["roc_auc"]["value"]
    assert parent.data.metrics["probes/container_roc_auc"] >= 0
    files = {file.path for file in store.list_artifacts(parent.info.run_id)}
    assert files >= {"report.html", "metrics.json", "roc.png"}
