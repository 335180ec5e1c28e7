"""Augmentation of a clip: ours against albumentations, kornia and torchvision v2.

    uv pip install -e '.[bench]' && python benchmarks/augment.py

All change a made clip of 16 x 224 x 224, uint8 in and uint8 out, each in the layout it likes best,
with one draw for all frames, on one thread, by turns in one process. First each library turns,
mirrors, brightens and flattens the clip by given amounts, and all must agree. The ratios are of CPU
time, which other users of the machine disturb least.
"""

import importlib
import os
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

# Before NumPy and torch start theirs.
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from measuring import surroundings

from fvc.clip_files import load_clips, save_clips
from fvc.config import AugmentConfig, Chance, load_params
from fvc.transforms import augment_clip

ROOT = Path(__file__).parents[1]
NUM_FRAMES, SIDE_PX = 16, 224
COMPETITORS = ("albumentations", "kornia", "torchvision")
TARGETS = {"torchvision v2": 15.0, "albumentations": 3.5}
SET = ("rotation", "affine", "flip", "colour", "noise", "blur", "cutout")
CENTRE = slice(SIDE_PX // 5, -SIDE_PX // 5)
"""Away from the edges, beyond which each library sees something else."""
LARGEST_DIFFERENCE = 1.0
"""Of two libraries that do the same, on average, in grey levels of 255."""
BLUR_TAPS = 11
"""What three standard deviations to either side need, where a library asks for it."""

Clip = np.ndarray[Any, np.dtype[np.uint8]]
Change = Callable[[], Any]


def made_clip(seed: int = 0) -> Clip:
    """Waves that move, with a little grain, in (T, C, H, W); nothing is black."""
    rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
    frames = []
    for number in range(NUM_FRAMES):
        wave = 50 * np.sin((columns + 3 * number) / 17) + 40 * np.cos((rows - 2 * number) / 13)
        frames.append(np.stack([128 + wave, 30 + 0.8 * columns, 220 - 0.7 * rows]))
    grain = np.random.default_rng(seed).normal(0, 3, (NUM_FRAMES, 3, SIDE_PX, SIDE_PX))
    return np.clip(np.stack(frames) + grain, 1, 255).astype(np.uint8)


def only(config: AugmentConfig, names: Sequence[str]) -> AugmentConfig:
    """The same ranges, with these changes always made and all others never."""
    sections: dict[str, Any] = {
        field.name: replace(section, probability=float(field.name in names))
        for field in fields(config)
        if isinstance(section := getattr(config, field.name), Chance)
    }
    return replace(config, **sections)


def albumentations_of(steps: Mapping[str, Any]) -> Callable[[Clip], Clip]:
    """The named steps on frames in (T, H, W, C); its own video target draws once."""
    import albumentations as A

    edge = cv2.BORDER_REFLECT_101
    known = {
        "geometry": lambda rotate, translate, scale, shear: A.Affine(
            rotate=rotate,
            translate_percent={"x": translate, "y": translate},
            scale=scale,
            keep_ratio=True,
            shear={"x": shear, "y": shear},
            border_mode=edge,
            p=1,
        ),
        "flip": lambda: A.HorizontalFlip(p=1),
        "colour": lambda **ranges: A.ColorJitter(**ranges, p=1),
        "noise": lambda std: A.GaussNoise(std_range=(0, std), p=1),
        "blur": lambda sigma: A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, sigma), p=1),
        "erase": lambda side: A.CoarseDropout(
            num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side, fill=128, p=1
        ),
        "elastic": lambda alpha, sigma: A.ElasticTransform(
            alpha=alpha, sigma=sigma, border_mode=edge, p=1
        ),
    }
    chain = A.Compose([known[name](**amounts) for name, amounts in steps.items()])
    return lambda clip: chain(images=clip)["images"]


def kornia_of(steps: Mapping[str, Any]) -> Callable[[Clip], Clip]:
    """The named steps on frames in (T, C, H, W), as floats on the way."""
    import kornia.augmentation as K

    known = {
        "geometry": lambda rotate, translate, scale, shear: K.RandomAffine(
            # Clockwise is positive.
            (-rotate[1], -rotate[0]),
            # It takes the largest shift alone.
            translate=(translate[1], translate[1]),
            scale=scale,
            shear=(*shear, *shear),
            padding_mode="reflection",
            align_corners=True,
            p=1,
        ),
        "flip": lambda: K.RandomHorizontalFlip(p=1),
        "colour": lambda **ranges: K.ColorJitter(**ranges, p=1),
        "noise": lambda std: K.RandomGaussianNoise(std=std / 2, p=1),
        "blur": lambda sigma: K.RandomGaussianBlur((BLUR_TAPS, BLUR_TAPS), (0.1, sigma), p=1),
        "erase": lambda side: K.RandomErasing(
            scale=(side[0] ** 2, side[1] ** 2), ratio=(0.5, 2.0), value=0.5, p=1
        ),
        "elastic": lambda alpha, sigma: K.RandomElasticTransform(
            (63, 63), (sigma, sigma), (alpha / SIDE_PX, alpha / SIDE_PX), p=1
        ),
    }
    parts = [known[name](**amounts) for name, amounts in steps.items()]
    chain = K.VideoSequential(*parts, data_format="BTCHW", same_on_frame=True)

    def change(clip: Clip) -> Clip:
        floats = torch.from_numpy(clip)[None].float() / 255
        return (chain(floats)[0] * 255).round().clamp(0, 255).byte().numpy()

    return change


