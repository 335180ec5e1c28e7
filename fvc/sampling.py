"""Which frames make a clip: integers in, integers out."""

import numpy as np
from jaxtyping import Int


def sample_frames(
    boundaries: Int[np.ndarray, " boundaries"], num_clips: int, num_frames: int
) -> Int[np.ndarray, "N T"]:
    """Choose the frames of every clip of one video.

    The video is divided into N equal spans of time and each of those into T;
    the frame that is on the screen at the centre of each is taken. A video
    with fewer frames than spans therefore repeats some.

    Args:
        boundaries: When each frame appears, strictly increasing, and after the
            last of them when that frame ends; in any unit of time.
        num_clips: Clips of one video (N).
        num_frames: Frames of one clip (T).

    Returns:
        Frame numbers, from 0.

    Raises:
        ValueError: There is no frame, or time does not increase.

    Source:
        The centres of equal segments are the test-time sampling of Wang et al.,
        "Temporal Segment Networks", arXiv:1608.00859.
    """
    if len(boundaries) < 2:
        raise ValueError("there is no frame to choose from")
    if not np.all(np.diff(boundaries) > 0):
        raise ValueError("the frames' times do not increase strictly")
    start, end = int(boundaries[0]), int(boundaries[-1])
    num_centres = num_clips * num_frames
    # Python's integers: a product of nanoseconds and frames can leave 64 bits.
    offsets = [(2 * k + 1) * (end - start) // (2 * num_centres) for k in range(num_centres)]
    shown = np.searchsorted(boundaries, start + np.array(offsets), side="right") - 1
    return shown.reshape(num_clips, num_frames)
