"""From decoded pictures to tensors: cropping, scaling, colour conversion and rotation, as little of each as needed."""

import threading
from dataclasses import dataclass
from typing import Any, Protocol, cast

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mvit_video.video.index import Orientation
from mvit_video.video.yuv import YuvFrames

Picture = npt.NDArray[np.uint8]

_SIMPLE = ("yuv420p", "yuvj420p")  # 8 bit, a colour sample for 2x2 pixels, in planes
_UNSPECIFIED = 2
# AVColorSpace (ITU-T H.273, table 4) that the conversion knows; it refuses a picture with any other.
_KNOWN_SPACES = {0: "bt601", 1: "bt709", 2: "bt601", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
_LIKE = {10: 9}
_CONVERSIONS = {"bt601": Colorspace.ITU601, "bt709": Colorspace.ITU709, "fcc": Colorspace.FCC}
_CONVERSIONS |= {"smpte240m": Colorspace.SMPTE240M, "bt2020": Colorspace.BT2020}
_BILINEAR = int(Interpolation.BILINEAR)
_local = threading.local()  # conversion contexts, kept per thread: setting one up costs as much as ten small pictures


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, crop: tuple[int, int, int, int], *, height: int, width: int) -> "Box":
        """The box of a crop (top, left, height, width) of a picture of that size. ValueError if it does not fit."""
        box = cls(*(int(edge) for edge in crop))
        inside = min(box.top, box.left) >= 0 and box.top + box.height <= height and box.left + box.width <= width
        if not inside or box.height < 1 or box.width < 1:
            raise ValueError(
                f"crop={tuple(crop)} (top, left, height, width) is not inside the picture, {height}x{width}"
            )
        return box

    def before(self, orientation: Orientation, *, height: int, width: int) -> "Box":
        """The same part before the picture was turned to what is now (height, width)."""
        top = height - self.top - self.height if orientation.flip_rows else self.top
        left = width - self.left - self.width if orientation.flip_columns else self.left
        if orientation.transpose:
            return Box(left, top, self.width, self.height)
        return Box(top, left, self.height, self.width)

    def grown_to_even(self, *, height: int, width: int) -> "Box":
        """The smallest box around this one that cuts no colour sample of a picture of (height, width)."""
        top, left = self.top & ~1, self.left & ~1
        bottom, right = min(height, self.top + self.height + 1 & ~1), min(width, self.left + self.width + 1 & ~1)
        return Box(top, left, bottom - top, right - left)

    def cut(self, picture: Picture) -> Picture:
        """This part of (H, W, ...), as a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]


class Canvas(Protocol):
    """Where decoded pictures go."""

    def draw(self, frame: av.VideoFrame, row: int) -> None:
        """Put a picture into row `row`. Raises av.error.FFmpegError if FFmpeg cannot convert it."""


def reformat(
    frame: av.VideoFrame,
    *,
    to: str | None = "rgb24",
    size: tuple[int, int] | None = None,
    space: Colorspace | None = None,
    full_range: bool | None = None,
) -> av.VideoFrame:
    """Convert a picture as `frame.to_ndarray` does, and scale it to `size` (height, width)."""
    if frame.colorspace not in _KNOWN_SPACES:
        frame.colorspace = _LIKE.get(frame.colorspace, _UNSPECIFIED)
    height, width = (None, None) if size is None or size == (frame.height, frame.width) else size
    task = "convert" if height is None else "scale"  # a context is set up anew when what it does changes
    context = getattr(_local, task, None)
    if context is None:
        context = VideoReformatter()
        setattr(_local, task, context)
    range_ = None if full_range is None else ColorRange.JPEG if full_range else ColorRange.MPEG
    return context.reformat(
        frame,
        width,
        height,
        to,
        dst_colorspace=space,
        dst_color_range=range_,
        interpolation=_BILINEAR,
        threads=1,
    )


def plane_rows(plane: VideoPlane, channels: int = 1) -> Picture:
    """A view of a plane: (H, W), or (H, W, channels)."""
    pitch, height, width = plane.line_size, plane.height, plane.width
    first = 0 if pitch > 0 else -pitch * (height - 1)  # below 0 the last row comes first
    buffer = cast(Any, plane)  # NumPy's stubs know no other buffers than those of the standard library
    if channels == 1:
        return np.ndarray((height, width), np.uint8, buffer, first, (pitch, 1))
    return np.ndarray((height, width, channels), np.uint8, buffer, first, (pitch, channels, 1))


def rgb_frame(picture: Picture) -> av.VideoFrame:
    """A picture (H, W, 3) from elsewhere as a frame; its memory is shared."""
    return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), "rgb24")


class RgbCanvas:
    """Pictures as RGB.

    Args:
        out: uint8 (N, height, width, 3), presented pictures; another size than the part's means scaling.
        coded: (height, width) before rotation that pictures have; those of another size are scaled to it first, for
            streams may change their size on the way.
        orientation: from coded to presented pictures.
        part: what to take of the coded picture, None for all.
    """

    def __init__(
        self, out: Picture, *, coded: tuple[int, int], orientation: Orientation, part: Box | None = None
    ) -> None:
        self._out = out
        self._coded = coded
        self._orientation = orientation
        self._part = part
        height, width = out.shape[1:3]
        self._size = (width, height) if orientation.transpose else (height, width)
        self._scaled = self._size != (coded if part is None else (part.height, part.width))
        self._scratch: av.VideoFrame | None = None

    def draw(self, frame: av.VideoFrame, row: int) -> None:
        """As `Canvas.draw`."""
        if self._scaled:
            part = frame if self._part is None else self._cut(frame)
            if part.format.name in _SIMPLE:  # faster than in one pass, and no worse
                part = reformat(part, to=part.format.name, size=self._size)
            picture = plane_rows(reformat(part, size=self._size).planes[0], 3)
        elif self._part is None:
            picture = plane_rows(reformat(frame, size=self._coded).planes[0], 3)
        else:
            picture = self._converted_part(frame, self._part)
        self._out[row] = self._orientation.apply(picture)

    def _converted_part(self, frame: av.VideoFrame, part: Box) -> Picture:
        """The part of the converted picture; pixels outside are converted only where the result depends on them."""
        height, width = self._coded
        # The rows of pictures of odd height are interpolated, so that a part alone would look different at its edges.
        if frame.format.name not in _SIMPLE or (frame.height, frame.width) != self._coded or height % 2:
            return part.cut(plane_rows(reformat(frame, size=self._coded).planes[0], 3))
        grown = part.grown_to_even(height=height, width=width)
        picture = plane_rows(reformat(self._copied(frame, grown)).planes[0], 3)
        return Box(part.top - grown.top, part.left - grown.left, part.height, part.width).cut(picture)

    def _cut(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The part as a frame of its own, in the picture's format if that is a simple one, else in RGB."""
        assert self._part is not None
        if frame.format.name in _SIMPLE and (frame.height, frame.width) == self._coded:
            return self._copied(frame, self._part)
        return rgb_frame(self._part.cut(plane_rows(reformat(frame, size=self._coded).planes[0], 3)))

    def _copied(self, frame: av.VideoFrame, part: Box) -> av.VideoFrame:
        """A part of a simple frame; with odd edges, its colour lies up to one pixel beside its brightness."""
        scratch = self._scratch
        shape = (frame.format.name, part.height, part.width)
        if scratch is None or (scratch.format.name, scratch.height, scratch.width) != shape:
            self._scratch = scratch = av.VideoFrame(part.width, part.height, frame.format.name)
        scratch.colorspace, scratch.color_range = frame.colorspace, frame.color_range
        for number, (source, target) in enumerate(zip(frame.planes, scratch.planes)):
            top, left = (part.top // 2, part.left // 2) if number else (part.top, part.left)
            into = plane_rows(target)
            into[...] = plane_rows(source)[top : top + into.shape[0], left : left + into.shape[1]]
        return scratch


class YuvCanvas:
    """Pictures as YUV 4:2:0, in presented orientation. All get the colour matrix and range of the first one drawn.

    Args:
        count: pictures.
        coded, orientation: as for RgbCanvas.
    """

    def __init__(self, count: int, *, coded: tuple[int, int], orientation: Orientation) -> None:
        height, width = coded[::-1] if orientation.transpose else coded
        self.y = torch.empty((count, height, width), dtype=torch.uint8)
        self.uv = torch.empty((count, 2, (height + 1) // 2, (width + 1) // 2), dtype=torch.uint8)
        self._views = self.y.numpy(), self.uv.numpy()
        self._coded = coded
        self._orientation = orientation
        self._colours: tuple[str, bool] | None = None

    def draw(self, frame: av.VideoFrame, row: int) -> None:
        """As `Canvas.draw`."""
        if frame.format.name not in _SIMPLE or (frame.height, frame.width) != self._coded:
            frame = self._simple(frame)
        colours = _colours(frame)
        if self._colours is None:
            self._colours = colours
        elif colours != self._colours:
            matrix, full = self._colours
            frame = reformat(reformat(frame), to="yuv420p", space=_CONVERSIONS[matrix], full_range=full)
        y, u, v = (self._orientation.apply(plane_rows(plane)) for plane in frame.planes)
        into_y, into_uv = self._views
        into_y[row] = y
        into_uv[row, 0] = u
        into_uv[row, 1] = v

    def frames(self) -> YuvFrames:
        """What was drawn."""
        matrix, full = self._colours or ("bt601", False)
        return YuvFrames(self.y, self.uv, matrix, full)

    def _simple(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Any picture as 8-bit YUV 4:2:0; its own matrix and range are kept if it is YUV."""
        if frame.format.is_rgb or frame.format.has_palette:
            return reformat(frame, to="yuv420p", size=self._coded, space=Colorspace.ITU601, full_range=False)
        full = _colours(frame)[1]
        return reformat(frame, to="yuv420p", size=self._coded, full_range=full)


def matrix_of(frame: av.VideoFrame) -> str:
    """How a YUV picture was made from RGB, one of yuv.MATRICES; "bt601" where the file does not say."""
    return _KNOWN_SPACES.get(_LIKE.get(frame.colorspace, frame.colorspace), "bt601")


def _colours(frame: av.VideoFrame) -> tuple[str, bool]:
    """(matrix, full range) of a YUV picture."""
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    return matrix_of(frame), full
