"""Many networks in one table: what it says of made cross-validations, and what it refuses."""

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import ABSENT, BROWSER, browse
from finishing import NUM_VIDEOS, PARAMS, finished, logits_of, table_of
from mlflow.tracking import MlflowClient
from registering import one_layer
from source_tree import ROOT

from fvc.__main__ import main
from fvc.ensembles import ensemble_of
from fvc.errors import FvcError
from fvc.evidence.shelf import standings
from fvc.files import read_json
from fvc.pricing import network_of
from fvc.stages import compare
from fvc.tracking.finished import read_cross_validation
from fvc.tracking.store import find_runs


def tabulated(
    folder: Path, names: Sequence[str], ensembles: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """The members of the table of these, by their names."""
    target = folder / "table.json"
    compare.tabulate(PARAMS, names, ensembles, markdown=None, html=None, json=target)
    return {member["name"]: member for member in read_json(target, "compare")["members"]}


@pytest.fixture(autouse=True)
def _one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features of one convolution, whose numbers can be counted by hand."""
    monkeypatch.setattr("fvc.networks.build_features", one_layer)


@pytest.fixture
def three(store: MlflowClient, tmp_path: Path) -> list[str]:
    """A network that guesses, one that ranks well, and one that ranks the other way round."""
    del store
    good = logits_of(6.0, seed=1)
    history = [
        {"epoch": epoch, "train/clips_per_s": speed, "train/memory_mib": 100.0 * speed}
        for epoch, speed in enumerate((2.0, 4.0, 6.0))
    ]
    return [
        finished(tmp_path, "guessing", logits_of(0.0, seed=0)),
        finished(tmp_path, "good", good, history=history),
        finished(tmp_path, "inverted", [-logit for logit in good]),
    ]


@pytest.mark.usefixtures("three")
def test_each_row_says_what_its_scores_say(tmp_path: Path) -> None:
    members = tabulated(tmp_path, ["guessing", "good", "inverted"])
    assert list(members) == ["r3d_18, guessing", "r3d_18, good", "r3d_18, inverted"]
    guessing, good, inverted = members.values()
    labels = np.arange(NUM_VIDEOS) % 2
    for member, logits in ((guessing, logits_of(0.0, 0)), (good, logits_of(6.0, 1))):
        scores = np.array(logits)
        pairs = scores[labels == 1][:, None] > scores[labels == 0][None]
        known = member["video"]["roc_auc"]["second"]["value"]
        assert known == pytest.approx(pairs.mean(), abs=1e-6)
    auc = good["video"]["roc_auc"]
    assert auc["gain"]["value"] == pytest.approx(
        auc["second"]["value"] - guessing["video"]["roc_auc"]["second"]["value"], abs=2e-6
    )
    assert auc["first"] == guessing["video"]["roc_auc"]["second"]
    assert auc["gain"]["low"] > 0
    assert inverted["video"]["roc_auc"]["gain"]["high"] < 0
    assert good["cascade"]["roc_auc"]["second"]["low"] < auc["second"]["value"]
    assert guessing["p_value_corrected"] is None
    raw = {name: members[name]["video"]["roc_auc"]["p_value"] for name in list(members)[1:]}
    ordered = sorted(raw, key=lambda name: raw[name])
    smallest = members[ordered[0]]["p_value_corrected"]
    assert smallest == pytest.approx(min(2 * raw[ordered[0]], 1), abs=2e-6), "Holm doubles it"
    assert smallest < 0.05


@pytest.mark.usefixtures("three")
def test_costs_are_counted_and_those_of_training_are_read(tmp_path: Path) -> None:
    guessing, good = tabulated(tmp_path, ["guessing", "good"]).values()
    # 512 filters of 3 x 3 x 3 over 3 colours with a bias, and the last layer.
    filters = 512 * 3 * 27
    counted = filters + 512 + 512 + 1
    assert guessing["price"]["parameters"] == good["price"]["parameters"] == counted
    assert guessing["price"]["gmacs"] == pytest.approx(filters * 2 * 14 * 14 / 1e9)
    assert guessing["price"]["latency_ms"] > 0
    assert guessing["clips"] == "4 x 16 px"
    assert guessing["price"]["clips_per_s"] is None, "nobody measured it"
    assert not guessing["price"]["memory_is_peak"]
    assert guessing["price"]["memory_mib"] == pytest.approx((counted + 6) * 4 / 2**20)
    assert good["price"]["clips_per_s"] == 4.0, "the median over folds and epochs"
    assert (good["price"]["memory_mib"], good["price"]["memory_is_peak"]) == (600.0, True)


def test_the_same_members_have_one_run_with_the_table(
    three: list[str], store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", *three, "--params", str(ROOT / "params.yaml")]
    page, text = tmp_path / "out" / "t.html", tmp_path / "out" / "t.md"
    assert main([*command, "--html", str(page), "--markdown", str(text)]) == 0
    assert main(command) == 0
    printed = capsys.readouterr().out
    runs = find_runs(store, {"fvc.kind": "comparison"})
    assert len(runs) == 1, "the same command made another run"
    [run] = runs
    assert run.info.status == "FINISHED"
    assert run.info.experiment_id == store.get_run(three[0]).info.experiment_id
    assert run.data.tags["fvc.members"].split() == three
    kept = {file.path for file in store.list_artifacts(run.info.run_id)}
    assert kept == {"comparison.html", "comparison.json", "comparison.md"}
    assert "r3d_18, good is better" in page.read_text()
    assert run.data.tags["mlflow.note.content"].count("| r3d_18, ") == 3
    rows = [line for line in text.read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert len({row.count("|") for row in rows}) == 1, "a row has another number of cells"
    assert printed.count("r3d_18, inverted is worse than") == 2
    other = tmp_path / "other.json"
    assert main(["compare", *three[:2], "--table", "--json", str(other), *command[4:]]) == 0
    assert len(json.loads(other.read_text())["members"]) == 2
    assert len(find_runs(store, {"fvc.kind": "comparison"})) == 2


@pytest.mark.usefixtures("three")
def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "table.html"
    compare.tabulate(PARAMS, ["guessing", "good"], [], markdown=None, html=page, json=None)
    text = page.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)|url\(|@import|<script""", text)
    assert "default-src 'none'" in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=ABSENT)
