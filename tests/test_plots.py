import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from fvc.evidence.fold_outputs import HISTORY_COLUMNS
from fvc.evidence.metrics import Estimate, Outcomes
from fvc.report import plots


def outcomes_of(num_videos: int, seed: int = 0) -> Outcomes:
    generator = np.random.default_rng(seed)
    is_fake = np.arange(num_videos) % 2 == 0
    probability = np.clip(generator.normal(0.4 + 0.2 * is_fake, 0.2), 0, 1)
    return Outcomes(
        is_fake=is_fake,
        probability=probability,
        called_fake=probability >= 0.5,
        decided=np.abs(probability - 0.5) > 0.1,
        groups=np.arange(num_videos),
    )


def history_of(num_epochs: int) -> pl.DataFrame:
    columns = dict.fromkeys(HISTORY_COLUMNS[1:], [0.6] * num_epochs)
    return pl.DataFrame({"epoch": range(1, num_epochs + 1), **columns})


ROWS = [
    ("this model", Estimate(value=0.8, low=0.7, high=0.9)),
    ("a probe", Estimate(value=0.5, reason="there is only one group")),
    ("nothing", Estimate(value=None, reason="all videos are fake")),
]


def every_figure(outcomes: Outcomes, num_epochs: int = 3) -> dict[str, Figure]:
    folds = {0: outcomes, 1: outcomes}
    histories = {0: history_of(num_epochs), 1: history_of(num_epochs)}
    return {
        "confusion": plots.confusion_matrix(np.array([[3, 1], [0, 5]])),
        "roc": plots.roc_curve(outcomes, folds),
        "pr": plots.pr_curve(outcomes, folds),
        "reliability": plots.reliability(outcomes, 10),
        "risk": plots.risk_coverage(outcomes),
        "learning": plots.learning_curves(histories),
        "forest": plots.forest(ROWS, title="Probes", label="ROC-AUC"),
    }


