"""Many networks in one table: for a terminal, as Markdown, and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fvc.evidence.metrics import Estimate
from fvc.evidence.shelf import TESTED, Standing
from fvc.report import Grid, Headline, Section, render
from fvc.report.comparison import aligned
from fvc.report.wording import MEANINGS, estimate_text, interval_text, span_of, value_text

MIB_PER_GIB = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What a member takes."""

    parameters: int
    gmacs: float
    """Multiply-adds of one clip, in 1e9."""
    latency_ms: float
    """Of one clip on `Shelf.place`."""
    clips_per_s: float | None
    """In training, where that ran; None where nobody measured it."""
    memory_mib: float
    """The peak of its training; without `memory_is_peak` the size of its weights."""
    memory_is_peak: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A row of the table."""

    name: str
    runs: Sequence[str]
    """The ids of the cross-validations behind it."""
    sees: str
    """The clips that it takes, in words."""
    standing: Standing
    price: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """The whole comparison; the first member is what the others are held against."""

    members: Sequence[Member]
    num_videos: int
    num_groups: int
    confidence: float
    place: str
    """Where latencies were measured."""
    made: str
    """When, and with which versions."""


def table_of(shelf: Shelf) -> list[list[str]]:
    """The header and a row for each member."""
    first = shelf.members[0].name
    header = ["network", "clips", "ROC-AUC per video", "ROC-AUC per cascade", "macro-F1"]
    header += [f"ROC-AUC less that of {first}", "p, corrected", "parameters", "GMACs a clip"]
    header += ["clips/s in training", "ms a clip", "memory"]
    return [header, *([*_merits(shelf, member), *_costs(member)] for member in shelf.members)]


def _merits(shelf: Shelf, member: Member) -> list[str]:
    video, cascade = member.standing.video, member.standing.cascade
    return [
        member.name,
        member.sees,
        estimate_text(video["roc_auc"].second),
        estimate_text(cascade["roc_auc"].second),
        estimate_text(video["macro_f1"].second),
        *_difference(shelf, member),
    ]


def _difference(shelf: Shelf, member: Member) -> list[str]:
    if member is shelf.members[0]:
        return ["", ""]
    p_value = member.standing.corrected
    gain = signed_text(member.standing.video[TESTED].gain)
    if p_value is None:
        return [gain, ""]
    return [gain, f"{p_value:.3f}" if p_value >= 0.001 else "below 0.001"]


def signed_text(gain: Estimate) -> str:
    """A difference with its interval, or why there is none."""
    if gain.value is None or gain.low is None or gain.high is None:
        return f"unknown: {gain.reason}"
    return f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _costs(member: Member) -> list[str]:
    price = member.price
    memory = f"{price.memory_mib / MIB_PER_GIB:.2f} GiB"
    return [
        f"{price.parameters / 1e6:.1f} M",
        f"{price.gmacs:.2f}",
        "unknown" if price.clips_per_s is None else f"{price.clips_per_s:.3g}",
        f"{price.latency_ms:.1f}",
        memory if price.memory_is_peak else f"{memory} of weights",
    ]


def statement_of(shelf: Shelf) -> str:
    """Who is better than the first, in a sentence that promises no more than was shown."""
    first, *others = shelf.members
    told = [member for member in others if member.standing.differs(shelf.confidence)]
    better = [member.name for member in told if _gain(member) > 0]
    worse = [member.name for member in told if _gain(member) < 0]
    if not better and not worse:
        return f"No network is shown to be better or worse than {first.name}."
    sides = [(better, "better"), (worse, "worse")]
    said = [f"{_listed(names)} {word} than {first.name}" for names, word in sides if names]
    return f"{', and '.join(said)}, by more than chance explains."


def _gain(member: Member) -> float:
    return member.standing.video[TESTED].gain.value or 0.0


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last} are" if most else f"{last} is"


def notes_of(shelf: Shelf) -> list[str]:
    """How the table was made, and how to read it."""
    return [
        f"{shelf.num_videos} videos in {shelf.num_groups} groups, each scored by the network of "
        f"the fold that tests it. Intervals of {shelf.confidence:.0%}, from the same resampled "
        "groups for all.",
        f"p is how likely chance alone makes such a difference to {shelf.members[0].name}, "
        "corrected by Holm for the number of networks that were tried.",
        f"Milliseconds: from the pixels of one clip to its logit, the median of several, on "
        f"{shelf.place}. Clips/s and memory were measured where the networks were trained, "
        "memory as the peak of what torch held of a GPU, or without one of what the process held.",
        f"Made {shelf.made}.",
    ]


def as_text(shelf: Shelf) -> str:
    """The table for a terminal."""
    lines = aligned(table_of(shelf), numbers=False)
    return "\n".join([statement_of(shelf), "", *lines, "", *notes_of(shelf), ""])


def as_markdown(shelf: Shelf) -> str:
    """The table for documents and for the page of a run."""
    header, *rows = table_of(shelf)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"|{'---|' * len(header)}")
    paragraphs = [f"**{statement_of(shelf)}**", "\n".join(lines), *notes_of(shelf)]
    return "\n\n".join(paragraphs) + "\n"


def as_page(shelf: Shelf) -> str:
    """The table as a page of HTML that needs nothing else."""
    first, *others = shelf.members
    better = any(m.standing.differs(shelf.confidence) and _gain(m) > 0 for m in others)
    highest = max(shelf.members, key=lambda member: _auc(member).value or 0.0)
    headline = Headline(
        title="which network?",
        good_news=better,
        statement=statement_of(shelf),
        numbers=[
            (f"{first.name}: ROC-AUC", value_text(_auc(first).value), interval_text(_auc(first))),
            (
                f"Highest: {highest.name}",
                value_text(_auc(highest).value),
                interval_text(_auc(highest)),
            ),
        ],
        comparison=Grid(
            caption="ROC-AUC per video, and the difference to the first",
            header=["", "ROC-AUC", "difference", "p"],
            rows=[[m.name, estimate_text(_auc(m)), *_difference(shelf, m)] for m in shelf.members],
            spans=[span_of(_auc(m), stands_out=m is first) for m in shelf.members],
            spans_title="ROC-AUC",
        ),
        facts=[
            ("Tested on", f"{shelf.num_videos} videos in {shelf.num_groups} groups"),
            ("Milliseconds measured on", shelf.place),
            ("Made", shelf.made),
        ],
        terms=[("ROC-AUC", MEANINGS["roc_auc"]), ("Macro-F1", MEANINGS["macro_f1"])],
    )
    header, *rows = table_of(shelf)
    runs = [[member.name, " ".join(member.runs)] for member in shelf.members]
    sections = [
        Section(
            title="The whole table",
            text=notes_of(shelf)[:-1],
            grids=[Grid(caption="", header=header, rows=rows)],
        ),
        Section(
            title="Runs",
            grids=[Grid(caption="", header=["network", "run"], rows=runs, ends_in_code=True)],
        ),
    ]
    return render(headline, sections)


def _auc(member: Member) -> Estimate:
    return member.standing.video["roc_auc"].second


def as_json(shelf: Shelf) -> dict[str, Any]:
    """The same for programs."""
    return {
        "videos": shelf.num_videos,
        "groups": shelf.num_groups,
        "confidence": shelf.confidence,
        "place": shelf.place,
        "made": shelf.made,
        "members": [_as_dict(member) for member in shelf.members],
    }


def _as_dict(member: Member) -> Mapping[str, Any]:
    return {
        "name": member.name,
        "runs": list(member.runs),
        "clips": member.sees,
        "price": asdict(member.price),
        **member.standing.as_dict(),
    }