def torchvision_of(steps: Mapping[str, Any]) -> Callable[[Clip], Clip]:
    """The named steps on frames in (T, C, H, W), which it takes for a batch with one draw."""
    from torchvision.transforms import InterpolationMode, v2

    smooth = InterpolationMode.BILINEAR
    known = {
        "geometry": lambda rotate, translate, scale, shear: v2.RandomAffine(
            # Clockwise is positive.
            (-rotate[1], -rotate[0]),
            translate=(translate[1], translate[1]),
            scale=scale,
            shear=(*shear, *shear),
            interpolation=smooth,
        ),
        "flip": lambda: v2.RandomHorizontalFlip(p=1),
        "colour": lambda **ranges: v2.ColorJitter(**ranges),
        "noise": lambda std: v2.GaussianNoise(sigma=std / 2),
        "blur": lambda sigma: v2.GaussianBlur(BLUR_TAPS, (0.1, sigma)),
        "erase": lambda side: v2.RandomErasing(
            p=1, scale=(side[0] ** 2, side[1] ** 2), ratio=(0.5, 2.0), value=128
        ),
        "elastic": lambda alpha, sigma: v2.ElasticTransform(alpha, sigma, smooth),
    }
    chain = v2.Compose([known[name](**amounts) for name, amounts in steps.items()])
    return lambda clip: chain(torch.from_numpy(clip)).numpy()


LIBRARIES = {
    "albumentations": albumentations_of,
    "kornia": kornia_of,
    "torchvision v2": torchvision_of,
}


def check_agreement(config: AugmentConfig) -> None:
    """End where a library does not do what ours does, by the same amounts, to one picture."""
    clip = np.repeat(made_clip()[:1], 2, axis=0)
    rest = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "saturation": (1.0, 1.0)}
    still = {"translate": (0.0, 0.0), "scale": (1.0, 1.0), "shear": (0.0, 0.0)}
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    cases: dict[str, tuple[AugmentConfig, dict[str, Any]]] = {}
    for seed in range(3):
        # What `augment_clip` draws: whether, then how much.
        draws = np.random.default_rng(seed)
        draws.random()
        angle = config.rotation.max_deg * draws.uniform(-1, 1)
        turned = {"geometry": {"rotate": (angle, angle), **still}}
        cases[f"rotation {seed}"] = only(config, ["rotation"]), turned
    cases["flip 0"] = only(config, ["flip"]), {"flip": {}}
    for name, place in (("brightness", 2), ("contrast", 3)):
        draws = np.random.default_rng(0)
        # Seven chances come first, of which the seventh is for the colour; then its four amounts.
        draws.random(7)
        amount = 1 + getattr(config.colour, name) * draws.uniform(-1, 1, 4)[place]
        single = replace(config.colour, **off | {name: getattr(config.colour, name)})
        jitter = {"colour": {**rest, "hue": (0.0, 0.0), name: (amount, amount)}}
        cases[f"{name} 0"] = only(replace(config, colour=single), ["colour"]), jitter
    for case, (ours, theirs) in cases.items():
        seed = int(case.split()[1])
        expected = augment_clip(clip, ours, np.random.default_rng(seed)).astype(int)
        for library, build in LIBRARIES.items():
            result = run(build(theirs), clip, library).astype(int)
            difference = np.abs(result - expected)[..., CENTRE, CENTRE].mean()
            print(f"  {case:13} {library:15} differs by {difference:.2f} of 255")
            if difference > LARGEST_DIFFERENCE:
                sys.exit(f"error: {library} does not do the same {case.split()[0]} as ours")


