"""A video with words drawn on it: the same pictures at the same times, H.264 in MP4, the sound kept.

The words are drawn on the brightness of the decoded pictures, on a dark plate without colour, so that nothing else of a
picture passes through another colour space. Sound that MP4 takes is copied packet by packet, other sound becomes AAC.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from mvit_video.runtime.files import replacing
from mvit_video.video.byte_source import locate
from mvit_video.video.container import orientation_of
from mvit_video.video.index import Orientation, VideoDecodeError
from mvit_video.video.location import VideoLocation

logger = logging.getLogger(__name__)

Captions = Callable[[float], Sequence[str]]
Plane = npt.NDArray[np.uint8]

_COPIED = ("aac", "mp3", "mp2", "ac3", "eac3", "opus", "alac", "flac")  # codecs of sound that MP4 takes
_QUALITY = {"crf": "20", "preset": "veryfast"}
_GREY, _PLATE, _WHITE = 128, 16, 235  # of YUV with limited range


def annotate_video(source: str, target: Path, captions: Captions) -> None:
    """Write `target`, an MP4 file: the video with words at its upper left edge.

    A video that is damaged from some picture on is written up to there, with a warning.

    Args:
        source: path or URL of the video.
        target: made whole or not at all.
        captions: the lines to draw at a time, in seconds from the first picture; [] draws nothing.

    Raises:
        VideoDecodeError: the video cannot be read.
    """
    opened, protocols = locate(VideoLocation.of(source)).target()
    options = {"protocol_whitelist": protocols}
    try:
        with (
            av.open(opened, options=options) as reader,
            replacing(target) as beside,
            av.open(str(beside), "w", format="mp4") as writer,
        ):
            _copy(reader, writer, captions, source)
    except av.error.FFmpegError as error:
        raise VideoDecodeError(source, f"no annotated video can be made of it: {error.strerror}") from error


def _copy(reader: Any, writer: Any, captions: Captions, source: str) -> None:
    """All packets of picture and sound, in the order of the file."""
    if not reader.streams.video:
        raise VideoDecodeError(source, "has no pictures")
    pictures = reader.streams.video[0]
    pictures.thread_type = "AUTO"
    sound = next((stream for stream in reader.streams.audio), None)
    tracks = _Tracks(writer, pictures, sound, captions)
    for packet in reader.demux(*(stream for stream in (pictures, sound) if stream is not None)):
        try:
            tracks.add(packet)
        except av.error.InvalidDataError as error:
            logger.warning("%s: damaged, and its annotated video has nothing of that: %s", source, error.strerror)
    tracks.end()


class _Tracks:
    """The streams that are written. The picture's begins with its first frame, which tells the true size."""

    def __init__(self, writer: Any, pictures: Any, sound: Any, captions: Captions) -> None:
        self.writer, self.pictures, self.sound, self.captions = writer, pictures, sound, captions
        self.video: Any = None
        self.audio: Any = None
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
        else:
            self._add_sound(packet)

    def end(self) -> None:
        """Write what the encoders still hold."""
        if self.video is None:
            raise VideoDecodeError(str(self.writer.name), "no picture could be decoded")
        self.writer.mux(self.video.encode(None))
        if self.audio is not None and not self._copies:
            self.writer.mux(self.audio.encode(None))

    @property
    def _copies(self) -> bool:
        # The decoder of mp3 is called mp3float.
        return self.sound is not None and self.sound.codec_context.codec.canonical_name in _COPIED

    def _add_picture(self, frame: Any) -> None:
        orientation = orientation_of(frame)
        planes = _planes(frame, orientation)
        height, width = planes[0].shape
        if self.video is None:
            self._begin(height, width)
        if (height, width) != self.size:
            return  # a stream that changes its size: MP4 has one
        pts = self._time(frame)
        self.first = pts if self.first is None else self.first
        lines = self.captions(float((pts - self.first) * frame.time_base))
        if lines:
            draw_lines(planes, lines)
        drawn = av.VideoFrame.from_ndarray(_joined(planes), format="yuv420p")
        drawn.pts, drawn.time_base = pts, frame.time_base
        self.writer.mux(self.video.encode(drawn))

    def _time(self, frame: Any) -> int:
        """When a picture is shown, in its time base. AVI says so in the order of decoding, or not at all."""
        pts: int | None = frame.pts
        if self.last is not None and (pts is None or pts <= self.last):
            pts = self.last + max(1, round(1 / (self.rate * frame.time_base)))
        self.last = pts or 0
        return self.last

    def _begin(self, height: int, width: int) -> None:
        context = self.pictures.codec_context
        self.video = self.writer.add_stream("libx264", rate=self.rate, options=dict(_QUALITY))
        self.size = (height, width)
        self.video.height, self.video.width, self.video.pix_fmt = height, width, "yuv420p"
        self.video.time_base = self.video.codec_context.time_base = self.pictures.time_base
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(self.video.codec_context, name, getattr(context, name))
        if self._copies:
            self.audio = self.writer.add_stream_from_template(self.sound)
        elif self.sound is not None:
            self.audio = self.writer.add_stream("aac", rate=self.sound.codec_context.sample_rate)
        for packet in self.waiting:
            self._add_sound(packet)
        self.waiting = []

    def _add_sound(self, packet: Any) -> None:
        if self._copies:
            if packet.dts is not None:
                packet.stream = self.audio
                self.writer.mux(packet)
            return
        for frame in packet.decode():
            self.writer.mux(self.audio.encode(frame))


