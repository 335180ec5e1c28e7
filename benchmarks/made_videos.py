"""Videos for the benchmarks of decoding: seventeen kinds, every frame showing its own number.

The picture is a texture with the spectrum of photographs under a moving, turning camera, with
patches that move before it and with the noise of a sensor, so that it takes bits as footage does.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from fvc.encoding import encode
from fvc.sampling import sample_frames
from fvc.seeding import generator_for

NUM_BITS = 13
NUM_CELLS = NUM_BITS + 3
"""White, black, the bits of the number from the lowest on, white."""
STRIP_SHARE = 0.1
"""Height of the cells, of the picture's."""
TEXTURE_MARGIN = 2.0
NUM_PATCHES, PATCH_SHARE = 5, 0.22
NOISE_SIGMA = 2.5
NOISE_FRAMES = 8
MIN_FRAMES = 17
"""One more than are sampled, however short a video is asked for."""
BITS_PER_PIXEL = 0.08
"""As platforms store 720p at 30 frames a second: 2.2 Mbit/s."""
X264_B_FRAMES = 3
STEADY_FRAMES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of video."""

    name: str
    codec: str = "libx264"
    container: str = "mp4"
    width: int
    """In pixels as displayed."""
    height: int
    seconds: float
    fps: int = 30
    """On average, where the rate varies."""
    options: Mapping[str, str] = field(default_factory=dict)
    rotation_deg: int = 0
    """Counter-clockwise turn that players make."""
    rate_varies: bool = False
    bits_per_pixel: float = BITS_PER_PIXEL
    is_promised: bool = True
    """It counts in the means of which something is promised."""

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return max(round(self.seconds * self.fps), MIN_FRAMES)


def _x264(gop: int, b_frames: int = X264_B_FRAMES) -> dict[str, str]:
    return {"g": str(gop), "bf": str(b_frames)}


def _x265(gop: int) -> dict[str, str]:
    return {"x265-params": f"keyint={gop}"}


HD, FULL_HD, NARROW = (
    {"width": 1280, "height": 720},
    {"width": 1920, "height": 1080},
    {"width": 640, "height": 360},
)
NARROW_KINDS = (
    Kind(name="H.264 360p 10 s, GOP 250", **NARROW, seconds=10, options=_x264(250)),
    Kind(name="H.264 360p 60 s, GOP 30", **NARROW, seconds=60, options=_x264(30)),
)
WIDE_KINDS = tuple(
    kind
    for seconds in (60, 10)
    for kind in (
        Kind(name=f"H.264 720p {seconds} s, GOP 250", **HD, seconds=seconds, options=_x264(250)),
        Kind(name=f"H.264 720p {seconds} s, GOP 30", **HD, seconds=seconds, options=_x264(30)),
        Kind(
            name=f"H.264 1080p {seconds} s, GOP 30", **FULL_HD, seconds=seconds, options=_x264(30)
        ),
        Kind(
            name=f"HEVC 720p {seconds} s, GOP 250",
            **HD,
            seconds=seconds,
            codec="libx265",
            options=_x265(250),
        ),
        Kind(
            name=f"VP9 720p {seconds} s",
            **HD,
            seconds=seconds,
            codec="libvpx-vp9",
            container="webm",
        ),
    )
)
OTHER_KINDS = (
    # Phones write no B-frames, a key frame a second, many bits, and the turn into the header.
    Kind(
        is_promised=False,
        name="H.264 phone, 1080 x 1920 turned, 30 s, no B-frames",
        width=1080,
        height=1920,
        seconds=30,
        rotation_deg=-90,
        options=_x264(30, b_frames=0),
        bits_per_pixel=0.2,
    ),
    Kind(
        is_promised=False,
        name="H.264 240p 180 s, GOP 250",
        width=426,
        height=240,
        seconds=180,
        fps=25,
        options=_x264(250),
    ),
    Kind(
        is_promised=False,
        name="AV1 720p 60 s, GOP 160",
        **HD,
        seconds=60,
        codec="libsvtav1",
        # Faster ones leave out so much that the numbers cannot be read.
        options={"g": "160", "preset": "8"},
        bits_per_pixel=0.05,
    ),
    # AVI has no room for B-frames.
    Kind(
        is_promised=False,
        name="MPEG-4 part 2, AVI, 480p 60 s, GOP 250",
        width=640,
        height=480,
        seconds=60,
        fps=25,
        codec="mpeg4",
        container="avi",
        options={"g": "250", "bf": "0"},
        bits_per_pixel=0.15,
    ),
    Kind(
        is_promised=False,
        name="H.264 720p 60 s, variable rate, GOP 250",
        **HD,
        seconds=60,
        fps=24,
        options=_x264(250),
        rate_varies=True,
    ),
)
KINDS = (*NARROW_KINDS, *WIDE_KINDS, *OTHER_KINDS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The frames that every decoder is asked for, of one file."""

    file: Path
    numbers: tuple[int, ...]
    starts_s: tuple[float, ...]
    """When each appears, in seconds from the first frame."""
    middles_s: tuple[float, ...]
    """A time at which it is on the screen, far from the frames beside it."""
    span_edges: tuple[int, ...]
    """Frames in which the equal spans of time begin, and after the last frame."""


