"""One video written again as a small H.264 file that is quick to read clips from, on the same time line.

Small groups of pictures let a reader start near any frame, and without CABAC, deblocking and B pictures (`fastdecode`)
each takes a fraction of the time. A file is written beside its place, read back and compared with its source, and only
then renamed.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from mvit_video.preparation.full_decode import decode_all, open_packets, ticks
from mvit_video.preparation.journal import FileState, Record, index_fields
from mvit_video.runtime.files import replacing
from mvit_video.video import x264
from mvit_video.video.byte_source import locate
from mvit_video.video.index import FrameIndex, Orientation, VideoDecodeError
from mvit_video.video.index_builder import build_index
from mvit_video.video.location import VideoLocation
from mvit_video.video.packets import PacketReader

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow",
)  # fmt: skip
LEAST_PSNR = 20.0  # dB; another frame, or colours converted wrongly, give less; a coarse quality gives more
_COMPARED = 4  # frames
Picture = npt.NDArray[np.uint8]  # (H, W, 3), RGB


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How videos are written.

    Attributes:
        short_side: pixels of the shorter side; smaller videos are not enlarged.
        gop: most frames from one key frame to the next.
        crf: x264's quality, 0 to 51; lower is better and larger.
        preset: x264's trade of time for size.
        fastdecode: no CABAC, deblocking and B pictures: quicker to decode, somewhat larger.
    """

    short_side: int = 256
    gop: int = 16
    crf: int = 23
    preset: str = "medium"
    fastdecode: bool = True

    def __post_init__(self) -> None:
        if self.short_side < 16:
            raise ValueError(f"short_side={self.short_side}: at least 16 pixels")
        if self.gop < 1:
            raise ValueError(f"gop={self.gop}: at least 1 frame; 1 makes every frame a key frame")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf}: x264's range is 0 (lossless) to 51")
        if self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: must be one of {', '.join(PRESETS)}")

    @property
    def recipe(self) -> str:
        """The settings in one line: files written with the same ones need not be written again."""
        tune = " fastdecode" if self.fastdecode else ""
        return f"libx264 short_side={self.short_side} gop={self.gop} crf={self.crf} preset={self.preset}{tune}"

    def options(self) -> dict[str, str]:
        """For libx264. The bytes are the same on any machine; one thread, for files are encoded side by side."""
        options = {"crf": str(self.crf), "preset": self.preset, "g": str(self.gop), **x264.reproducible()}
        return options | ({"tune": "fastdecode", "bf": "0"} if self.fastdecode else {})


@dataclass(frozen=True)
class EncodeTask:
    """A video to write again.

    Attributes:
        location: the source.
        record: what reading it found.
        target: the file to write.
        encoding: how.
        max_pixels: the largest pictures (height * width) to accept.
    """

    location: VideoLocation
    record: Record
    target: str
    encoding: Encoding
    max_pixels: int

    def __str__(self) -> str:
        return self.location.name