def texts(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([*found, *labels, *(axes.get_title("left") for axes in figure.axes)])


def test_equal_figures_give_equal_bytes(tmp_path: Path) -> None:
    for attempt in ("first", "second"):
        for name, figure in every_figure(outcomes_of(30)).items():
            plots.save(figure, tmp_path / attempt / f"{name}.png")
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name
        assert b"matplotlib" not in path.read_bytes().lower()


@pytest.mark.parametrize("num_videos", [1, 2, 7])
def test_few_videos_of_any_class_can_be_drawn(tmp_path: Path, num_videos: int) -> None:
    outcomes = outcomes_of(num_videos)
    for name, figure in every_figure(outcomes, num_epochs=1).items():
        plots.save(figure, tmp_path / f"{name}.png")


def test_undecided_and_tied_videos_can_be_drawn(tmp_path: Path) -> None:
    tied = Outcomes(
        is_fake=np.array([True, False, True]),
        probability=np.full(3, 0.5),
        called_fake=np.ones(3, dtype=bool),
        decided=np.zeros(3, dtype=bool),
        groups=np.arange(3),
    )
    for name, figure in every_figure(tied).items():
        plots.save(figure, tmp_path / f"{name}.png")


def test_epochs_without_a_score_leave_a_gap(tmp_path: Path) -> None:
    history = history_of(3).with_columns(pl.lit(None, pl.String).alias("validation/roc_auc"))
    plots.save(plots.learning_curves({0: history}), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    figure = plots.forest(ROWS, title="$\\broken$", label="")
    with pytest.raises(ValueError, match="broken"):
        plots.save(figure, tmp_path / "forest.png")
    assert list(tmp_path.iterdir()) == []


def test_equal_figures_give_equal_drawings_without_a_date() -> None:
    first, second = every_figure(outcomes_of(30)), every_figure(outcomes_of(30))
    for name, figure in first.items():
        drawing = plots.drawing(figure)
        assert drawing == plots.drawing(second[name]), name
        assert b"<dc:date>" not in drawing
        assert b"<text" not in drawing, "letters would depend on the reader's fonts"


def test_a_drawing_of_thousands_of_videos_stays_small() -> None:
    assert len(plots.drawing(plots.reliability(outcomes_of(5000), 10))) < 600_000


@pytest.mark.parametrize("name", ["roc", "pr", "reliability", "risk", "learning"])
def test_no_legend_hides_a_curve(name: str) -> None:
    figure = every_figure(outcomes_of(30))[name]
    plots.drawing(figure)
    renderer = figure._get_renderer()  # type: ignore[attr-defined]
    [legend] = figure.legends
    box = legend.get_window_extent(renderer)
    for axes in figure.axes:
        assert axes.get_legend() is None
        assert not box.overlaps(axes.bbox)


def test_epochs_are_counted_from_one_as_the_terminal_does() -> None:
    history = history_of(3).with_columns(epoch=pl.Series([0, 1, 2]))
    for axes in plots.learning_curves({0: history}).axes:
        assert list(np.asarray(axes.lines[0].get_xdata())) == [1, 2, 3]


def test_folds_are_drawn_to_the_same_scale() -> None:
    calm, wild = history_of(3), history_of(3).with_columns(pl.lit(2.0).alias("train/loss"))
    top = plots.highest_loss_of({0: calm, 1: wild})
    assert top == 2.0
    ends = {plots.learning_curves({0: one}, top).axes[0].get_ylim() for one in (calm, wild)}
    assert len(ends) == 1


def test_the_legend_states_the_area_of_each_fold() -> None:
    outcomes = outcomes_of(40)
    area = roc_auc_score(outcomes.is_fake, outcomes.probability)
    shown = texts(plots.roc_curve(outcomes, {3: outcomes}))
    assert f"fold 3 {area:.2f}" in shown
    assert f"all folds {area:.2f}" in shown
    assert f"test {area:.2f}" in texts(plots.roc_curve(outcomes, {}))


def test_the_confusion_matrix_states_counts_and_shares() -> None:
    shown = texts(plots.confusion_matrix(np.array([[3, 1], [0, 0]])))
    assert re.findall(r"(\d+)\n(\d+%) of (\w+)", shown) == [
        ("3", "75%", "real"),
        ("1", "25%", "real"),
        ("0", "0%", "fake"),
        ("0", "0%", "fake"),
    ]


def test_a_figure_is_told_in_words() -> None:
    matrix = plots.confusion_matrix(np.array([[3, 1], [0, 0]]))
    told = "3: 75% of real; 1: 25% of real; 0: 0% of fake; 0: 0% of fake"
    assert plots.words_of(matrix) == f"Confusion matrix. {told}"
    roc = plots.words_of(plots.roc_curve(outcomes_of(30), {}))
    assert re.fullmatch(r"ROC curve\. chance 0\.50; test \d\.\d\d", roc)


def test_the_forest_says_why_a_value_is_missing() -> None:
    shown = texts(plots.forest(ROWS, title="Probes", label="ROC-AUC"))
    assert "all videos are fake" in shown
    assert "0.80" in shown


def test_points_run_from_corner_to_corner() -> None:
    outcomes = outcomes_of(40)
    roc, pr = plots.roc_points(outcomes), plots.pr_points(outcomes)
    assert (roc.row(0), roc.row(-1)) == ((0.0, 0.0), (1.0, 1.0))
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(outcomes.is_fake, outcomes.probability))
    assert pr.row(-1) == (0.0, 1.0)


def test_one_class_has_no_points() -> None:
    fakes = outcomes_of(10).select(outcomes_of(10).is_fake)
    assert plots.roc_points(fakes).shape == (0, 2)
    assert plots.pr_points(fakes).shape == (0, 2)


def test_every_panel_is_a_column_that_folds_are_checked_for() -> None:
    assert {*plots.LOSSES, *plots.SCORES} <= set(HISTORY_COLUMNS)


def test_drawing_keeps_no_global_state() -> None:
    code = "import sys, fvc.report.plots; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "pyplot keeps every figure that is ever made"