def wanted(kind: Kind, file: Path, num_frames: int) -> Wanted:
    """The frames at the centres of equal spans of the video's time."""
    times_ms = _boundaries_ms(kind)
    numbers = sample_frames(times_ms, 1, num_frames).ravel()
    edges_ms = np.linspace(times_ms[0], times_ms[-1], num_frames + 1)
    edges = np.searchsorted(times_ms, edges_ms, side="right") - 1
    return Wanted(
        file=file,
        numbers=tuple(numbers.tolist()),
        starts_s=tuple((times_ms[numbers] / 1000).tolist()),
        middles_s=tuple(((times_ms[numbers] + times_ms[numbers + 1]) / 2000).tolist()),
        span_edges=tuple(edges.tolist()),
    )


def _boundaries_ms(kind: Kind) -> Int[np.ndarray, " boundaries"]:
    """When each frame appears and when the last one ends, in milliseconds."""
    if not kind.rate_varies:
        return np.rint(np.arange(kind.num_frames + 1) * 1000 / kind.fps).astype(np.int64)
    # As phones do when the light changes: between 30 and 15 frames a second, by turns.
    phase = np.arange(kind.num_frames) * math.tau / 300
    lengths = np.rint(1000 / (22.5 + 7.5 * np.cos(phase))).astype(np.int64)
    # With B-frames a file tells how long a frame stays by the order of decoding, so that where
    # the last one ends is certain only if those before it are as long.
    lengths[-STEADY_FRAMES:] = round(1000 / kind.fps)
    return np.concatenate([[0], np.cumsum(lengths)])


def make(kind: Kind, folder: Path) -> Path:
    """Encode a video of a kind, unless the folder holds it."""
    label = "".join(c if c.isalnum() else "-" for c in kind.name.lower())
    target = folder / f"{label}-{kind.num_frames}.{kind.container}"
    if target.is_file():
        return target
    rate = kind.width * kind.height * kind.fps * kind.bits_per_pixel
    encode(
        target,
        _frames(kind),
        codec=kind.codec,
        fps=kind.fps,
        container=kind.container,
        options={"b": str(round(rate)), **kind.options},
        times_s=(_boundaries_ms(kind)[:-1] / 1000).tolist() if kind.rate_varies else None,
        rotation_deg=kind.rotation_deg,
    )
    return target


