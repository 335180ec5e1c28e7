"""What the report says: from estimates, probes and slices to sections of text and tables."""

from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from fvc.evidence.metrics import Estimate
from fvc.evidence.probes import PROBES, Probe
from fvc.evidence.slices import Slice
from fvc.evidence.weighing import spread
from fvc.report import Grid, Picture, Section
from fvc.report.wording import (
    CALIBRATION_TERMS,
    MEANINGS,
    PROBE_MEANINGS,
    estimate_text,
    span_of,
    value_text,
)

NAMES = {
    "roc_auc": "ROC-AUC",
    "pr_auc": "PR-AUC",
    "eer": "equal error rate",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "macro_precision": "macro precision",
    "precision_real": "precision, real",
    "recall_real": "recall, real",
    "f1_real": "F1, real",
    "precision_fake": "precision, fake",
    "recall_fake": "recall, fake",
    "f1_fake": "F1, fake",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "coverage": "videos with a verdict",
    "decided_accuracy": "accuracy of these verdicts",
}
"""The measures as a reader sees them, in the order of the tables."""

PROBES_SEE = (
    "A probe is a simple classifier that sees one shortcut. Probes are fitted and tested on the "
    "same folds as the model, with intervals from the same resamples.",
    "A model that is not above all of them has not been shown to see more than a shortcut. The "
    "cascade lookup has to be at chance, else folds share cascades; the label shuffle, trained "
    "on the header with labels in random order, shows what chance looks like here.",
)

PROPERTIES = {
    "platform": "Platform",
    "subset": "Subset",
    "resolution": "Shorter side as displayed",
    "duration": "Duration",
    "codec": "Codec",
    "bitrate": "Bitrate",
    "raw_label": "Label as annotated",
    "cascade_size": "Videos in the cascade",
}

LABELS = ("real", "fake")
"""In this order, and before all others."""

Availability = Mapping[str, Mapping[str, Mapping[str, int]]]
"""By platform and label: the videos `annotated`, of these `on_disk`, and of these `usable`."""

LIMITS = (
    "Many fakes are authentic footage with a false claim; pixels cannot see that. A verdict "
    "of real says that no trace of manipulation was found, not that the claim is true.",
    "What is new since training, a camera, a codec, a way to make fakes, may be judged with "
    "confidence and wrongly. The slices show where there was little to learn from.",
    "Every number here is of videos that the network was not trained on, nor on near-duplicates "
    "of theirs as far as the audit finds them. The locked test is not in this report: it is scored "
    "once, when a model is registered.",
)


def data_section(
    places: pl.DataFrame,
    rejected: pl.DataFrame,
    locked: Mapping[str, int],
    availability: Availability,
) -> Section:
    """What there was to learn from.

    Args:
        places: Rows of FOLDS outside the locked test.
        rejected: The REJECTED table.
        locked: Groups, real and fake videos of the locked test, as split counted them.
        availability: As index counted it.
    """
    grids = [parts_grid(places, locked), availability_grid(availability)]
    reasons = Counter(rejected["reason"].to_list())
    if reasons:
        ordered = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
        counts = [(reason.replace("_", " "), str(reasons[reason])) for reason in ordered]
        counts.append(("total", str(rejected.height)))
        caption = "Rejected files and annotations"
        grids.append(Grid(caption=caption, header=("reason", "count"), rows=counts))
    text = [
        "A cascade is a group of near-duplicates. Dividing one between parts is what the audit "
        "calls a leak.",
        "The platforms delete videos, and unevenly: what is usable is no random sample of what "
        "was annotated, and what is measured on it need not hold for the rest. Of other labels "
        "than real and fake nothing is usable.",
    ]
    return Section(title="Data", text=text, grids=grids)


