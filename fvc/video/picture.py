"""How a decoded frame is displayed: upright, in square pixels, scaled, letterboxed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8, UInt16

Image = UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"]

# Each pixel is the mean of what it covers. Without the other flags FFmpeg's
# short cuts make white 253, and the result may depend on the processor.
SCALING = (
    Interpolation.AREA
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)


# Of the colour matrices in ITU-T H.273, table 4, swscale knows these. What claims another
# one is shown by that of BT.601, as where nothing is said, and as FFmpeg's player does.
KNOWN_MATRICES = {0, 1, 2, 4, 5, 6, 7, 9}
UNSPECIFIED_MATRIX = 2


@dataclass(frozen=True, slots=True)
class Orientation:
    """How stored pixels are turned for display: transposed first, then reversed."""

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool

    @property
    def rotation_deg(self) -> int:
        """The clockwise turn in quarters of a circle, mirroring aside."""
        return 90 * self.transposed + 180 * (self.rows_reversed)

    def apply(self, image: UInt8[np.ndarray, "H W ..."]) -> UInt8[np.ndarray, "h w ..."]:
        """Turn an image."""
        turned = image.swapaxes(0, 1) if self.transposed else image
        turned = turned[::-1] if self.rows_reversed else turned
        return turned[:, ::-1] if self.columns_reversed else turned


def orientation(frame: VideoFrame) -> Orientation:
    """The quarter turn and mirroring nearest to the frame's display matrix."""
    side_data = cast(Mapping[SideDataType, SideData], frame.side_data)
    try:
        entry = side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:
        # PyAV refuses the list as a whole when it does not know one kind in it.
        turns = round(frame.rotation / 90) % 4
        return Orientation(turns % 2 == 1, turns in (1, 2), turns in (2, 3))
    if entry is None:
        return Orientation(False, False, False)
    # x' = a x + c y and y' = b x + d y, where y points down.
    a, b, _, c, d = np.frombuffer(bytes(entry), np.dtype("=i4"))[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)


class Box(NamedTuple):
    """Where the picture lies in an image; everything is in pixels."""

    top: int
    left: int
    height: int
    width: int


def fitted(size: tuple[int, int], into: tuple[int, int]) -> Box:
    """The largest picture of this aspect ratio that lies in the middle of an image.

    Args:
        size: Width and height of the picture as displayed, in any unit.
        into: Height and width of the image.
    """
    (width, height), (room_height, room_width) = size, into
    # By the longer edge first: a picture fits exactly into the shape that it gave rise to.
    shown_width, shown_height = (max(round(max(into) * edge / max(size)), 1) for edge in size)
    if shown_height > room_height:
        shown_height = room_height
        shown_width = max(round(room_height * width / height), 1)
    elif shown_width > room_width:
        shown_width = room_width
        shown_height = max(round(room_width * height / width), 1)
    top, left = (room_height - shown_height) // 2, (room_width - shown_width) // 2
    return Box(top, left, shown_height, shown_width)


def native_shape(size: tuple[int, int], longer_px: int) -> tuple[int, int]:
    """Height and width of a picture without a letterbox, by its displayed width and height."""
    box = fitted(size, (longer_px, longer_px))
    return box.height, box.width


class Viewer:
    """Shows the frames of one video: upright, in square pixels, over black.

    What lies behind transparent pixels is black. The transparency that VP8 and
    VP9 keep beside the picture is not read by FFmpeg's own decoders, though.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._orientations: dict[int, Orientation] = {}

    def orientation(self, frame: VideoFrame) -> Orientation:
        """How a frame is turned; it is taken to be mirrored as others of equal rotation are."""
        # A frame whose side data is looked at refers to itself, so that its memory stays in
        # use until Python looks for cycles: with every frame, a large video would fill it.
        if frame.rotation not in self._orientations:
            self._orientations[frame.rotation] = orientation(frame)
        return self._orientations[frame.rotation]

    def displayed_size(self, frame: VideoFrame, pixel_aspect: float) -> tuple[int, int]:
        """Width and height in square pixels, upright.

        Args:
            frame: As decoded.
            pixel_aspect: Width over height of a stored pixel.
        """
        width = max(round(frame.width * pixel_aspect), 1)
        transposed = self.orientation(frame).transposed
        return (frame.height, width) if transposed else (width, frame.height)

    def letterboxed(
        self, frame: VideoFrame, pixel_aspect: float, shape: tuple[int, int]
    ) -> UInt8[np.ndarray, "H W 3"]:
        """The frame in RGB, as large as an image allows, between black bars.

        Args:
            frame: As decoded.
            pixel_aspect: Width over height of a stored pixel.
            shape: Height and width of the image.
        """
        turn = self.orientation(frame)
        box = fitted(self.displayed_size(frame, pixel_aspect), shape)
        stored = (box.height, box.width) if turn.transposed else (box.width, box.height)
        scaled = turn.apply(_scaled(frame, stored, "rgb24", self._reformatter))
        canvas = np.zeros((*shape, 3), np.uint8)
        canvas[box.top : box.top + box.height, box.left : box.left + box.width] = scaled
        return canvas

    def stretched_grey(self, frame: VideoFrame, side_px: int) -> UInt8[np.ndarray, "H W"]:
        """The frame in grey, stretched to a square."""
        scaled = _scaled(frame, (side_px, side_px), "gray", self._reformatter)
        return self.orientation(frame).apply(scaled)


def _scaled(
    frame: VideoFrame,
    size: tuple[int, int],
    pixel_format: Literal["rgb24", "gray"],
    reformatter: VideoReformatter,
) -> Image:
    if frame.colorspace not in KNOWN_MATRICES:
        frame.colorspace = UNSPECIFIED_MATRIX
    if not _can_be_transparent(frame):
        return _converted(frame, size, pixel_format, reformatter)
    colours = _converted(frame, size, "rgba", reformatter)
    opacity = colours[..., 3].astype(np.uint16)
    if pixel_format == "gray":
        return _over_black(_converted(frame, size, "gray", reformatter), opacity)
    return _over_black(colours[..., :3], opacity[..., None])


def _over_black(
    image: UInt8[np.ndarray, "H W ..."], opacity: UInt16[np.ndarray, "H W ..."]
) -> Image:
    return ((image * opacity + 127) // 255).astype(np.uint8)


def _can_be_transparent(frame: VideoFrame) -> bool:
    # A palette has an alpha for each colour.
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def _converted(
    frame: VideoFrame, size: tuple[int, int], pixel_format: str, reformatter: VideoReformatter
) -> UInt8[np.ndarray, "H W ..."]:
    scaled = reformatter.reformat(frame, *size, pixel_format, interpolation=SCALING, threads=1)
    return scaled.to_ndarray()
