"""From a video to a clip and three augmented versions in files: ours against the usual pipeline.

    python benchmarks/clips_end_to_end.py                   # ten minutes, with its videos
    python benchmarks/clips_end_to_end.py --kinds 1 --seconds 3 --rounds 1       # a quick look
    python benchmarks/clips_end_to_end.py --videos FOLDER   # keeps the videos for the next time

Ours is the code of the stages `clips` and `augment`. The usual pipeline decodes the whole video
for each version, scales frames with PIL, changes them with torchvision and saves float32; a
kinder one decodes only once. Only what torchvision can do, too, is drawn, with the same
probabilities. All take turns on one thread each, and the least CPU time of several rounds counts.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from decoders import SIDE_PX, decode_all
from made_videos import KINDS, Kind, Wanted, make, wanted
from measuring import (
    Processes,
    folder_or_temporary,
    geometric_mean,
    print_table,
    surroundings,
    verdict,
)

from fvc.clip_files import Job, read_pixels
from fvc.config import AugmentConfig, ClipsConfig, load_params
from fvc.stages.augment import store_versions
from fvc.stages.clips import store_clips

if TYPE_CHECKING:
    from torch import Tensor

NUM_FRAMES, NUM_VERSIONS = 16, 3
DEFAULT_KINDS = (1, 2, 3, 4)
LEAST_RATIO = 8.0
MAX_DIFFERENCE = 5.0
"""Between PIL's scaling and ours of a noisy picture, on average and in levels of 255."""
SHARED = ("rotation", "affine", "flip", "colour", "noise", "blur", "cutout", "elastic")
BLUR_KERNEL_PX = 9
PACKAGES = ("av", "opencv-python-headless", "pillow", "torch", "torchvision", "numpy")
OURS, PER_VERSION, ONCE = "ours", "usual", "usual, decoding once"


@dataclass(frozen=True, slots=True)
class Settings:
    """What both are asked to make."""

    clips: ClipsConfig
    augment: AugmentConfig
    seed: int


def ours(target: Wanted, settings: Settings, folder: Path) -> None:
    """What the stages do with one video."""
    clips = folder / f"{target.file.stem}.pt"
    store_clips(Job(target.file, clips, "benchmark"), config=settings.clips)
    versions = Job(clips, folder / f"{target.file.stem}.augmented.pt", "benchmark")
    store_versions(versions, config=settings.augment, seed=settings.seed)


def usual(target: Wanted, settings: Settings, folder: Path, decodes_once: bool) -> None:
    """What pipelines do that treat a version like another video."""
    import torch

    change = _torchvision(settings.augment)
    frames = decode_all(target)
    for version in range(1 + NUM_VERSIONS):
        if version and not decodes_once:
            frames = decode_all(target)
        clip = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
        torch.manual_seed(version)
        changed = change(clip) if version else clip
        torch.save(changed.float() / 255, _usual_file(folder, target, version))


def _usual_file(folder: Path, target: Wanted, version: int) -> Path:
    return folder / f"{target.file.stem}.usual.{version}.pt"


def _torchvision(config: AugmentConfig) -> "Callable[[Tensor], Tensor]":
    """The same changes by torchvision, as near as its transforms come."""
    import torch
    from torchvision.transforms import v2

    # One process for each core, as in ours.
    torch.set_num_threads(1)
    affine, colour = config.affine, config.colour
    shift, scale = affine.translation, (1 - affine.scale, 1 + affine.scale)
    jitter = v2.ColorJitter(colour.brightness, colour.contrast, colour.saturation, colour.hue)
    blur = v2.GaussianBlur(BLUR_KERNEL_PX, (0.1, max(config.blur.max_sigma_px, 0.2)))
    steps = [
        (config.rotation, v2.RandomRotation(config.rotation.max_deg)),
        (affine, v2.RandomAffine(0, (shift, shift), scale, affine.shear_deg)),
        (config.flip, v2.RandomHorizontalFlip(1.0)),
        (config.elastic, v2.ElasticTransform()),
        (colour, jitter),
        (config.noise, v2.GaussianNoise(sigma=config.noise.max_std / 2 / 255)),
        (config.blur, blur),
        (config.cutout, v2.RandomErasing(1.0, (0.001, config.cutout.max_share))),
    ]
    return v2.Compose([v2.RandomApply([step], section.probability) for section, step in steps])