def output_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) of the written pictures: even numbers, the shorter side at most `short_side`."""
    scale = min(1.0, short_side / min(height, width))
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def encode_file(task: EncodeTask) -> Record:
    """Write a video again and check it; its record, which then is about the new file.

    Raises:
        VideoDecodeError: the source does not decode, or the new file is not as it should be.
        OSError: it cannot be written.
    """
    index = task.record.frame_index
    target = Path(task.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    size = output_size(index.info.height, index.info.width, task.encoding.short_side)
    with replacing(target) as beside:
        with open_packets(locate(task.location), max_pixels=task.max_pixels) as reader:
            times = ticks(reader, index)
            try:
                samples = _encode(reader, index, times, size, task.encoding, beside)
            except VideoDecodeError:
                reader.reopen(forget=True)  # as a training does: once more, in FFmpeg's normal way
                samples = _encode(reader, index, times, size, task.encoding, beside)
        fresh, container = _check(task, index, times, beside, samples)
    return _record(task, fresh, container, target)


# --- writing


class _Pictures:
    """Presented pictures of a source, scaled and turned, in the encoder's format and, some of them, in RGB."""

    def __init__(self, orientation: Orientation, size: tuple[int, int]) -> None:
        self._orientation = orientation
        self._size = size
        self._coded = size[::-1] if orientation.transpose else size
        self._reformatter = VideoReformatter()

    def planar(self, frame: av.VideoFrame) -> av.VideoFrame:
        """As yuv420p of limited range."""
        scaled = self._scaled(frame, "yuv420p", dst_color_range=ColorRange.MPEG)
        if self._orientation == Orientation():
            return scaled
        height, width = self._coded
        planes = np.asarray(scaled.to_ndarray(), np.uint8).ravel()
        luma, chroma = height * width, height * width // 4
        parts = [
            planes[:luma].reshape(height, width),
            planes[luma : luma + chroma].reshape(height // 2, width // 2),
            planes[luma + chroma :].reshape(height // 2, width // 2),
        ]
        turned = [np.ascontiguousarray(self._orientation.apply(part[..., None])[..., 0]).ravel() for part in parts]
        rows = self._size[0] * 3 // 2
        result = av.VideoFrame.from_ndarray(np.concatenate(turned).reshape(rows, self._size[1]), format="yuv420p")
        result.colorspace, result.color_range = scaled.colorspace, scaled.color_range
        return result

    def rgb(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """As RGB: uint8 (H, W, 3)."""
        return self._orientation.apply(np.asarray(self._scaled(frame, "rgb24").to_ndarray(), np.uint8))

    def _scaled(self, frame: av.VideoFrame, pixels: str, *, dst_color_range: ColorRange | None = None) -> av.VideoFrame:
        height, width = self._coded
        return self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=pixels,
            dst_colorspace=Colorspace.ITU601 if frame.format.is_rgb and pixels == "yuv420p" else None,
            dst_color_range=dst_color_range,
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )


def _encode(
    reader: PacketReader,
    index: FrameIndex,
    times: tuple[Sequence[int], Fraction],
    size: tuple[int, int],
    encoding: Encoding,
    beside: Path,
) -> dict[int, Picture]:
    """Write the file; some of the source's pictures by frame number, to compare it with."""
    pictures = _Pictures(index.orientation, size)
    stamps, tick = times
    shift = min(0, *stamps)  # MP4 has no times before 0
    wanted = compared_frames(index.info.num_frames)
    samples: dict[int, Picture] = {}
    # The prefix keeps a colon in a name from being read as a protocol.
    with av.open(f"file:{beside}", "w", format="mp4", options={"movflags": "faststart"}) as output:
        stream = output.add_stream("libx264", rate=_rate(index.info.fps))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {**encoding.options()}
        stream.time_base = stream.codec_context.time_base = tick

        def on_frame(number: int, frame: av.VideoFrame) -> None:
            if number == 0:
                _copy_colours(frame, stream.codec_context)
            if number in wanted:
                samples[number] = pictures.rgb(frame)
            picture = pictures.planar(frame)
            picture.pts, picture.time_base = stamps[number] - shift, tick
            picture.pict_type = 0
            output.mux(stream.encode(picture))

        decode_all(reader, index, _in_order(reader.name, on_frame))
        output.mux(stream.encode())
    return samples


def _in_order(name: str, on_frame: Callable[[int, av.VideoFrame], None]) -> Callable[[int, av.VideoFrame], None]:
    """`on_frame`, refusing pictures that come out of order: the encoder takes them as they come."""
    expected = 0

    def checked(number: int, frame: av.VideoFrame) -> None:
        nonlocal expected
        if number != expected:
            raise VideoDecodeError(name, f"frame {number} comes out of the decoder where frame {expected} is due")
        expected += 1
        on_frame(number, frame)

    return checked


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001) or Fraction(1, 1001)


def _copy_colours(frame: av.VideoFrame, encoder: av.VideoCodecContext) -> None:
    """State the matrix the pictures keep; the conversion to yuv420p makes their range the limited one."""
    encoder.colorspace = int(Colorspace.ITU601) if frame.format.is_rgb else int(frame.colorspace)
    encoder.color_range = int(ColorRange.MPEG)
    encoder.color_primaries = int(frame.color_primaries)
    encoder.color_trc = int(frame.color_trc)


# --- checking


def compared_frames(num_frames: int) -> list[int]:
    """Frames whose pictures are compared: the first, the last, and some between."""
    return sorted({place * (num_frames - 1) // max(1, _COMPARED - 1) for place in range(_COMPARED)})


def psnr(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio of two pictures in dB; infinity for equal ones."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255.0**2 / error))


def _check(
    task: EncodeTask,
    index: FrameIndex,
    times: tuple[Sequence[int], Fraction],
    beside: Path,
    samples: Mapping[int, Picture],
) -> tuple[FrameIndex, str]:
    """Read the whole new file back; its index and the demuxer's name.

    Raises:
        VideoDecodeError: it is not its source's equal.
    """
    place = locate(VideoLocation.of(beside))
    ratios: dict[int, float] = {}

    def compare(number: int, frame: av.VideoFrame) -> None:
        if number in samples:
            picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            ratios[number] = psnr(picture, samples[number])

    with open_packets(place, max_pixels=task.max_pixels) as reader:
        fresh = build_index(reader)
        problem = _difference(fresh, index, ticks(reader, fresh), times)
        if not problem:
            decode_all(reader, fresh, compare)
        container = reader.file.container
    for number, ratio in sorted(ratios.items()):
        if ratio < LEAST_PSNR:
            problem = f"frame {number} differs from its source: PSNR {ratio:.1f} dB, below {LEAST_PSNR:g}"
    if problem:
        raise VideoDecodeError(task.location.name, f"the re-encoded file failed its check: {problem}")
    return fresh, container


def _difference(
    fresh: FrameIndex,
    index: FrameIndex,
    times: tuple[Sequence[int], Fraction],
    wanted: tuple[Sequence[int], Fraction],
) -> str:
    """How the new file's frames and times differ from the source's; empty if they do not."""
    if fresh.damage or fresh.info.num_frames != index.info.num_frames:
        return f"it has {fresh.info.num_frames} frames, not {index.info.num_frames} {fresh.damage}".strip()
    if abs(fresh.info.fps / index.info.fps - 1) > 0.01:
        return f"its frame rate is {fresh.info.fps:g}, not {index.info.fps:g}"
    scale = wanted[1] / times[1]
    for number, (time, due) in enumerate(zip(*(steps(t) for t in (times[0], wanted[0])))):
        if time != due * scale:
            return (
                f"frame {number} is shown {float(time * times[1]):g} s after the first, not {float(due * wanted[1]):g}"
            )
    return ""


def steps(times: Sequence[int]) -> list[int]:
    """Times counted from the first frame's."""
    return [time - times[0] for time in times]


def _record(task: EncodeTask, index: FrameIndex, container: str, target: Path) -> Record:
    file_stat = target.stat()
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return replace(
        task.record,
        status="ok",
        reason="",
        written=FileState(name=str(target.absolute()), size=file_stat.st_size, mtime_ns=file_stat.st_mtime_ns),
        recipe=task.encoding.recipe,
        container=container,
        digest=digest,
        **index_fields(index),
    )
