"""What the report shows of single videos: where the network looked, and when."""

from collections.abc import Mapping
from pathlib import Path

from fvc.evidence.examples import Example, Examples
from fvc.evidence.explain import MOST_ALIKE, HeatMap
from fvc.files import replacing
from fvc.overlay import overlay
from fvc.report import Grid, Picture, Section, plots
from fvc.report.contact_sheet import contact_sheet
from fvc.report.overlays import animation, jpeg

LAYERS = {
    "backbone": "last convolution",
    "head": "Inception block",
    "occlusion": "smoothed parts",
}
"""How a reader knows the layers; others go by their own names."""

KINDS = {"hit": "Right", "miss": "Wrong", "abstention": "Uncertain"}

MEANING = (
    "The surest right and wrong answers and the least sure of all, each explained by the network "
    "that never trained on the video. Bright colours mark where and when its clip spoke for the "
    "side that the video was called: by Grad-CAM, or, for what has no gradients, by what the score "
    "loses when that part is smoothed. They show where the network looked, not why, and "
    "not that something there is manipulated.",
    "Each map is scaled to its own largest value, so the brightness of two maps cannot be "
    "compared. Black bars are part of the clip and left in: a network that reads them is seen "
    "doing so.",
)


def examples_section(found: Examples) -> tuple[Section, dict[str, bytes]]:
    """The section, and its pictures by file name.

    Each example is a strip of frames with its maps below, the same moving, and
    the score over time where the video has more than one clip.
    """
    if not found.examples:
        text = "No video was tested, so there is none to show."
        return Section(title="Examples", text=[text]), {}
    pictures, files = [], {}
    counts = dict.fromkeys(KINDS, 0)
    for example in found.examples:
        counts[example.kind] += 1
        stem = f"{example.kind}_{counts[example.kind]}"
        for name, picture in _pictures(example):
            files[f"{stem}{name}"] = picture.image
            pictures.append(picture)
    missing = [KINDS[kind].lower() for kind, count in counts.items() if not count]
    lacks = [f"No answer was {' or '.join(missing)}."] if missing else []
    section = Section(
        title="Examples",
        text=[*MEANING, _resolution(found.examples[0]), *sanity(found.likeness), *lacks],
        pictures=pictures,
        grids=[_grid(found)],
    )
    return section, files


def sanity(likeness: Mapping[str, float | None]) -> list[str]:
    """Whether the maps depend on what was learned, as sentences."""
    told = []
    for name, value in likeness.items():
        layer = _layer(name)
        if value is None:
            told.append(f"The maps of the {layer} are blank: there is nothing to read in them.")
        elif value >= MOST_ALIKE:
            told.append(
                f"Warning: the maps of the {layer} do not depend on what was learned: do not read "
                f"them. With random weights they are much the same (rank correlation {value:.2f}, "
                f"not below {MOST_ALIKE})."
            )
        else:
            told.append(
                f"With random weights the maps of the {layer} are others (rank correlation "
                f"{value:.2f}, below {MOST_ALIKE}), so they do not come from the picture alone."
            )
    return told


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the pictures; those of examples that were chosen before are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.name not in files:
            stale.unlink()
    for name, content in files.items():
        with replacing(folder / name) as partial:
            partial.write_bytes(content)


def _pictures(example: Example) -> list[tuple[str, Picture]]:
    """By the end of its file name."""
    clip = example.explained.clip.numpy()
    maps = example.explained.maps
    layers = [(_layer(name), found) for name, found in maps.items()]
    overlaid = [overlay(clip, found.values) for _, found in layers]
    what = [(layer, _cells(found)) for layer, found in layers]
    rows = [("the clip", _seconds(example)), *what]
    panels = [clip, *overlaid]
    sheet = contact_sheet(
        _title(example), [(*row, panel) for row, panel in zip(rows, panels, strict=True)]
    )
    names = ", ".join(name for name, _ in what)
    strip = Picture(
        image=jpeg(sheet),
        caption=_story(example),
        media_type="image/jpeg",
        alt=f"Frames of {example.video['video_id']}, below them the same with maps of: {names}.",
        wide=True,
    )
    moving = Picture(
        image=animation(panels),
        caption=f"{_title(example)}, moving; from left to right: the clip, {names}.",
        media_type="image/webp",
    )
    return [(".jpg", strip), (".webp", moving), *_profile(example)]


def _profile(example: Example) -> list[tuple[str, Picture]]:
    if len(example.probabilities) == 1:
        return []
    numbers = range(len(example.probabilities))
    known, learned = example.spans_s is not None, example.calibration
    figure = plots.temporal_profile(
        example.spans_s or [(number + 0.5, number + 1.5) for number in numbers],
        example.probabilities,
        threshold=learned.threshold,
        band=(learned.abstain_low, learned.abstain_high),
        number=example.number,
        unit="seconds of the video" if known else "number of the clip",
    )
    note = "" if known else " Its length is not certain, so when each clip begins is not known."
    caption = f"{_title(example)}: what each of its {len(numbers)} clips got.{note}"
    return [("_profile.png", Picture(image=plots.png(figure), caption=caption))]


def _title(example: Example) -> str:
    return f"{KINDS[example.kind]}: {example.video['video_id']}"


def _story(example: Example) -> str:
    video, count = example.video, len(example.probabilities)
    score = f"{video['probability_fake']:.3f}"
    if count == 1:
        clips = f"Its one clip spans all of it ({_seconds(example)}): there is no profile over time"
    else:
        own = f"{example.probabilities[example.number]:.3f}"
        clips = f"Shown is clip {example.number + 1} of {count} ({_seconds(example)}), at {own}"
    blank = [_layer(name) for name, found in example.explained.maps.items() if found.is_blank]
    nothing = f" Blank where nothing spoke for {video['called']}: {', '.join(blank)}."
    return (
        f"{_title(example)} ({video['platform']}, group {video['group']}) is labelled "
        f"{video['label']} and was called {video['called']} with a probability of fake of {score} "
        f"(threshold {example.calibration.threshold:.3f}); verdict {video['verdict']}. "
        f"{clips}.{nothing if blank else ''}{_in_bars(example)}"
    )


def _in_bars(example: Example) -> str:
    share, by_layer = example.bars
    if not share or not by_layer:
        return ""
    parts = " and ".join(f"{value:.0%} ({_layer(name)})" for name, value in by_layer.items())
    return f" Black bars are {share:.0%} of the clip and hold {parts} of its maps."


def _seconds(example: Example) -> str:
    if example.spans_s is None:
        return "time not known"
    start, end = example.spans_s[example.number]
    return f"{start:.1f} to {end:.1f} s"


def _resolution(example: Example) -> str:
    maps = example.explained.maps
    cells = ", ".join(f"{_layer(name)} {_cells(found)}" for name, found in maps.items())
    still = any(found.cells[0] == 1 for found in maps.values())
    fixed = " A map with one cell in time is the same for every frame." if still else ""
    return f"The maps are coarser than the picture: {cells} (time, height, width).{fixed}"


def _cells(found: HeatMap) -> str:
    return " x ".join(map(str, found.cells)) + " cells"


def _layer(name: str) -> str:
    return LAYERS.get(name, name)


def _grid(found: Examples) -> Grid:
    header = ("answer", "video", "platform", "group", "label", "called", "verdict")
    rows = [
        (
            KINDS[example.kind],
            *(str(example.video[name]) for name in ("video_id", *header[2:])),
            f"{example.video['probability_fake']:.3f}",
            str(len(example.probabilities)),
        )
        for example in found.examples
    ]
    return Grid(caption="The examples", header=(*header, "probability of fake", "clips"), rows=rows)
