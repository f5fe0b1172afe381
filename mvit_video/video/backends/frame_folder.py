"""Videos that are folders of numbered pictures (Jester, extracted Something-Something v2), at a stated frame rate.

The number at the end of a name, before the extension, orders the frames; it may begin anywhere, and must not skip one.
"""

import os
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image

from mvit_video.video.byte_source import Deadline
from mvit_video.video.container import too_large
from mvit_video.video.index import FrameIndex, Orientation, VideoDecodeError, VideoInfo
from mvit_video.video.location import PICTURE_EXTENSIONS
from mvit_video.video.pictures import Canvas, rgb_frame

# What Pillow raises for files that are no pictures, or are cut short.
_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_NUMBER = re.compile(r"(\d+)\.[^.]+$")


class FrameFolderDecoder:
    """Frames from a folder; all have the size of the first.

    Args:
        name: what errors call the video.
        folder: the folder.
        frame_rate: frames per second.
        max_pixels: larger pictures are refused before they are decoded.
        deadline: when to give up; looked at between pictures.

    Attributes:
        pictures: names of the files, in the order of their numbers.

    Raises:
        VideoDecodeError: no pictures, or not numbered without gaps, or the first cannot be opened.
    """

    damage = ""
    orientation = Orientation()

    def __init__(self, name: str, folder: str, *, frame_rate: float, max_pixels: int, deadline: Deadline) -> None:
        self.name = name
        self._folder = folder
        self._max_pixels = max_pixels
        self._deadline = deadline
        self.pictures = self._numbered()
        self.coded = self._size_of_first()
        height, width = self.coded
        count = len(self.pictures)
        codec = os.path.splitext(self.pictures[0])[1][1:].lower()
        self.info = VideoInfo(count, frame_rate, height, width, codec, count / frame_rate)

    @property
    def frame_index(self) -> FrameIndex:
        """The frames, in the form that files have: there are no packets."""
        none = np.zeros(0, np.int32)
        return FrameIndex(
            info=self.info,
            stream=0,
            order=None,
            anchor=none,
            droppable=none.astype(bool),
            shown=none.astype(bool),
            stamps=None,
            corrupt=(),
            size=self.coded,
            orientation=self.orientation,
            damage="",
        )

    def close(self) -> None:
        """Nothing is held open."""

    def seconds_shown(self) -> npt.NDArray[np.float64]:
        """Seconds from the first frame to each, float64 (num_frames,)."""
        return np.arange(self.info.num_frames) / self.info.fps

    def fill(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        """Draw frames (frame -> row of the canvas). Raises VideoDecodeError, which names the file."""
        for frame in sorted(rows):
            self._deadline.check()
            canvas.draw(rgb_frame(self.picture(frame)), rows[frame])

    def _numbered(self) -> list[str]:
        """Names of the pictures in the order of their numbers."""
        try:
            names = [name for name in os.listdir(self._folder) if not name.startswith(".")]
        except OSError as error:
            raise VideoDecodeError(self.name, f"cannot be listed: {error.strerror or error}") from error
        files: dict[int, str] = {}
        for name in sorted(name for name in names if name.lower().endswith(PICTURE_EXTENSIONS)):
            match = _NUMBER.search(name)
            if match is None:
                raise VideoDecodeError(
                    self.name, f"{name} has no number at the end of its name, to order the frames by"
                )
            number = int(match[1])
            if number in files:
                raise VideoDecodeError(self.name, f"{files[number]} and {name} have the same number")
            files[number] = name
        if not files:
            raise VideoDecodeError(self.name, f"holds no pictures ({', '.join(PICTURE_EXTENSIONS)})")
        first = min(files)
        gap = next((number for number in range(first, first + len(files)) if number not in files), None)
        if gap is not None:
            raise VideoDecodeError(self.name, f"frame number {gap} is missing, behind {files[gap - 1]}")
        return [files[number] for number in sorted(files)]

    def _size_of_first(self) -> tuple[int, int]:
        try:
            with Image.open(os.path.join(self._folder, self.pictures[0])) as picture:
                width, height = picture.size
        except _ERRORS as error:
            raise self._broken(self.pictures[0], error) from error
        if height * width > self._max_pixels:
            raise too_large(self.name, height, width, self._max_pixels)
        return height, width

    def picture(self, frame: int) -> npt.NDArray[np.uint8]:
        """A picture, uint8 (H, W, 3). Raises VideoDecodeError, which names the file."""
        name = self.pictures[frame]
        try:
            with Image.open(os.path.join(self._folder, name)) as picture:
                width, height = picture.size
                if (height, width) != self.coded:
                    first = f"{self.pictures[0]} has {self.coded[1]}x{self.coded[0]}"
                    raise VideoDecodeError(self.name, f"{name} has {width}x{height} pixels, {first}")
                return np.asarray(picture.convert("RGB"))
        except _ERRORS as error:
            raise self._broken(name, error) from error

    def _broken(self, name: str, error: BaseException) -> VideoDecodeError:
        reason = getattr(error, "strerror", None) or str(error).replace(self._folder + os.sep, "")
        return VideoDecodeError(self.name, f"{name} cannot be decoded: {reason}")
