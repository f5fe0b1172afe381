"""decord's VideoReader behind the interface of video/reader.py. See there for where it is inexact."""

import io
from collections.abc import Mapping

from mvit_video.video.byte_source import ByteSource
from mvit_video.video.container import VideoFile
from mvit_video.video.index import Orientation, VideoDecodeError, VideoInfo
from mvit_video.video.pictures import Canvas, rgb_frame


class DecordDecoder:
    """Frames by decord; picture size and codec are checked through PyAV first.

    A stretch of a larger file and a remote video are read into memory, for decord opens whole files alone.
    """

    damage = ""
    orientation = Orientation()  # decord turns the pictures itself

    def __init__(self, source: ByteSource, *, max_pixels: int) -> None:
        try:
            import decord  # optional: it has no wheels for many platforms
        except ImportError as error:
            raise RuntimeError(
                "backend='decord': decord is not installed; pip install decord, or use 'pyav'"
            ) from error
        self.name = source.name
        with VideoFile(source, max_pixels=max_pixels) as file:
            codec = file.codec
        decord.logging.set_level(decord.logging.QUIET)
        self._error = decord.DECORDError
        try:
            target = source.path if source.data is None and source.whole else io.BytesIO(source.read())
            self._reader = decord.VideoReader(target, ctx=decord.cpu(0), num_threads=1)
            height, width, _ = self._reader[0].shape
            count, fps = len(self._reader), float(self._reader.get_avg_fps())
        except (self._error, RuntimeError, IndexError) as error:
            raise VideoDecodeError(self.name, f"decord cannot read it: {_first_line(error)}") from error
        if count < 1 or not fps > 0:
            raise VideoDecodeError(self.name, f"decord cannot read it: {count} frames at {fps} frames per second")
        self.coded = (height, width)
        self.info = VideoInfo(count, fps, height, width, codec, count / fps)

    def close(self) -> None:
        del self._reader

    def fill(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        """Draw frames (frame -> row of the canvas). Raises VideoDecodeError."""
        frames = sorted(rows)
        try:
            batch = self._reader.get_batch(frames).asnumpy()
        except (self._error, RuntimeError, IndexError) as error:
            raise VideoDecodeError(self.name, f"decord cannot decode it: {_first_line(error)}") from error
        for frame, picture in zip(frames, batch):
            canvas.draw(rgb_frame(picture), rows[frame])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