def run(change: Callable[[Clip], Clip], clip: Clip, library: str) -> Clip:
    """The changed clip in (T, C, H, W), from a library in its own layout."""
    if library != "albumentations":
        return change(clip)
    return change(np.ascontiguousarray(clip.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


def in_turns(ways: Mapping[str, Change], rounds: int) -> dict[str, float]:
    """Median milliseconds of CPU time of each, the first round left out."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            taken[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def settings_of(config: AugmentConfig) -> dict[str, Any]:
    """Our ranges as the others want them."""
    affine, colour = config.affine, config.colour
    largest = config.cutout.max_share**0.5
    return {
        "geometry": {
            "rotate": (-config.rotation.max_deg, config.rotation.max_deg),
            "translate": (-affine.translation, affine.translation),
            "scale": (1 - affine.scale, 1 + affine.scale),
            "shear": (-affine.shear_deg, affine.shear_deg),
        },
        "flip": {},
        "colour": {
            "brightness": (1 - colour.brightness, 1 + colour.brightness),
            "contrast": (1 - colour.contrast, 1 + colour.contrast),
            "saturation": (1 - colour.saturation, 1 + colour.saturation),
            "hue": (-colour.hue, colour.hue),
        },
        "noise": {"std": config.noise.max_std / 255},
        "blur": {"sigma": config.blur.max_sigma_px},
        "erase": {"side": (0.05, largest)},
    }


def compare(config: AugmentConfig, rounds: int) -> bool:
    """Print the table of libraries; return whether both rows reach the targets."""
    clip = made_clip()
    frames = np.ascontiguousarray(clip.transpose(0, 2, 3, 1))
    steps = settings_of(config)
    sigma = config.elastic.smoothness * SIDE_PX
    bent = steps | {"elastic": {"alpha": 100.0, "sigma": sigma}}
    reached = True
    print("\n| 16 x 224 x 224, ms of CPU time | ours | albumentations | kornia | torchvision v2 |")
    print("|---|--:|--:|--:|--:|")
    rows = {
        "geometry, colour, noise, blur, erase": (SET, steps),
        "the same and elastic distortion": ((*SET, "elastic"), bent),
    }
    for title, (names, theirs) in rows.items():
        draws, chosen = np.random.default_rng(0), only(config, names)
        ways: dict[str, Change] = {"ours": partial(augment_clip, clip, chosen, draws)}
        for library, build in LIBRARIES.items():
            given = frames if library == "albumentations" else clip
            ways[library] = partial(build(theirs), given)
        taken = in_turns(ways, rounds)
        ratios = {library: taken[library] / taken["ours"] for library in LIBRARIES}
        times = " | ".join(f"{taken[name]:.1f}" for name in ways)
        print(f"| {title} | {times} |")
        print("| ratio | | " + " | ".join(f"{ratio:.1f}" for ratio in ratios.values()) + " |")
        reached &= all(ratios[library] >= least for library, least in TARGETS.items())
    return reached


def alone(config: AugmentConfig, rounds: int) -> None:
    """Print what each of our changes takes, and a version as training draws it."""
    clip = made_clip()
    names = [each.name for each in fields(config) if isinstance(getattr(config, each.name), Chance)]
    draws = np.random.default_rng(0)
    ways: dict[str, Change] = {
        name: partial(augment_clip, clip, only(config, [name]), draws) for name in names
    }
    taken = in_turns(ways, rounds)
    print("\n| one change alone | ms of CPU time |\n|---|--:|")
    for name, milliseconds in taken.items():
        print(f"| {name} | {milliseconds:.1f} |")
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "clip.pt"
        save_clips(stored, clip[None], "key")
        start = time.process_time()
        for _ in range(5 * rounds):
            augment_clip(clip, config, draws)
        fresh = (time.process_time() - start) / (5 * rounds) * 1e3
        # Opened and copied: the pages are in memory, as they are from the second epoch on.
        kept = in_turns({"read": lambda: load_clips(stored, "augment")[0].clone()}, rounds)["read"]
        megabytes = stored.stat().st_size / 1e6
    print("\n| a version for training | ms of CPU time | on disk, MB |\n|---|--:|--:|")
    print(f"| `on_the_fly`: drawn as in params.yaml, on average | {fresh:.1f} | 0 |")
    print(f"| `stored`: read from its file | {kept:.1f} | {megabytes:.1f} |")


def main() -> int:
    """Check, compare, print; 1 where a target is missed."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    for name in COMPETITORS:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            sys.exit(f"error: {name} is missing: uv pip install -e '.[bench]'")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = load_params(ROOT / "params.yaml").augment
    print(surroundings((*COMPETITORS, "torch", "numpy", "opencv-python-headless", "av")))
    check_agreement(config)
    reached = compare(config, args.rounds)
    alone(config, args.rounds)
    goals = " and ".join(f"{least:g} times {library}" for library, least in TARGETS.items())
    print(f"\ntarget, {goals}: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
