from collections.abc import Mapping

import polars as pl

from fvc.evidence import weighing
from fvc.evidence.excess import Excess
from fvc.evidence.metrics import Estimate
from fvc.evidence.probes import PROBES, Probe
from fvc.evidence.slices import BINS, Slice
from fvc.records import FOLDS, REJECTED
from fvc.report import Section, sections
from fvc.report.wording import MEANINGS, PROBE_MEANINGS

KNOWN = Estimate(value=0.8, low=0.7, high=0.9)
UNKNOWN = Estimate(value=None, reason="all videos are fake")

AVAILABILITY = {
    "youtube": {
        "debunked": {"annotated": 2, "on_disk": 1, "usable": 0},
        "fake": {"annotated": 8, "on_disk": 8, "usable": 6},
        "real": {"annotated": 4, "on_disk": 2, "usable": 1},
    },
    "twitter": {"real": {"annotated": 10, "on_disk": 4, "usable": 3}},
}


def every(found: Estimate) -> dict[str, Estimate]:
    return dict.fromkeys(sections.NAMES, found)


def every_value(value: float) -> dict[str, float | None]:
    return dict.fromkeys(sections.NAMES, value)


CALIBRATED = ("temperature", "threshold", "abstain_low", "abstain_high", "num_real", "num_fake")


def probes_of(value: float | None) -> Mapping[str, Probe]:
    probe = Probe(roc_auc=Estimate(value=value), accuracy=Estimate(value=0.5))
    return dict.fromkeys(PROBES, probe)


def cells(section: Section) -> list[str]:
    return [cell for grid in section.grids for row in grid.rows for cell in row]


def test_what_is_unknown_is_said_with_its_reason() -> None:
    table = sections.measures_section(every(UNKNOWN), every(KNOWN), 0.95)
    assert "unknown: all videos are fake" in cells(table)
    assert "0.800 (0.700 to 0.900)" in cells(table)


def test_every_measure_and_every_probe_is_explained() -> None:
    assert set(MEANINGS) == set(sections.NAMES)
    table = sections.measures_section(every(KNOWN), every(KNOWN), 0.95).grids[0]
    assert set(table.meanings) == {row[0] for row in table.rows}
    assert set(PROBE_MEANINGS) == set(PROBES)


def test_it_is_said_at_which_threshold_videos_were_called() -> None:
    calibration = dict.fromkeys(CALIBRATED, 0.5)
    section = sections.folds_section({0: every_value(0.5)}, {0: calibration}, [])
    assert "at the fold's own threshold" in section.grids[0].caption
    assert "MLflow gives test/accuracy and test/macro_f1 at a probability of 0.5" in "".join(
        section.text
    )


def test_runs_are_found_by_their_weights_and_not_by_an_id() -> None:
    section = sections.runs_section({0: "a" * 64, 3: "b" * 64})
    assert section.grids[0].rows == [("fold 0", "a" * 64), ("fold 3", "b" * 64)]
    assert section.grids[0].ends_in_code
    assert "tags.`fvc.weights_sha256` =" in section.text[0]


def test_data_are_counted_by_part_and_rejected_by_reason() -> None:
    places = FOLDS.frame(
        [
            {
                "video_id": f"v{row}",
                "group": f"g{row // 2}",
                "label": "fake" if row else "real",
                "part": "fold",
                "fold": 0,
                "validates": [],
            }
            for row in range(5)
        ]
    )
    reasons = ["empty", "not_annotated", "not_annotated"]
    rejected = pl.DataFrame({"reason": reasons, "video_id": "v", "path": "p", "detail": "d"})
    section = sections.data_section(
        places,
        rejected.select(list(REJECTED.columns)),
        {"groups": 4, "real": 5, "fake": 6},
        AVAILABILITY,
    )
    usable, _, refused = section.grids
    assert usable.rows[0][1:] == ("5", "3", "1", "4")
    assert usable.rows[1][1:] == ("11", "4", "5", "6")
    assert refused.rows == [("not annotated", "2"), ("empty", "1"), ("total", "3")]


