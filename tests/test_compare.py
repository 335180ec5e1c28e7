import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient
from scipy.special import expit
from source_tree import ROOT

from fvc import tracking
from fvc.__main__ import main
from fvc.config import Params, load_params
from fvc.errors import FvcError
from fvc.evidence.metrics import RAISED_BY_NOISE
from fvc.files import read_json
from fvc.records import OUT_OF_FOLD
from fvc.report.sections import NAMES
from fvc.stages import compare
from fvc.tracking.finished import read_cross_validation
from fvc.tracking.store import experiment_id

PARAMS = load_params(ROOT / "params.yaml")
PARAMS = replace(PARAMS, evaluate=replace(PARAMS.evaluate, bootstrap_samples=100))


def scores(separation: float, *, num_groups: int = 20, first: int = 0) -> pl.DataFrame:
    """Two videos in each group; those of odd groups are fake."""
    rows: list[dict[str, object]] = []
    for number in range(first, first + num_groups):
        for copy in range(2):
            generator = np.random.default_rng([number, copy])
            is_fake = bool(number % 2)
            probability = float(expit(generator.normal(separation * (is_fake - 0.5))))
            called = "fake" if probability >= 0.5 else "real"
            rows.append(
                {
                    "video_id": f"youtube_{number:03}{copy}",
                    "fold": number % 5,
                    "group": f"g{number}",
                    "label": "fake" if is_fake else "real",
                    "probability_fake": probability,
                    "called": called,
                    "verdict": called if abs(probability - 0.5) > 0.1 else "uncertain",
                }
            )
    return OUT_OF_FOLD.frame(rows)


def identity_of(params: Params, data: str = "d") -> tracking.Identity:
    return tracking.Identity(params=params, data_sha256=data * 64, folds_sha256="f" * 64)


def evaluated(folder: Path, table: pl.DataFrame, params: Params = PARAMS, data: str = "d") -> str:
    """The id of a cross-validation that evaluate has completed, with a fold below it."""
    OUT_OF_FOLD.write(folder / "out_of_fold.csv", table)
    fold = tracking.FoldOutputs(
        fold=0, weights_sha256=folder.name * 8, history=[], results={}, files=[]
    )
    identity = identity_of(params, data)
    client = MlflowClient()
    tracking.complete_cross_validation(identity, [fold], {"test/roc_auc": 0.5}, folder, "note")
    return tracking.cross_validation_run(client, identity)


def faster(params: Params) -> Params:
    return replace(params, train=replace(params.train, learning_rate=0.125))


@pytest.fixture
def both(store: MlflowClient, tmp_path: Path) -> tuple[str, str]:
    """A network that guesses, and one that ranks well."""
    weak = evaluated(tmp_path / "weak", scores(0.0))
    strong = evaluated(tmp_path / "strong", scores(6.0), faster(PARAMS))
    store.update_run(strong, name="the strong one")
    return weak, strong


