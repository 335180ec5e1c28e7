"""Draw every augmentation of a video's clip, alone and together, on one sheet to look at."""

from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fvc.clip_files import read_pixels
from fvc.config import AugmentConfig, Chance, Params, load_params
from fvc.errors import FvcError
from fvc.report.contact_sheet import contact_sheet
from fvc.report.plots import save
from fvc.seeding import generator_for
from fvc.transforms import augment_clip, augmented_version

NUM_DRAWS = 16
"""A change is shown by the draw of these that changes most."""
NUM_VERSIONS = 4

Clip = UInt8[np.ndarray, "T C H W"]
Row = tuple[str, str, Clip]


def alone(config: AugmentConfig, name: str) -> AugmentConfig:
    """The same ranges, but one change always made and all others never."""
    config = config.at_strength()
    sections: dict[str, Any] = {
        field.name: replace(section, probability=float(field.name == name))
        for field in fields(config)
        if isinstance(section := getattr(config, field.name), Chance)
    }
    return replace(config, **sections)


def rows_of(clips: UInt8[np.ndarray, "N T C H W"], video_id: str, params: Params) -> Iterator[Row]:
    """The first clip as it is, under each change alone, and versions as training gets them."""
    clip, config = clips[0], params.augment.at_strength()
    yield "original", f"{clip.shape[3]} x {clip.shape[2]} pixels", clip
    for field in fields(config):
        section = getattr(config, field.name)
        if isinstance(section, Chance):
            ranges = [each.name for each in fields(section) if each.name != "probability"]
            remark = "\n".join(f"{each} {getattr(section, each):.3g}" for each in ranges)
            yield field.name, remark, strongest(clip, alone(config, field.name), params.seed)
    for version in range(NUM_VERSIONS):
        made = augmented_version(clips, video_id, version, params.augment, params.seed)
        yield f"version {version}", "as in training", made


def strongest(clip: Clip, config: AugmentConfig, seed: int) -> Clip:
    """Of some draws the one that changes most."""
    draws = (
        augment_clip(clip, config, generator_for(seed, "show", number))
        for number in range(NUM_DRAWS)
    )
    return max(draws, key=lambda drawn: float(np.abs(drawn.astype(int) - clip).mean()))


def run(params: Params, *, clips: Path, video: str | None, sheet: Path) -> None:
    """Read a video's clips and draw the sheet.

    Raises:
        FvcError: There are no clips, or none of this video.
    """
    found = sorted(clips.glob("*.pt"))
    if not found:
        raise FvcError(clips, "holds no clips", "Run 'dvc repro clips', or name another folder")
    source = found[0] if video is None else clips / f"{video}.pt"
    if source not in found:
        remedy = f"Name a video that has, such as '--video {found[0].stem}'"
        raise FvcError(f"--video {video}", f"has no clips in {clips}", remedy)
    rows = list(rows_of(read_pixels(source, "clips"), source.stem, params))
    save(contact_sheet(f"Augmentations of {source.stem}", rows), sheet)


def main(argv: Sequence[str]) -> None:
    """Run the command line."""
    parser = ArgumentParser(prog="fvc show-augmentations", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--clips", type=Path, required=True, help="read: a tensor per video")
    parser.add_argument("--video", help="its id (default: the first)")
    parser.add_argument("--sheet", type=Path, required=True, help="written: a PNG")
    args = parser.parse_args(argv)
    run(load_params(args.params), clips=args.clips, video=args.video, sheet=args.sheet)