@pytest.mark.usefixtures("three")
def test_the_page_fits_on_a_phone(tmp_path: Path) -> None:
    page, opened = tmp_path / "table.html", tmp_path / "opened"
    opened.mkdir()
    names = ["guessing", "good", "inverted"]
    compare.tabulate(PARAMS, names, [], markdown=None, html=page, json=None)
    seen = browse(page.read_text(), opened)
    assert seen.measured.startswith("too wide by 0 ")
    assert seen.console == []
    assert seen.asked == ["/frame.html", "/report.html"]


def test_a_member_of_another_test_is_named(three: list[str], tmp_path: Path) -> None:
    finished(tmp_path, "elsewhere", logits_of(1.0, 3), folds="e")
    with pytest.raises(FvcError, match=r"elsewhere: was tested with other folds than guessing"):
        tabulated(tmp_path, [three[0], "elsewhere"])
    finished(tmp_path, "fewer", logits_of(1.0, 3)[:-2])
    with pytest.raises(FvcError, match=r"fewer: was tested with other videos or folds"):
        tabulated(tmp_path, [three[0], "fewer"])
    with pytest.raises(FvcError, match="name a cross-validation twice"):
        tabulated(tmp_path, [three[0], "good", "guessing"])


@pytest.mark.usefixtures("three")
def test_opposite_members_say_nothing_together_and_perfect_ones_stay_perfect(
    tmp_path: Path,
) -> None:
    sure = [3.0 * (1 if number % 2 else -1) * (1 + number / 40) for number in range(NUM_VIDEOS)]
    finished(tmp_path, "perfect", sure)
    finished(tmp_path, "too", [2 * logit for logit in sure])
    members = tabulated(tmp_path, ["guessing", "good", "inverted", "perfect", "too"], [
        "good,inverted",
        "perfect,too",
    ])  # fmt: skip
    nothing = members["r3d_18, good + r3d_18, inverted"]["video"]["roc_auc"]["second"]
    assert nothing["value"] == 0.5, "every video has the same score: a tie"
    perfect = members["r3d_18, perfect + r3d_18, too"]["video"]
    assert perfect["roc_auc"]["second"]["value"] == 1.0
    assert perfect["macro_f1"]["second"]["value"] == 1.0
    both, one = members["r3d_18, perfect + r3d_18, too"], members["r3d_18, perfect"]
    assert both["price"]["parameters"] == 2 * one["price"]["parameters"]
    assert len(both["runs"]) == 2


