"""What one video may be, found out before any of it is decoded, unless it lies."""

from dataclasses import dataclass

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fvc.video.errors import VideoError
from fvc.video.packets import Timeline

MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Of a video that comes from a stranger."""

    max_duration_s: float
    max_pixels: int
    """Of a frame as it is stored."""
    max_frames: int

    def require_header(self, container: InputContainer, stream: VideoStream) -> None:
        """Look at what a video says of itself.

        Raises:
            VideoError: It is longer, or its frames are larger.
        """
        self._require_size(stream.codec_context.width, stream.codec_context.height)
        self._require_duration((container.duration or 0) / MICROSECONDS)

    def require_frame(self, frame: VideoFrame) -> None:
        """Look at a frame that was decoded: the size may change in the middle of a video.

        Raises:
            VideoError: It is larger.
        """
        self._require_size(frame.width, frame.height)

    def require_timeline(self, times: Timeline) -> None:
        """Look at what its packets say, or, where these cannot be believed, its frames.

        Raises:
            VideoError: It is longer.
        """
        self._require_duration(float(times.duration_s))

    def _require_size(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            detail = f"frames of {width} x {height}, above {self.max_pixels / 1e6:g} megapixels"
            raise VideoError("too_large", detail)

    def _require_duration(self, seconds: float) -> None:
        if seconds > self.max_duration_s:
            raise VideoError("too_long", f"{seconds:.0f} s, above {self.max_duration_s:g}")
