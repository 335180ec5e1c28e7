"""Two models beside each other, as text for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fvc.evidence.metrics import Estimate
from fvc.evidence.paired import Common, McNemar, Pair
from fvc.report.sections import NAMES

UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that `fvc compare` says of two cross-validations."""

    titles: tuple[str, str]
    """What a reader knows each one by."""
    notes: Sequence[str]
    """Sentences on whether they are of the same data and division."""
    common: Common
    video: Mapping[str, Pair]
    cascade: Mapping[str, Pair]
    mcnemar: McNemar
    params: Mapping[str, tuple[str | None, str | None]]
    """Those that differ; None where a run has none of that name."""
    confidence: float


def as_text(found: Comparison) -> str:
    """The whole comparison, in lines for people."""
    first, second = found.titles
    outcomes = found.common.first
    counts = f"{len(outcomes.is_fake)} videos in {len(set(outcomes.groups.tolist()))} groups"
    head = [f"first   {first}", f"second  {second}", "", f"Both scored {counts}.", *found.notes]
    tables = [
        line
        for unit, pairs in (("video", found.video), ("cascade", found.cascade))
        for line in ["", *_measures(f"per {unit}", pairs, found.confidence)]
    ]
    return "\n".join([*head, *tables, "", *_mcnemar(found.mcnemar), "", *_params(found.params), ""])


def _measures(title: str, pairs: Mapping[str, Pair], confidence: float) -> list[str]:
    header = [title, "first", "second", "second - first", f"{confidence:.0%} interval", ""]
    rows = [
        [
            NAMES[name],
            _number(pairs[name].first.value),
            _number(pairs[name].second.value),
            _number(pairs[name].gain.value, "+.3f"),
            _interval(pairs[name].gain),
            _remark(pairs[name].gain),
        ]
        for name in NAMES
    ]
    return aligned([header, *rows])


def _number(value: float | None, form: str = ".3f") -> str:
    return UNKNOWN if value is None else format(value, form)


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return UNKNOWN
    return f"{found.low:+.3f} to {found.high:+.3f}"


def _remark(gain: Estimate) -> str:
    """Why there is no interval, or that it leaves out 0."""
    if gain.low is None or gain.high is None:
        return gain.reason or ""
    return "differs" if gain.low > 0 or gain.high < 0 else ""


def _mcnemar(found: McNemar) -> list[str]:
    known = f"p = {found.p_value:.3g}" if found.p_value is not None else f"no p: {found.reason}"
    return [
        f"McNemar: {found.only_first_right} videos are called rightly by the first alone, "
        f"{found.only_second_right} by the second alone; {known}.",
        "It takes near-duplicates for independent videos; the intervals do not.",
    ]


def _params(params: Mapping[str, tuple[str | None, str | None]]) -> list[str]:
    if not params:
        return ["Their parameters are equal."]
    rows = [
        [name, *(UNKNOWN if value is None else value for value in values)]
        for name, values in sorted(params.items())
    ]
    return aligned([["parameters that differ", "first", "second"], *rows], numbers=False)


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Rows of equal length in columns; the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.rjust(width) if numbers and 0 < place < last else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