def test_a_member_that_is_too_sure_speaks_no_louder(store: MlflowClient, tmp_path: Path) -> None:
    """Ten times the logits under ten times the temperature are the same calibrated logits."""
    calm, other = logits_of(2.0, 5), logits_of(2.0, 6)
    finished(tmp_path, "calm", calm)
    finished(tmp_path, "loud", [10 * logit for logit in calm], temperature=10.0)
    finished(tmp_path, "other", other)
    members = tabulated(tmp_path, ["calm", "loud", "other"], ["calm,other", "loud,other"])
    with_calm, with_loud = (members[f"r3d_18, {name} + r3d_18, other"] for name in ("calm", "loud"))
    assert with_calm["video"]["roc_auc"]["second"] == with_loud["video"]["roc_auc"]["second"]
    runs = [read_cross_validation(store, name) for name in ("loud", "other")]
    mean = (np.array(calm) + np.array(other)) / 2
    for fold, found in ensemble_of(runs, PARAMS.evaluate).items():
        tested = {f"youtube_{n:02}": mean[n] for n in range(NUM_VIDEOS) if n // 2 % 2 == fold}
        assert dict(found.tested.select("video_id", "logit").rows()) == pytest.approx(tested)


@pytest.mark.usefixtures("three")
def test_an_ensemble_of_others_is_refused(tmp_path: Path) -> None:
    refused = {
        "good,nobody": "nobody: is 0 of the cross-validations",
        "r3d_18,good": "r3d_18: is 3 of the cross-validations",
        "good,good": "is no ensemble",
        "good": "is no ensemble",
    }
    for ensemble, said in refused.items():
        with pytest.raises(FvcError, match=said):
            tabulated(tmp_path, ["guessing", "good", "inverted"], [ensemble])


def test_a_network_of_another_version_is_named(three: list[str], store: MlflowClient) -> None:
    run = read_cross_validation(store, three[0])
    params = {name: value for name, value in run.params.items() if name != "model.head"}
    with pytest.raises(FvcError, match=r"guessing: its network is of another version.*model.head"):
        network_of(replace(run, params=params))


def test_networks_are_called_by_their_names_where_these_tell_them_apart(
    three: list[str], store: MlflowClient
) -> None:
    runs = [read_cross_validation(store, which) for which in three]
    other = replace(runs[1], tags={**runs[1].tags, "fvc.network": "mc3_18"})
    assert list(compare.names_of([runs[0], other]).values()) == ["r3d_18", "mc3_18"]
    alike = replace(runs[1], name=runs[0].name)
    assert list(compare.names_of([runs[0], alike]).values()) == [
        f"r3d_18, {run.run_id}" for run in runs[:2]
    ]


def test_equal_networks_do_not_differ() -> None:
    """Ties in every score, and a member that is the first one again."""
    tied = table_of([0.0] * NUM_VIDEOS)
    first, same, other = standings(
        [tied, tied, table_of(logits_of(4.0, 1))], PARAMS.evaluate, PARAMS.seed
    )
    assert first.corrected is None
    assert same.video["roc_auc"].gain.value == 0
    assert same.corrected == 1.0
    assert other.corrected is not None
    assert other.differs(0.95)
    assert not same.differs(0.95)


def test_an_experiment_that_dvc_did_not_run_again_is_known_by_its_parameters(
    three: list[str], store: MlflowClient, tmp_path: Path
) -> None:
    """Its commit is below refs/exps, its results came out of DVC's cache."""

    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", *author, *arguments], cwd=tmp_path, capture_output=True, check=True, text=True
        )
        return done.stdout.strip()

    committed = (ROOT / "params.yaml").read_text()
    rate = read_cross_validation(store, three[1]).params["train.learning_rate"]
    changed = {
        "  num_frames: 8": "  num_frames: 4",
        "  head: inception": "  head: linear",
        "  side_px: 64": "  side_px: 16",
        "  learning_rate: 0.0001": f"  learning_rate: {float(rate):.7f}",
    }
    for before, after in changed.items():
        assert before in committed
        committed = committed.replace(before, after)
    committed = re.sub(r"  folds:\n(  - \d\n)+", "  folds: [0, 1]\n", committed)
    (tmp_path / "params.yaml").write_text(committed)
    git("init", "--quiet")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message", "an experiment")
    git("update-ref", "refs/exps/ab/cdef/shelf-good", "HEAD")
    assert read_cross_validation(store, "shelf-good").run_id == three[1]
    with pytest.raises(FvcError, match="names no run"):
        read_cross_validation(store, "shelf-bad")
