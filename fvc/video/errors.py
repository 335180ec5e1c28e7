"""Why a file is refused as a video."""

REASONS = (
    "empty",
    "not_a_video",
    "truncated",
    "no_video_stream",
    "undecodable",
    "no_timing",
    "too_short",
)
"""Why a file is refused: it has no bytes; it is no video file; it starts like one, but
what is needed to read it is missing; it holds no moving pictures; no frame comes out;
it says nothing about time; it has too few frames."""

BEYOND_LIMITS = ("too_large", "too_long", "too_many_frames")
"""Why a stranger's file is refused besides."""


class VideoError(Exception):
    """A file that cannot be used as a video, for one of `REASONS` or `BEYOND_LIMITS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)

    @property
    def reason(self) -> str:
        """In a word: one of `REASONS` or `BEYOND_LIMITS`."""
        return self.args[0]

    @property
    def detail(self) -> str:
        """What was found, in words."""
        return self.args[1]

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})"


class OutOfMemoryError(VideoError, MemoryError):
    """A file whose decoding takes more memory than there is."""

    def __init__(self) -> None:
        VideoError.__init__(self, "undecodable", "decoding it takes more memory than there is")

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()