def parts_grid(places: pl.DataFrame, locked: Mapping[str, int]) -> Grid:
    """How many videos and cascades of either label there are, in and outside the locked test."""
    num_fake, num_groups = places.filter(label="fake").height, places["group"].n_unique()
    single = places["fold"].null_count() > 0
    divided = "training, validation and test" if single else "cross-validation"
    num_locked = locked["real"] + locked["fake"]
    parts = {
        divided: (places.height, num_groups, places.height - num_fake, num_fake),
        "locked test, not read here": (
            *(num_locked, locked["groups"]),
            *(locked["real"], locked["fake"]),
        ),
    }
    rows = [(name, *map(str, numbers)) for name, numbers in parts.items()]
    header = ("", "videos", "cascades", "real", "fake")
    return Grid(caption="Usable videos", header=header, rows=rows)


def availability_grid(availability: Availability) -> Grid:
    """What is annotated, on disk and usable, with a total for each platform and for all."""
    rows: list[tuple[str, ...]] = []
    totals = []
    for platform in sorted(availability):
        by_label = availability[platform]
        total: Counter[str] = Counter()
        for label in sorted(by_label, key=_rank):
            total.update(by_label[label])
            rows.append((platform, label, *_shares(by_label[label])))
        totals.append(total)
        rows.append((platform, "all", *_shares(total)))
    rows.append(("all", "all", *_shares(sum(totals, Counter()))))
    header = ("platform", "label", "annotated", "on disk", "usable")
    return Grid(caption="Annotated, on disk and usable", header=header, rows=rows)


def _rank(label: str) -> tuple[int, str]:
    return (LABELS.index(label) if label in LABELS else len(LABELS)), label


def _shares(counts: Mapping[str, int]) -> list[str]:
    annotated = counts["annotated"]
    share = {name: counts[name] / max(annotated, 1) for name in ("on_disk", "usable")}
    return [str(annotated), *(f"{counts[name]} ({share[name]:.0%})" for name in share)]


def measures_section(
    video: Mapping[str, Estimate], cascade: Mapping[str, Estimate], confidence: float
) -> Section:
    """Every measure, both ways of counting."""
    rows = [
        (label, estimate_text(video[name]), estimate_text(cascade[name]))
        for name, label in NAMES.items()
    ]
    text = (
        "A video is scored by the network of the fold that tests its cascade. In brackets "
        f"the {confidence:.0%} interval of a bootstrap over cascades. Temperature, threshold and "
        "abstention band of each fold come from its validation videos."
    )
    meanings = {label: MEANINGS[name] for name, label in NAMES.items()}
    header = ("measure", "per video", "per cascade")
    grid = Grid(caption="", header=header, rows=rows, meanings=meanings)
    return Section(title="All measures", text=[text], terms=CALIBRATION_TERMS, grids=[grid])


def folds_section(
    measured: Mapping[int, Mapping[str, float | None]],
    calibrations: Mapping[int, Mapping[str, float]],
    pictures: Sequence[Picture],
) -> Section:
    """Each fold's measures with mean and standard deviation, and its calibration's fields."""
    several = len(measured) > 1
    rows = []
    for name, label in NAMES.items():
        values = [found[name] for found in measured.values()]
        cells = (*values, *spread(values)) if several else values
        rows.append((label, *map(value_text, cells)))
    summary = ("mean", "deviation") if several else ()
    header = ("measure", *(f"fold {fold}" for fold in measured), *summary)
    results = Grid(
        caption="The test videos of each fold, called at the fold's own threshold",
        header=header,
        rows=rows,
    )
    learned = Grid(
        caption="Learned from the validation videos of each fold",
        header=("", "temperature", "real below", "threshold", "fake above", "real", "fake"),
        rows=[
            (
                f"fold {fold}",
                f"{found['temperature']:.2f}",
                value_text(found["abstain_low"]),
                value_text(found["threshold"]),
                value_text(found["abstain_high"]),
                f"{found['num_real']} videos",
                f"{found['num_fake']} videos",
            )
            for fold, found in calibrations.items()
        ],
    )
    return Section(
        title="Folds",
        text=[
            "How much the result depends on which cascades are tested"
            + (". " if several else ", one division does not tell. ")
            + "Between the two ends of its band a fold answers uncertain; with 0 as lower end "
            "it never answers real, with 1 as upper end never fake.",
            "The run of a fold in MLflow gives test/accuracy and test/macro_f1 at a probability of "
            "0.5, before calibration, so that all networks are called alike; the table may differ.",
        ],
        pictures=pictures,
        grids=[results, learned],
    )


