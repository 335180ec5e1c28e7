"""What a single frame and the black bars give away: shortcuts that lie in the stored clips.

A network sees them too. One that scores no higher than these has not been shown to look at
anything that moves.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from fvc.clip_files import load_clips
from fvc.errors import FvcError

SIDE = 16
"""Rows and columns that are left of the middle frame."""

FRAME_VALUES = SIDE * SIDE + 3
BAR_VALUES = 8

BLACK = 16
"""Level up to which a pixel is black; compression leaves noise in a bar."""

LINE_SHARE = 0.98
"""Of a row's pixels, those that have to be black in a black row: a logo may stand in it."""

STRENGTH = 0.01
"""Inverse of the penalty on the frame probe's weights (scikit-learn's C). There are more of
them than a small fold has videos; a hundred times weaker, the penalty leaves noise in them."""

COLUMNS = {
    "video_id": pl.String(),
    "frame": pl.Array(pl.Float64(), FRAME_VALUES),
    "bars": pl.Array(pl.Float64(), BAR_VALUES),
}


def read_pixel_facts(video_ids: Iterable[str], clips: Path) -> pl.DataFrame:
    """What the probes are shown of each video; only a few of its frames are read.

    Returns:
        `video_id`, `frame` as `frame_features` gives it of the middle frame of the middle
        clip, and `bars` as `bar_features` gives it of that clip's first, middle and last.

    Raises:
        FvcError: A file is missing, damaged, or holds no clip.
    """
    rows = []
    for video_id in video_ids:
        source = clips / f"{video_id}.pt"
        pixels = load_clips(source, "clips")
        if pixels.ndim != 5 or 0 in pixels.shape:
            cause = f"holds {tuple(pixels.shape)}, no clips"
            raise FvcError(source, cause, "Delete it and run 'dvc repro clips'")
        clip = pixels[len(pixels) // 2]
        middle = len(clip) // 2
        frames = clip[[0, middle, len(clip) - 1]].numpy()
        rows.append((video_id, frame_features(frames[1]).tolist(), bar_features(frames).tolist()))
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def frame_features(frame: UInt8[np.ndarray, "3 H W"]) -> Float[np.ndarray, "F"]:
    """The frame in 16 x 16 grey levels, each the mean of what it covers, and the mean colour.

    Scenery, brightness and logos are in it; motion is not.
    """
    grey = _shrunk(_shrunk(frame.mean(axis=0), axis=0), axis=1)
    return np.concatenate([grey.ravel(), frame.mean(axis=(1, 2))]) / 255


def bar_features(frames: UInt8[np.ndarray, "F 3 H W"]) -> Float[np.ndarray, "B"]:
    """How much of the height or width is black at the top, bottom, left and right, and in all.

    A row or column is black where it is so in all frames. The last four values are the
    share and the mean place (from 0 to 1; 0.5 without any) of all black rows and of all
    black columns: bars with text in them, or between two pictures, end no border.
    """
    black = frames.max(axis=(0, 1)) <= BLACK
    borders, whole = [], []
    for across in (1, 0):
        lines = black.mean(axis=across) >= LINE_SHARE
        borders += [_border(lines), _border(lines[::-1])]
        places = (np.flatnonzero(lines) + 0.5) / len(lines)
        whole += [lines.mean(), places.mean() if places.size else 0.5]
    return np.array([*borders, *whole])


def frame_model() -> Pipeline:
    """Logistic regression with a penalty on large weights; both classes weigh the same."""
    regression = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), regression)


def _border(lines: Bool[np.ndarray, "L"]) -> float:
    """The share of lines before the first that is not black."""
    return float((np.cumsum(~lines) == 0).mean())


def _shrunk(values: Float[np.ndarray, "H W"], *, axis: int) -> Float[np.ndarray, "h w"]:
    """`SIDE` means along an axis; fewer lines than that are repeated."""
    length = values.shape[axis]
    ends = np.linspace(0, length, SIDE + 1)
    starts = np.minimum(ends[:-1].astype(np.int64), length - 1)
    sizes = np.maximum(np.diff(np.append(starts, length)), 1)
    shape = [1, 1]
    shape[axis] = SIDE
    return np.add.reduceat(values, starts, axis=axis) / sizes.reshape(shape)
