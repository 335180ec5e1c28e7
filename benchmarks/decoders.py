"""The usual ways to take certain frames from a video, each on one thread; none is needed to run.

All give uint8 RGB letterboxed as ours: (T, S, S, 3). They are told for nothing which frames to
take, where ours works it out; each scales in the quickest way that its library offers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

import av
import cv2
import numpy as np
from jaxtyping import UInt8
from made_videos import Wanted

SIDE_PX = 224
EARLY_S = 0.002
"""Containers round times, Matroska to a millisecond."""
INSTALLATION = "`make bench` installs it, and torchcodec needs the system's FFmpeg, 4 to 8"

Image = UInt8[np.ndarray, "H W 3"]
Decoder = Callable[[Wanted], UInt8[np.ndarray, "T S S 3"]]


class DecoderError(Exception):
    """A library did not give the frames that it was asked for."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to decode."""

    name: str
    decode: Decoder
    module: str
    """What it needs."""

    def absence(self) -> str | None:
        """Why the library cannot be used, or None where it can."""
        try:
            import_module(self.module)
        # torchcodec raises a RuntimeError where it finds no FFmpeg.
        except (ImportError, RuntimeError) as error:
            return str(error).strip().splitlines()[0]
        return None


def content_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a picture inside its square."""
    high, wide = (max(round(SIDE_PX * side / max(height, width)), 1) for side in (height, width))
    return high, wide


def boxed(images: Sequence[Image]) -> UInt8[np.ndarray, "T S S 3"]:
    """Put scaled pictures into black squares."""
    canvas = np.zeros((len(images), SIDE_PX, SIDE_PX, 3), np.uint8)
    for square, image in zip(canvas, images, strict=True):
        height, width = image.shape[:2]
        top, left = (SIDE_PX - height) // 2, (SIDE_PX - width) // 2
        square[top : top + height, left : left + width] = image
    return canvas


def _scaled(image: Image) -> Image:
    height, width = content_size(*image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _captured(wanted: Wanted) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(wanted.file), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise DecoderError("cv2 does not open it")
    return capture


def cv2_seek(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Set the position to each frame and read it."""
    capture, images = _captured(wanted), []
    for number in wanted.numbers:
        capture.set(cv2.CAP_PROP_POS_FRAMES, number)
        is_read, image = capture.read()
        if not is_read:
            raise DecoderError(f"cv2 does not read frame {number}")
        images.append(cv2.cvtColor(_scaled(image), cv2.COLOR_BGR2RGB))
    capture.release()
    return boxed(images)


def cv2_grab(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Grab every frame up to the last one, and retrieve those that are wanted."""
    capture, images = _captured(wanted), []
    chosen = set(wanted.numbers)
    for number in range(max(chosen) + 1):
        if not capture.grab():
            raise DecoderError(f"cv2 does not grab frame {number}")
        if number in chosen:
            image = capture.retrieve()[1]
            images.append(cv2.cvtColor(_scaled(image), cv2.COLOR_BGR2RGB))
    capture.release()
    return boxed(images)


def decode_all(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Decode the whole video to RGB, as torchvision's reader did, and scale some by PIL."""
    from PIL.Image import Resampling

    images, chosen = [], set(wanted.numbers)
    for number, frame in enumerate(_frames(wanted)):
        picture = frame.to_image()
        if number in chosen:
            upright = picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
            height, width = content_size(upright.height, upright.width)
            images.append(np.asarray(upright.resize((width, height), Resampling.BILINEAR)))
    return boxed(images)


def _frames(wanted: Wanted) -> Iterator[av.VideoFrame]:
    with av.open(str(wanted.file)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        yield from container.decode(video=0)


def pyav_seek(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Seek to the key frame before each frame and decode up to it."""
    images = []
    with av.open(str(wanted.file)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        if stream.time_base is None:
            raise DecoderError("no unit of time")
        first_s = float((stream.start_time or 0) * stream.time_base)
        for start_s, middle_s in zip(wanted.starts_s, wanted.middles_s, strict=True):
            container.seek(int((first_s + middle_s) / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is not None and frame.time - first_s >= start_s - EARLY_S:
                    images.append(_by_swscale(frame))
                    break
    if len(images) < len(wanted.numbers):
        raise DecoderError(f"PyAV gives {len(images)} frames")
    return boxed(images)


def _by_swscale(frame: av.VideoFrame) -> Image:
    height, width = content_size(frame.height, frame.width)
    image = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    return np.rot90(image, frame.rotation // 90)


def decord2(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Ask for all frames in one batch."""
    import decord

    try:
        reader = decord.VideoReader(str(wanted.file), ctx=decord.cpu(0), num_threads=1)
        batch = reader.get_batch(list(wanted.numbers)).asnumpy()
    except decord.DECORDError as error:
        raise DecoderError(str(error).strip().splitlines()[-1]) from error
    return boxed([_scaled(image) for image in batch])


def torchcodec_approximate(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Ask for the frames at certain times, by the header and the container's index."""
    return _by_torchcodec(wanted, "approximate")


def torchcodec_exact(wanted: Wanted) -> UInt8[np.ndarray, "T S S 3"]:
    """Ask for the frames at certain times, after a pass over all packets."""
    return _by_torchcodec(wanted, "exact")


def _by_torchcodec(wanted: Wanted, seek_mode: str) -> UInt8[np.ndarray, "T S S 3"]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(
        str(wanted.file), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
    )
    begin_s = decoder.metadata.begin_stream_seconds or 0
    times_s = [begin_s + middle_s for middle_s in wanted.middles_s]
    try:
        frames = decoder.get_frames_played_at(times_s).data.numpy()
    except (IndexError, RuntimeError) as error:
        raise DecoderError(str(error).strip().splitlines()[0]) from error
    return boxed([_scaled(image) for image in frames])


COMPETITORS = (
    Way("cv2 seek", cv2_seek, "cv2"),
    Way("decode all, PIL", decode_all, "PIL"),
    Way("PyAV seek", pyav_seek, "av"),
    Way("cv2 grab", cv2_grab, "cv2"),
    Way("decord2", decord2, "decord"),
    Way("torchcodec", torchcodec_approximate, "torchcodec.decoders"),
    Way("torchcodec exact", torchcodec_exact, "torchcodec.decoders"),
)
PACKAGES = ("av", "opencv-python-headless", "pillow", "decord2", "torch", "torchcodec", "numpy")