def probes_section(probes: Mapping[str, Probe], model: Mapping[str, Estimate]) -> Section:
    """The model beside classifiers that see a shortcut each."""
    rows = [("this model", estimate_text(model["roc_auc"]), estimate_text(model["accuracy"]))]
    for name, label in PROBES.items():
        probe = probes[name]
        rows.append((label, estimate_text(probe.roc_auc), estimate_text(probe.accuracy)))
    header = ("", "ROC-AUC", "accuracy")
    meanings = {PROBES[name]: meaning for name, meaning in PROBE_MEANINGS.items()}
    grids = [Grid(caption="", header=header, rows=rows, meanings=meanings)]
    return Section(title="Probes", text=PROBES_SEE, grids=grids)


def slices_section(slices: Sequence[Slice]) -> Section:
    """The model on parts of the corpus; where it is worse than elsewhere comes first."""
    header = ("", "videos", "cascades", "fake", "ROC-AUC", "accuracy", "errors beyond the rest")
    grids = []
    for by, caption in PROPERTIES.items():
        parts = [part for part in slices if part.by == by]
        rows = [
            (
                part.name,
                str(part.num_videos),
                str(part.num_groups),
                str(part.num_fake),
                estimate_text(part.roc_auc),
                estimate_text(part.accuracy),
                _excess(part),
            )
            for part in parts
        ]
        spans = [span_of(part.roc_auc) for part in parts]
        grids.append(
            Grid(caption=caption, header=header, rows=rows, spans=spans, spans_title="ROC-AUC")
        )
    text = [
        _worse_slices(slices),
        "Errors beyond the rest are the share of wrong calls in a slice less that among all other "
        "videos. Whether chance explains them is tested by cascade, and p is corrected for the "
        "number of slices (Holm). Where there was no test, the reason stands instead. That "
        "nothing is shown of a small slice says little: its interval is wide.",
    ]
    return Section(title="Slices", text=text, grids=grids)


def _excess(part: Slice) -> str:
    excess = part.excess
    if excess.error is None or excess.corrected is None:
        return excess.reason or ""
    # A line may not end after the p.
    tested = f"{excess.error:+.3f} (p\u00a0{excess.corrected:.3f})"
    return f"worse: {tested}" if excess.worse else tested


def _worse_slices(slices: Sequence[Slice]) -> str:
    tested = sum(part.excess.corrected is not None for part in slices)
    worse = [part for part in slices if part.excess.worse]
    if not tested:
        return "No slice could be tested: each, or its rest, has too few cascades or errors."
    counted = f"{tested} of {len(slices)} slices could be tested"
    if not worse:
        return f"No slice is shown to be worse than the rest; {counted}."
    named = "; ".join(
        f"{PROPERTIES[part.by].lower()} {part.name} ({part.excess.error:+.3f})" for part in worse
    )
    return f"The model is wrong more often than elsewhere on: {named}. {counted}."


def runs_section(weights: Mapping[int, str]) -> Section:
    """Where each fold's training is recorded, by the SHA-256 of its weights.

    The page is the same whatever store it was tracked in, so it holds no run's id.
    """
    text = (
        "The weights of a fold name the run that trained it. In the search box above MLflow's "
        "list of runs: tags.`fvc.weights_sha256` = 'SHA-256'. The copy of this page that MLflow "
        "keeps links to the runs (inside MLflow, hold Ctrl or Cmd and click); so does the "
        "description of its run."
    )
    rows = [(f"fold {fold}", digest) for fold, digest in weights.items()]
    grid = Grid(caption="", header=("", "SHA-256"), rows=rows, ends_in_code=True)
    return Section(title="Runs in MLflow", text=[text], grids=[grid])


def limits_section() -> Section:
    """What no number here can say."""
    return Section(title="Limits", text=LIMITS)
