"""A video with something drawn on it: the same pictures at the same times, H.264 in MP4, the sound kept; and an image.

The words are drawn on the brightness of the decoded pictures, on a dark plate without colour, so that nothing else of a
picture passes through another colour space.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import av
from PIL import Image

from mvit_video.data.loading.image_files import read_upright
from mvit_video.engine.contact_sheet import save_picture
from mvit_video.prediction.sound import SoundTrack
from mvit_video.prediction.words import QUALITY, Planes, draw_lines, draw_on_pixels, joined, planes_of
from mvit_video.runtime.files import replacing
from mvit_video.video.byte_source import locate
from mvit_video.video.container import orientation_of
from mvit_video.video.index import VideoDecodeError
from mvit_video.video.location import VideoLocation
from mvit_video.video.opening import open_input, video_stream
from mvit_video.video.pictures import matrix_of

logger = logging.getLogger(__name__)

_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Captions = Callable[[float], Sequence[str]]
PaintPicture = Callable[[Planes, float, str], Planes]
"""From the planes of a picture, its time and its colour matrix (one of video.yuv) to the planes that are written, which
have one size throughout a video. It may change the planes that it is given."""


def annotate_video(source: str, target: Path, captions: Captions) -> None:
    """Write `target`, an MP4 file: the video with words at its upper left edge.

    Args:
        source, target: see paint_video.
        captions: the lines to draw at a time, in seconds from the first picture; [] draws nothing.

    Raises:
        VideoDecodeError: the video cannot be read.
    """

    def write(planes: Planes, second: float, matrix: str) -> Planes:
        lines = captions(second)
        if lines:
            draw_lines(planes, lines)
        return planes

    paint_video(source, target, write)


def paint_video(source: str, target: Path, paint: PaintPicture) -> None:
    """Write `target`, an MP4 file: the video with something drawn on each picture, and its sound.

    A video that is damaged from some picture on is written up to there, with a warning.

    Args:
        source: path or URL of the video.
        target: made whole or not at all.
        paint: draws.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    opened, protocols = locate(VideoLocation.of(source)).target()
    options = {"protocol_whitelist": protocols}
    try:
        with (
            open_input(opened, options=options) as reader,
            replacing(target) as beside,
            av.open(f"file:{beside}", "w", format="mp4") as writer,
        ):
            _copy(reader, writer, paint, source)
    except av.error.FFmpegError as error:
        if error.errno in _NOT_WRITTEN:
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise VideoDecodeError(source, f"no annotated video can be made of it: {error.strerror}") from error


def _copy(reader: Any, writer: Any, paint: PaintPicture, source: str) -> None:
    """All packets of picture and sound, in the order of the file."""
    pictures = video_stream(reader)
    if pictures is None:
        raise VideoDecodeError(source, "has no pictures")
    pictures.thread_type = "AUTO"
    sound = next((stream for stream in reader.streams.audio), None)
    tracks = _Tracks(writer, pictures, sound, paint, source)
    for packet in reader.demux(*(stream for stream in (pictures, sound) if stream is not None)):
        try:
            tracks.add(packet)
        except av.error.InvalidDataError as error:
            logger.warning("%s: damaged, and its annotated video has nothing of that: %s", source, error.strerror)
    tracks.end()


class _Tracks:
    """The streams that are written. The picture's begins with its first frame, which tells the true size."""

    def __init__(self, writer: Any, pictures: Any, sound: Any, paint: PaintPicture, name: str) -> None:
        self.writer, self.pictures, self.sound, self.paint, self.name = writer, pictures, sound, paint, name
        self.video: Any = None
        self.audio: SoundTrack | None = None
        self.waiting: list[Any] = []  # packets of sound before the first picture: a header needs all streams
        self.rate = pictures.average_rate or pictures.guessed_rate or 25
        self.first: int | None = None
        self.last: int | None = None
        self.size = (0, 0)

    def add(self, packet: Any) -> None:
        """Take in a packet of one of the streams; an empty one ends it."""
        if packet.stream is self.pictures:
            for frame in packet.decode():
                self._add_picture(frame)
        elif self.video is None:
            self.waiting.append(packet)
        elif self.audio is not None:
            self.audio.add(packet)

    def end(self) -> None:
        """Write what the encoders still hold."""
        if self.video is None:
            raise VideoDecodeError(self.name, "no picture could be decoded")
        self.writer.mux(self.video.encode(None))
        if self.audio is not None:
            self.audio.end()

    def _add_picture(self, frame: Any) -> None:
        orientation = orientation_of(frame)
        planes = planes_of(frame, orientation)
        size = planes[0].shape
        if self.video is not None and size != self.size:
            return  # a stream that changes its size: MP4 has one
        pts = self._time(frame)
        self.first = pts if self.first is None else self.first
        painted = self.paint(planes, float((pts - self.first) * frame.time_base), matrix_of(frame))
        if self.video is None:
            self.size = size
            self._begin(*painted[0].shape, turned=orientation.transpose)
        drawn = joined(painted)
        drawn.pts, drawn.time_base = pts, frame.time_base
        self.writer.mux(self.video.encode(drawn))

    def _time(self, frame: Any) -> int:
        """When a picture is shown, in its time base. AVI says so in the order of decoding, or not at all."""
        pts: int | None = frame.pts
        if self.last is not None and (pts is None or pts <= self.last):
            pts = self.last + max(1, round(1 / (self.rate * frame.time_base)))
        self.last = pts or 0
        return self.last

    def _begin(self, height: int, width: int, *, turned: bool) -> None:
        context = self.pictures.codec_context
        self.video = self.writer.add_stream("libx264", rate=self.rate, options=dict(QUALITY))
        self.video.height, self.video.width, self.video.pix_fmt = height, width, "yuv420p"
        shape = self.pictures.sample_aspect_ratio  # of a pixel; without it a picture of wide pixels looks squeezed
        if shape:
            self.video.codec_context.sample_aspect_ratio = 1 / shape if turned else shape
        self.video.time_base = self.video.codec_context.time_base = self.pictures.time_base
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(self.video.codec_context, name, getattr(context, name))
        if self.sound is not None:
            self.audio = SoundTrack(self.writer, self.sound, self.name)
            for packet in self.waiting:
                self.audio.add(packet)
        self.waiting = []


def annotate_image(source: str, target: Path, lines: Sequence[str]) -> None:
    """Write `target`, a PNG file: the image, upright, with words at its upper left edge.

    Args:
        source: path or URL of the image.
        target: made whole or not at all.
        lines: one below the other.

    Raises:
        ImageDecodeError: the image cannot be read.
    """
    pixels = read_upright(source).numpy()
    draw_on_pixels(pixels, lines)
    save_picture(Image.fromarray(pixels), target)


def captions_of(segments: Iterable[tuple[float, float, str]]) -> Captions:
    """Captions of a timeline: at each time those of the segments that hold it.

    Args:
        segments: start, end and text.
    """
    held = list(segments)
    return lambda second: [text for start, end, text in held if start <= second < end]