def test_a_single_division_is_called_so() -> None:
    row = {"video_id": "v", "group": "g", "label": "fake", "part": "fold", "validates": []}
    places = FOLDS.frame([{**row, "fold": None}])
    counts = {"groups": 0, "real": 0, "fake": 0}
    section = sections.data_section(places, REJECTED.frame([]), counts, AVAILABILITY)
    assert section.grids[0].rows[0][0] == "training, validation and test"


def test_nothing_rejected_needs_no_table() -> None:
    places, rejected = FOLDS.frame([]), REJECTED.frame([])
    section = sections.data_section(places, rejected, {"groups": 0, "real": 0, "fake": 0}, {})
    assert [grid.caption for grid in section.grids] == [
        "Usable videos",
        "Annotated, on disk and usable",
    ]


def test_availability_is_counted_by_platform_and_label() -> None:
    assert sections.availability_grid(AVAILABILITY).rows == [
        ("twitter", "real", "10", "4 (40%)", "3 (30%)"),
        ("twitter", "all", "10", "4 (40%)", "3 (30%)"),
        ("youtube", "real", "4", "2 (50%)", "1 (25%)"),
        ("youtube", "fake", "8", "8 (100%)", "6 (75%)"),
        ("youtube", "debunked", "2", "1 (50%)", "0 (0%)"),
        ("youtube", "all", "14", "11 (79%)", "7 (50%)"),
        ("all", "all", "24", "15 (62%)", "10 (42%)"),
    ]


def test_the_report_says_that_the_usable_are_no_random_sample() -> None:
    places, rejected = FOLDS.frame([]), REJECTED.frame([])
    locked = {"groups": 0, "real": 0, "fake": 0}
    section = sections.data_section(places, rejected, locked, AVAILABILITY)
    assert "unevenly: what is usable is no random sample" in " ".join(section.text)


def test_folds_have_mean_and_deviation_and_one_fold_has_not() -> None:
    measured = {0: dict.fromkeys(sections.NAMES, 0.5), 1: dict.fromkeys(sections.NAMES, 0.7)}
    calibration = {
        "temperature": 1.5,
        "threshold": 0.5,
        "abstain_low": 0.4,
        "abstain_high": 0.6,
        "num_real": 3,
        "num_fake": 4,
    }
    alone = sections.folds_section({0: measured[0]}, {0: calibration}, [])
    assert alone.grids[0].header == ("measure", "fold 0")
    assert alone.grids[0].rows[0] == ("ROC-AUC", "0.500")
    section = sections.folds_section(measured, {0: calibration}, [])
    assert section.grids[0].rows[0] == ("ROC-AUC", "0.500", "0.700", "0.600", "0.141")
    learned = section.grids[1].rows[0]
    assert learned == ("fold 0", "1.50", "0.400", "0.500", "0.600", "3 videos", "4 videos")


def test_spread_needs_two_values() -> None:
    assert weighing.spread([None, 0.5]) == (0.5, None)
    assert weighing.spread([None]) == (None, None)


def test_every_probe_and_every_slice_has_its_row() -> None:
    probes = sections.probes_section(probes_of(0.5), every(KNOWN))
    assert {row[0] for row in probes.grids[0].rows} == {"this model", *PROBES.values()}
    slices = [
        Slice(
            by=by,
            name="one",
            num_videos=9,
            num_groups=3,
            num_fake=4,
            roc_auc=KNOWN,
            accuracy=KNOWN,
            excess=Excess(reason="no others"),
        )
        for by in sections.PROPERTIES
    ]
    found = sections.slices_section(slices)
    assert [grid.rows[0][:4] for grid in found.grids] == [("one", "9", "3", "4")] * 8
    assert all(len(grid.spans) == len(grid.rows) for grid in found.grids)
    assert set(BINS) <= set(sections.PROPERTIES)


def test_the_limits_name_what_pixels_cannot_see() -> None:
    assert "pixels cannot see that" in " ".join(sections.limits_section().text)
