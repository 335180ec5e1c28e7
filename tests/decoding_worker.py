"""What a worker does that decodes one file and says how much memory it ever took."""

from pathlib import Path

import numpy as np
import pytest
from barcodes import in_sequence
from settings import clips_config

from fvc.video import VideoError, probe, read_clips, read_frames

CLIPS = clips_config(4, 16, 224)


def decode_all(path: Path) -> tuple[str, float]:
    """How all that is ever asked of a video ended, and the peak of this process in megabytes."""
    end = "usable"
    try:
        probe(path)
        read_frames(path, 2.0, 64, 32)
        clips = read_clips(path, CLIPS)
        with pytest.MonkeyPatch.context() as patched:
            whole = in_sequence(path, patched, CLIPS)
        picked = clips.decoded_in_sequence is None
        if picked and not np.array_equal(clips.pixels, whole.pixels):
            end = "picked frames differ from a full decode"
    except VideoError as error:
        end = error.reason
    # Not ru_maxrss: what the parent held when it started this process counts in that.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return end, int(peak) * 1024 / 1e6