def _planes(frame: Any, orientation: Orientation) -> tuple[Plane, Plane, Plane]:
    """Brightness (H, W) and colours (H/2, W/2), as the picture is presented; an odd edge becomes even."""
    height, width = frame.height - frame.height % 2, frame.width - frame.width % 2
    plain = frame.reformat(width=width, height=height, format="yuv420p", dst_color_range="MPEG").to_ndarray()
    colour = plain[height:].reshape(2, height // 2, width // 2)
    turned = [orientation.apply(plane) for plane in (plain[:height], colour[0], colour[1])]
    y, u, v = (np.ascontiguousarray(plane) for plane in turned)
    return y, u, v


def _joined(planes: tuple[Plane, Plane, Plane]) -> Plane:
    """The planes below one another, as PyAV takes them."""
    width = planes[0].shape[1]
    return np.concatenate([planes[0].reshape(-1), planes[1].reshape(-1), planes[2].reshape(-1)]).reshape(-1, width)


def draw_lines(planes: tuple[Plane, Plane, Plane], lines: Sequence[str]) -> None:
    """Draw lines of text on a plate at the upper left edge, in place.

    Args:
        planes: brightness (H, W) and colours (H/2, W/2), limited range.
        lines: one below the other; what does not fit into the picture is cut off.
    """
    y, u, v = planes
    text = _text_mask(tuple(lines), max(10, min(y.shape) // 18))
    height, width = min(text.shape[0], y.shape[0]) // 2 * 2, min(text.shape[1], y.shape[1]) // 2 * 2
    share = text[:height, :width].astype(np.float32) / 255
    plate = 0.35 * y[:height, :width] + 0.65 * _PLATE
    y[:height, :width] = np.rint(plate * (1 - share) + _WHITE * share).astype(np.uint8)
    for colour in (u, v):
        part = colour[: height // 2, : width // 2]
        part[...] = (part * 0.35 + _GREY * 0.65).astype(np.uint8)


@lru_cache(maxsize=256)
def _text_mask(lines: tuple[str, ...], size: int) -> Plane:
    """How much of each pixel is covered by letters, uint8 (H, W); H and W are even."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    # Pillow's own font knows Latin letters alone.
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    text, margin = "\n".join(lines), max(2, size // 3)
    box = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((margin, margin), text, font=font)
    width, height = (int(-(-length // 2) * 2) for length in (box[2] + margin, box[3] + margin))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).multiline_text((margin, margin), text, fill=255, font=font)
    return np.asarray(mask)


def captions_of(segments: Iterable[tuple[float, float, str]]) -> Captions:
    """Captions of a timeline: at each time those of the segments that hold it.

    Args:
        segments: start, end and text.
    """
    held = list(segments)
    return lambda second: [text for start, end, text in held if start <= second < end]