def difference(target: Wanted, folder: Path) -> float:
    """Mean difference between the two original clips, in levels.

    Raises:
        ValueError: A file has another shape, or no version differs from its clip.
    """
    import torch

    clips = read_pixels(folder / f"{target.file.stem}.pt", "clips")
    versions = read_pixels(folder / f"{target.file.stem}.augmented.pt", "augment")
    theirs = [
        torch.load(_usual_file(folder, target, version)).numpy()
        for version in range(1 + NUM_VERSIONS)
    ]
    shapes = {array.shape for array in (clips[0], *versions, *theirs)}
    if shapes != {(NUM_FRAMES, 3, SIDE_PX, SIDE_PX)} or len(versions) != NUM_VERSIONS:
        raise ValueError(f"shapes differ: {shapes}")
    # One may: every change has a chance to be left out.
    if all(np.array_equal(version, clips[0]) for version in versions):
        raise ValueError("no version differs from its clip")
    return float(np.abs(clips[0] - 255 * theirs[0]).mean())


def compare(
    kind: Kind, file: Path, settings: Settings, folder: Path, processes: Processes, rounds: int
) -> tuple[float, dict[str, float]]:
    """The difference of the original clips, and the CPU milliseconds of each way."""
    target = wanted(kind, file, NUM_FRAMES)
    calls: dict[str, tuple[str, Callable[[], object]]] = {
        PER_VERSION: (PER_VERSION, partial(usual, target, settings, folder, decodes_once=False)),
        ONCE: (PER_VERSION, partial(usual, target, settings, folder, decodes_once=True)),
        OURS: (OURS, partial(ours, target, settings, folder)),
    }
    for name in (ONCE, OURS):
        processes.call(*calls[name])
    found = processes.call(PER_VERSION, partial(difference, target, folder))
    return found, processes.in_turn(calls, rounds)


def settings_of(params_file: Path) -> Settings:
    """The parameters of the pipeline, less what torchvision has no counterpart to."""
    params = load_params(params_file)
    ours_alone = {
        each.name: replace(section, probability=0.0)
        for each in fields(params.augment)
        if each.name not in SHARED
        and hasattr(section := getattr(params.augment, each.name), "probability")
    }
    changes: dict[str, Any] = {"views": "spans", "sampling": "exact", "fit": "letterbox"}
    shape = {"num_clips": 1, "num_frames": NUM_FRAMES, "side_px": SIDE_PX}
    return Settings(
        replace(params.clips, **changes, **shape),
        replace(params.augment, versions=NUM_VERSIONS, **ours_alone),
        params.seed,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 1 where outputs disagree or the promise is broken."""
    parser = ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    numbers = ", ".join(f"{number} {kind.name}" for number, kind in enumerate(KINDS, 1))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kinds", type=int, nargs="+", default=DEFAULT_KINDS, help=numbers)
    parser.add_argument("--seconds", type=float, help="the longest that a video may be")
    parser.add_argument("--videos", type=Path, help="where videos are kept for the next time")
    args = parser.parse_args(argv)
    settings = settings_of(Path(__file__).parents[1] / "params.yaml")
    rows, ratios, kinder, agree = [], [], [], True
    with (
        folder_or_temporary(args.videos) as folder,
        folder_or_temporary(None) as written,
        Processes() as processes,
    ):
        for number in args.kinds:
            kind = KINDS[number - 1]
            kind = replace(kind, seconds=min(kind.seconds, args.seconds or kind.seconds))
            file = make(kind, folder)
            print(f"{kind.name} ...", file=sys.stderr)
            apart, times = compare(kind, file, settings, written, processes, args.rounds)
            ratios.append(times[PER_VERSION] / times[OURS])
            kinder.append(times[ONCE] / times[OURS])
            agree &= apart <= MAX_DIFFERENCE
            taken = [f"{times[name]:.0f}" for name in (PER_VERSION, ONCE, OURS)]
            rows.append(
                [kind.name, *taken, f"{ratios[-1]:.1f}", f"{kinder[-1]:.1f}", f"{apart:.1f}"]
            )
    print(f"\n{surroundings(PACKAGES)}; CPU ms a video, the least of {args.rounds} rounds\n")
    ends = ["", "", "", f"{geometric_mean(ratios):.1f}", f"{geometric_mean(kinder):.1f}", ""]
    header = ["video", PER_VERSION, ONCE, OURS, "ratio", "ratio to decoding once", "difference"]
    print_table(header, [*rows, ["geometric mean", *ends]])
    if not agree:
        print(f"original clips differ by more than {MAX_DIFFERENCE} levels")
    kept = verdict({"the usual pipeline over ours": (geometric_mean(ratios), LEAST_RATIO)})
    if args.seconds is not None:
        print("The promise is about videos at full length.")
        return 0 if agree else 1
    return 0 if agree and kept else 1


if __name__ == "__main__":
    sys.exit(main())