def _frames(kind: Kind) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames as they are stored."""
    draw = generator_for(0, "made video", kind.name)
    texture = _texture(
        round(kind.height * TEXTURE_MARGIN), round(kind.width * TEXTURE_MARGIN), draw
    )
    side = round(min(kind.width, kind.height) * PATCH_SHARE)
    patches = [_texture(side, side, draw) for _ in range(NUM_PATCHES)]
    speeds = draw.uniform(0.3, 1.2, (NUM_PATCHES, 2))
    phases = draw.uniform(0, math.tau, (NUM_PATCHES, 2))
    cv2.setNumThreads(1)
    shape = (NOISE_FRAMES, kind.height, kind.width, 3)
    noise = np.rint(draw.standard_normal(shape, np.float32) * NOISE_SIGMA).astype(np.int8)
    room = np.array([kind.width - side, kind.height - side])
    for number in range(kind.num_frames):
        frame = _view(texture, kind, number / kind.fps)
        for patch, speed, phase in zip(patches, speeds, phases, strict=True):
            left, top = np.rint(
                room * (0.5 + 0.5 * np.sin(speed * number / kind.fps + phase))
            ).astype(int)
            frame[top : top + side, left : left + side] = patch
        frame = cv2.add(frame, noise[number * 5 % NOISE_FRAMES], dtype=cv2.CV_8U)
        frame[: round(kind.height * STRIP_SHARE)] = _cells(number, kind.width)
        yield np.ascontiguousarray(np.rot90(frame, -kind.rotation_deg // 90))


def _texture(height: int, width: int, draw: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Octaves of noise whose strength grows with their size, as in photographs."""
    total = np.zeros((height, width, 3), np.float32)
    cell = 2
    while cell < max(height, width):
        grid = (math.ceil(height / cell) + 1, math.ceil(width / cell) + 1, 3)
        octave = draw.standard_normal(grid, np.float32)
        total += cell**0.5 * cv2.resize(octave, (width, height), interpolation=cv2.INTER_CUBIC)
        cell *= 2
    total = 128 + 48 * (total - total.mean()) / total.std()
    return np.clip(total, 0, 255).astype(np.uint8)


def _view(
    texture: UInt8[np.ndarray, "h w 3"], kind: Kind, time_s: float
) -> UInt8[np.ndarray, "H W 3"]:
    """What a camera in a hand sees: it swings about, shakes and turns a little."""
    angle = 0.03 * math.sin(0.7 * time_s)
    zoom = 1 + 0.05 * math.sin(0.4 * time_s)
    reach = 0.15 * min(kind.width, kind.height)
    swing = 2 * math.tanh(6 * math.sin(0.9 * time_s))
    x = reach * (math.sin(0.5 * time_s) + swing + 0.04 * math.sin(19 * time_s))
    y = reach * (math.sin(0.37 * time_s + 1) + 0.04 * math.sin(23 * time_s))
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    centre_x, centre_y = texture.shape[1] / 2 + x, texture.shape[0] / 2 + y
    half_x, half_y = kind.width / 2, kind.height / 2
    to_texture = np.array(
        [
            [cosine, -sine, centre_x - cosine * half_x + sine * half_y],
            [sine, cosine, centre_y - sine * half_x - cosine * half_y],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (kind.width, kind.height)
    return cv2.warpAffine(texture, to_texture, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)


@cache
def _column_cells(width: int) -> Int[np.ndarray, " W"]:
    return np.arange(width) * NUM_CELLS // width


def _cells(number: int, width: int) -> UInt8[np.ndarray, "W 3"]:
    """One row of the strip that says a number."""
    bits = np.array([1, 0, *(number >> bit & 1 for bit in range(NUM_BITS)), 1], np.uint8)
    row = (30 + 195 * bits)[_column_cells(width)]
    return np.repeat(row[:, None], 3, axis=1)


def read_number(image: UInt8[np.ndarray, "S S 3"], kind: Kind) -> int | None:
    """The number that a letterboxed frame shows; None where it shows none, upright."""
    side = len(image)
    width, height = (
        max(round(side * size / max(kind.width, kind.height)), 1)
        for size in (kind.width, kind.height)
    )
    top, left = (side - height) // 2, (side - width) // 2
    rows = slice(top + round(height * STRIP_SHARE * 0.3), top + round(height * STRIP_SHARE * 0.7))
    centres = left + ((np.arange(NUM_CELLS) + 0.5) * width / NUM_CELLS).astype(int)
    levels = np.stack([image[rows, c - 1 : c + 2].mean() for c in centres])
    bits = levels > 128
    if not (bits[0] and bits[-1]) or bits[1]:
        return None
    return int(sum(1 << bit for bit in range(NUM_BITS) if bits[2 + bit]))