def test_the_better_one_is_told_with_its_interval(
    both: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "compared.json"
    compare.run(PARAMS, both, json=target)
    said = capsys.readouterr().out
    written = read_json(target, "compare")
    gain = written["video"]["roc_auc"]["gain"]
    assert 0 < gain["low"] <= gain["value"] <= gain["high"]
    [line] = [
        line for line in said.splitlines() if line.startswith("ROC-AUC") and "differs" in line
    ][:1]
    assert f"{gain['value']:+.3f}" in line
    assert f"{gain['low']:+.3f} to {gain['high']:+.3f}" in line
    assert "Both scored 40 videos in 20 groups." in said
    assert (written["videos"], written["groups"]) == (40, 20)
    assert written["runs"] == list(both)
    assert set(written["video"]) == set(written["cascade"])
    assert list(written["params"]) == ["train.learning_rate"]
    assert written["params"]["train.learning_rate"][1] == "0.125"
    assert any(line.split()[::2] == ["train.learning_rate", "0.125"] for line in said.splitlines())
    right = scores(0.0).filter(pl.col("called") == pl.col("label"))["video_id"]
    also_right = scores(6.0).filter(pl.col("called") == pl.col("label"))["video_id"]
    assert written["mcnemar"]["only_first_right"] == len(set(right) - set(also_right))
    assert written["mcnemar"]["only_second_right"] == len(set(also_right) - set(right))
    assert 0 <= written["mcnemar"]["p_value"] < 0.05


def test_columns_stand_below_each_other(
    both: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    compare.run(PARAMS, both, json=None)
    blocks = capsys.readouterr().out.split("\n\n")
    [table] = [block.splitlines() for block in blocks if block.startswith("per video")]
    end = table[0].index("second - first") + len("second - first")
    assert len(table) == 1 + len(NAMES)
    assert all(len(row[:end].split()[-1].lstrip("+-")) == 5 for row in table[1:])
    assert max(map(len, table)) <= 100


def test_a_run_against_itself_differs_in_nothing(
    both: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.run(PARAMS, [both[1], "the strong one"], json=tmp_path / "c.json")
    written, said = read_json(tmp_path / "c.json", "compare"), capsys.readouterr().out
    gains = {name: pair["gain"] for name, pair in written["video"].items()}
    assert gains.pop("ece") == {"value": 0.0, "low": None, "high": None, "reason": RAISED_BY_NOISE}
    assert list(gains.values()) == [{"value": 0.0, "low": 0.0, "high": 0.0}] * len(gains)
    assert written["mcnemar"]["p_value"] is None
    assert "no p: no video is called rightly by one model alone" in said
    assert "Their parameters are equal." in said


def test_only_videos_in_common_are_compared(
    both: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = evaluated(tmp_path / "more", scores(6.0, first=8), data="e")
    compare.run(PARAMS, [both[0], more], json=tmp_path / "c.json")
    said = capsys.readouterr().out
    assert "They differ in their videos or labels." in said
    assert "their folds" not in said
    assert "Both scored 24 videos in 12 groups." in said
    assert "Left out: 16 videos that the first alone scored." in said
    apart = evaluated(tmp_path / "apart", scores(6.0, first=100), data="a")
    with pytest.raises(FvcError, match="no video with the same label in common"):
        compare.run(PARAMS, [both[0], apart], json=None)


def test_a_registered_version_stands_for_its_cross_validation(
    both: tuple[str, str], store: MlflowClient, tmp_path: Path
) -> None:
    [fold] = [
        run.info.run_id
        for run in store.search_runs([experiment_id(store)], "tags.`fvc.kind` = 'fold'")
        if run.data.tags["mlflow.parentRunId"] == both[1]
    ]
    store.create_registered_model("fvc")
    store.create_model_version("fvc", tmp_path.as_uri(), run_id=fold)
    store.set_registered_model_alias("fvc", "champion", "1")
    for uri in ("models:/fvc/1", "models:/fvc@champion"):
        assert read_cross_validation(store, uri).run_id == both[1]
    with pytest.raises(FvcError, match="models:/fvc/2: is not in sqlite"):
        read_cross_validation(store, "models:/fvc/2")
    with pytest.raises(
        FvcError, match=f"is the run of fold 0.*Name its cross-validation, {both[1]}"
    ):
        read_cross_validation(store, fold)


def test_an_experiment_of_dvc_is_known_by_its_name(
    store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "handy-yolk")
    run_id = evaluated(tmp_path / "one", scores(1.0))
    store.update_run(run_id, name="handy-yolk train.loss=focal")
    assert read_cross_validation(store, "handy-yolk").run_id == run_id


def test_what_a_project_run_was_told_counts(store: MlflowClient, tmp_path: Path) -> None:
    run_id = evaluated(tmp_path / "one", scores(1.0))
    store.log_param(run_id, "seed_given", "as params.yaml has it")
    store.log_param(run_id, "fvc.seed_given", "7")
    assert read_cross_validation(store, run_id).params["seed_given"] == "7"


@pytest.mark.parametrize("which", ["0" * 32, "nobody", 'it\'s "quoted"', "models:/none/1"])
def test_an_unknown_run_is_named(store: MlflowClient, which: str) -> None:
    experiment_id(store)
    with pytest.raises(FvcError) as caught:
        read_cross_validation(store, which)
    assert caught.value.args[0] == which


def test_a_name_of_two_runs_is_refused(both: tuple[str, str], store: MlflowClient) -> None:
    store.update_run(both[0], name="the strong one")
    with pytest.raises(FvcError, match=r"names 2 runs .*Give the id"):
        read_cross_validation(store, "the strong one")


def test_an_unfinished_or_deleted_run_is_refused(
    both: tuple[str, str], store: MlflowClient
) -> None:
    begun = tracking.cross_validation_run(store, identity_of(PARAMS, "b"))
    with pytest.raises(FvcError, match=r"has no out_of_fold\.csv; its run is RUNNING"):
        read_cross_validation(store, begun)
    other = store.create_run(experiment_id(store)).info.run_id
    with pytest.raises(FvcError, match="is no run of a cross-validation"):
        read_cross_validation(store, other)
    store.delete_run(both[0])
    with pytest.raises(FvcError, match="was deleted"):
        read_cross_validation(store, both[0])


def test_scores_of_another_make_are_refused(store: MlflowClient, tmp_path: Path) -> None:
    run_id = evaluated(tmp_path / "one", scores(1.0))
    (tmp_path / "out_of_fold.csv").write_text("video_id,label\na,real\n")
    store.log_artifact(run_id, str(tmp_path / "out_of_fold.csv"))
    with pytest.raises(FvcError, match=r"its out_of_fold\.csv"):
        read_cross_validation(store, run_id)


def test_the_command_line(
    both: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = ["--params", str(ROOT / "params.yaml")]
    target = tmp_path / "out" / "c.json"
    assert main(["compare", *both, *params, "--json", str(target)]) == 0
    assert capsys.readouterr().out.startswith("first   ")
    compared: Mapping[str, object] = json.loads(target.read_text())
    assert compared["videos"] == 40
    assert main(["compare", both[0], "nobody", *params]) == 1
    assert capsys.readouterr().err.endswith("for the runs that there are.\n")
