"""Exact decoding of chosen frames of a video.

    with VideoReader(path) as video:
        clip = video.read(range(0, video.info.num_frames, 8))  # uint8 (N, H, W, 3)

A video is a file, a stretch of a larger file (a member of a tar shard), either of them behind any URL that fsspec
reads, or a folder of numbered pictures with a frame rate; see `VideoLocation`.

The "pyav" backend returns the same frames as playing the video from start to end and counting, for every container and
codec that FFmpeg plays: it indexes the file once (one demuxing pass, remembered per process, or had from the
`VideoLocation`), decodes only what the asked frames need, names every decoded picture by its packet, and checks that
all of them came.

Two other backends are there for people who compare with them. They return other frames than those asked for, without
saying so, on

    decord      open GOP (the default of x265, so most HEVC), HEVC with B-frames, edit lists that cut an open GOP,
                MPEG-TS, AVI with B-frames; where an edit list hides frames it counts them nevertheless; AV1 does not
                open in decord 0.6 (decord2 is another package under the same name: never install both)
    torchcodec  MPEG-TS, AVI with B-frames or packed frames (UCF101), and before release 0.17 edit lists; with several
                video streams it takes the best rather than the first

and 10-bit pictures get slightly other colours there. TorchCodec is used with seek_mode="exact"; its approximate mode is
wrong on more files. Neither can be given a time limit.

After a packet that does not decode cleanly, every picture that may have been predicted from it is refused. Damage that
happens to leave a valid bitstream behind is beyond any decoder's notice.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Protocol, overload

import torch

from mvit_video.video.backends.decord_decoder import DecordDecoder
from mvit_video.video.backends.frame_folder import FrameFolderDecoder
from mvit_video.video.backends.pyav_decoder import PyAVDecoder
from mvit_video.video.backends.torchcodec_decoder import TorchCodecDecoder
from mvit_video.video.byte_source import Deadline, locate
from mvit_video.video.index import FrameIndex, FrameTimes, Orientation, VideoDecodeError, VideoInfo, frames_between
from mvit_video.video.location import VideoLocation
from mvit_video.video.pictures import Box, Canvas, RgbCanvas, YuvCanvas
from mvit_video.video.yuv import YuvFrames

__all__ = [
    "BACKENDS",
    "MAX_PIXELS",
    "Backend",
    "FrameTimes",
    "Layout",
    "VideoDecodeError",
    "VideoInfo",
    "VideoReader",
    "YuvFrames",
    "probe",
    "read_frames",
]

Backend = Literal["pyav", "decord", "torchcodec"]
Layout = Literal["rgb", "yuv420"]
BACKENDS: tuple[Backend, ...] = ("pyav", "decord", "torchcodec")
MAX_PIXELS = 8192 * 4320  # 8K cinema; a hostile header must not cost a worker its memory
Path = str | os.PathLike[str]


class VideoReader:
    """Frames of one video by index, in any order, repeats allowed.

    Args:
        video: its path, or where it is (`VideoLocation`). The frame index of a `VideoLocation` spares the demuxing
            pass; it is not used if the file has another size or modification time than when it was indexed.
        backend: "pyav" (exact), "decord" or "torchcodec" (see the module's text for where they are not).
        max_pixels: videos with larger pictures (height * width) are refused before any is decoded.
        time_limit_s: seconds that opening, and each read, may take; None for no limit. It is looked at between packets
            and by FFmpeg while it reads; a file system that hangs is beyond it. For "pyav" only.

    Raises:
        VideoDecodeError: the video cannot be read, with the reason.
        ValueError: unknown backend, or another argument out of range.
        RuntimeError: the backend, or what fsspec needs for the URL, is not installed.
    """

    def __init__(
        self,
        video: Path | VideoLocation,
        *,
        backend: Backend = "pyav",
        max_pixels: int = MAX_PIXELS,
        time_limit_s: float | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r}: must be 'pyav', 'decord' or 'torchcodec'")
        if max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels}: must be positive")
        if time_limit_s is not None and not time_limit_s > 0:
            raise ValueError(f"time_limit_s={time_limit_s}: must be positive, or None for no limit")
        if time_limit_s is not None and backend != "pyav":
            raise ValueError(f"time_limit_s={time_limit_s}: backend {backend!r} cannot be stopped; use 'pyav'")
        location = VideoLocation.of(video)
        if location.frame_rate is not None and not 0 < location.frame_rate < float("inf"):
            raise ValueError(f"frame_rate={location.frame_rate}: must be a positive number of frames per second")
        self._decoder: _Decoder
        self._deadline = Deadline(location.name, time_limit_s)
        if location.frame_rate is not None and os.path.isdir(location.url):
            self._decoder = FrameFolderDecoder(
                location.name,
                location.url,
                frame_rate=location.frame_rate,
                max_pixels=max_pixels,
                deadline=self._deadline,
            )
            return
        source = locate(location)
        self._deadline.check()
        if backend == "pyav":
            self._decoder = PyAVDecoder(source, max_pixels=max_pixels, deadline=self._deadline)
        elif backend == "decord":
            self._decoder = DecordDecoder(source, max_pixels=max_pixels)
        else:
            self._decoder = TorchCodecDecoder(source, max_pixels=max_pixels)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._decoder.close()

    @property
    def info(self) -> VideoInfo:
        """What is known of the video; num_frames counts what can be asked for."""
        return self._decoder.info

    @property
    def damage(self) -> str:
        """Why only a first part of the file can be read; empty for a whole file and for other backends than "pyav"."""
        return self._decoder.damage

    @property
    def times(self) -> FrameTimes | None:
        """When the frames are shown; None if the file has no such times (AVI), and for other backends than "pyav"."""
        return self._decoder.times() if isinstance(self._decoder, PyAVDecoder) else None

    @property
    def frame_index(self) -> FrameIndex:
        """The index, to be stored in a `VideoLocation`. ValueError for other backends than "pyav", which have none."""
        if not isinstance(self._decoder, PyAVDecoder):
            raise ValueError("frame_index: only the backend 'pyav' makes one")
        return self._decoder.index

    def frames_between(self, start_s: float, end_s: float) -> range:
        """The frames that are shown at or after `start_s` and before `end_s`, by their own times.

        Args:
            start_s: seconds from the first frame of the video.
            end_s: likewise; beyond the end, or inf, for all frames from `start_s` on.

        Raises:
            VideoDecodeError: there is no such frame.
            ValueError: a backend that knows no times of frames ("decord", "torchcodec").
        """
        if not isinstance(self._decoder, PyAVDecoder | FrameFolderDecoder):
            raise ValueError("segments of videos are read by the backend 'pyav' alone; set data.backend=pyav")
        times = self._decoder.seconds_shown()
        try:
            return frames_between(times, start_s, end_s)
        except ValueError as error:
            raise VideoDecodeError(self._decoder.name, str(error)) from None

    def read(
        self,
        indices: Sequence[int],
        *,
        crop: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """Decode frames.

        Args:
            indices: frame numbers from 0 to info.num_frames - 1; each distinct one is decoded once.
            crop: (top, left, height, width) of the part to return, in pixels of the presented picture. The result is
                byte for byte that part of the whole picture. In 8-bit 4:2:0 video of even height only the part, grown
                to even edges, is converted; in any other the whole picture is.
            size: (height, width) to scale that part to, before the colour conversion where it is 8-bit 4:2:0, by
                FFmpeg's bilinear filter, which widens where pictures shrink. On natural pictures this differs from
                reading in full and torch's antialiased bilinear filter by less than two grey levels on average. With
                odd edges of the crop, colour lies up to one pixel beside brightness.

        Returns:
            uint8 (len(indices), H, W, 3), RGB, H and W as in `info`, `crop` or `size`.

        Raises:
            VideoDecodeError: a frame does not exist, cannot be decoded cleanly, or the time is over.
            ValueError: no indices, a crop that is not inside the picture, or an empty size.
        """
        rows = self._rows(indices)
        info, decoder = self.info, self._decoder
        part, (height, width) = None, (info.height, info.width)
        if crop is not None:
            box = Box.of(crop, height=height, width=width)
            part = box.before(decoder.orientation, height=height, width=width)
            height, width = box.height, box.width
        if size is not None:
            height, width = (operator.index(length) for length in size)
            if min(height, width) < 1:
                raise ValueError(f"size={tuple(size)}: height and width must be positive")
        clip = torch.empty((len(indices), height, width, 3), dtype=torch.uint8)
        canvas = RgbCanvas(clip.numpy(), coded=decoder.coded, orientation=decoder.orientation, part=part)
        self._fill(rows, canvas, indices, clip)
        return clip

    def read_yuv(self, indices: Sequence[int]) -> YuvFrames:
        """Decode frames and leave them as the decoder makes them, 8-bit YUV 4:2:0.

        Frames in any other pixel format are converted to this one by FFmpeg; the RGB made of them differs from `read`
        where colours change sharply. Rotation is applied; in pictures of odd size that are mirrored, colour then lies
        one pixel beside brightness.

        Args, Raises: as for `read`.
        """
        rows = self._rows(indices)
        canvas = YuvCanvas(len(indices), coded=self._decoder.coded, orientation=self._decoder.orientation)
        self._fill(rows, canvas, indices, canvas.y, canvas.uv)
        return canvas.frames()

    def read_clips(
        self,
        clips: Sequence[Sequence[int]],
        *,
        crop: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[torch.Tensor]:
        """Decode several clips; a frame that lies in more than one of them is decoded once.

        Returns:
            What `read` returns for each of `clips`. They are parts of one tensor.
        """
        lengths = [len(clip) for clip in clips]
        if not lengths or min(lengths) < 1:
            raise ValueError(f"clips of {lengths} frames: give at least one clip, and one frame for each")
        frames = self.read([frame for clip in clips for frame in clip], crop=crop, size=size)
        return list(frames.split(lengths))

    def _rows(self, indices: Sequence[int]) -> dict[int, int]:
        """The row of each distinct frame's first occurrence, after checks."""
        wanted = [operator.index(i) for i in indices]
        if not wanted:
            raise ValueError("indices is empty: ask for at least one frame")
        count = self.info.num_frames
        for frame in (min(wanted), max(wanted)):
            if not 0 <= frame < count:
                tail = f" (damaged: {self.damage})" if self.damage else ""
                raise VideoDecodeError(self._decoder.name, f"asked for frame {frame} of {count}{tail}")
        rows: dict[int, int] = {}
        for row, frame in enumerate(wanted):
            rows.setdefault(frame, row)
        return rows

    def _fill(self, rows: Mapping[int, int], canvas: Canvas, indices: Sequence[int], *tensors: torch.Tensor) -> None:
        """Decode the distinct frames, and copy them to where they occur again."""
        self._deadline.restart()
        self._decoder.fill(rows, canvas)
        for row, frame in enumerate(indices):
            first = rows[operator.index(frame)]
            if first != row:
                for tensor in tensors:
                    tensor[row] = tensor[first]


def probe(video: Path | VideoLocation, *, time_limit_s: float | None = None) -> VideoInfo:
    """What is known of a video: see VideoInfo. Raises VideoDecodeError."""
    with VideoReader(video, time_limit_s=time_limit_s) as reader:
        return reader.info


@overload
def read_frames(
    video: Path | VideoLocation,
    indices: Sequence[int],
    *,
    backend: Backend = ...,
    layout: Literal["rgb"] = ...,
    crop: tuple[int, int, int, int] | None = ...,
    size: tuple[int, int] | None = ...,
    time_limit_s: float | None = ...,
) -> torch.Tensor: ...


@overload
def read_frames(
    video: Path | VideoLocation,
    indices: Sequence[int],
    *,
    backend: Backend = ...,
    layout: Literal["yuv420"],
    time_limit_s: float | None = ...,
) -> YuvFrames: ...


def read_frames(
    video: Path | VideoLocation,
    indices: Sequence[int],
    *,
    backend: Backend = "pyav",
    layout: Layout = "rgb",
    crop: tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    time_limit_s: float | None = None,
) -> torch.Tensor | YuvFrames:
    """Decode frames of a video: uint8 (len(indices), H, W, 3), or YuvFrames for layout "yuv420".

    See VideoReader.read and VideoReader.read_yuv. ValueError for crop or size together with layout "yuv420".
    """
    if layout not in ("rgb", "yuv420"):
        raise ValueError(f"layout={layout!r}: must be 'rgb' or 'yuv420'")
    if layout == "yuv420" and (crop is not None or size is not None):
        raise ValueError("crop and size work with layout='rgb'; crop and scale YuvFrames on their device")
    with VideoReader(video, backend=backend, time_limit_s=time_limit_s) as reader:
        return reader.read(indices, crop=crop, size=size) if layout == "rgb" else reader.read_yuv(indices)


class _Decoder(Protocol):
    """What a backend has to offer.

    Attributes:
        name: what errors call the video.
        info: what is known of it.
        damage: why only a first part can be read, or "".
        coded: (height, width) of the pictures it draws.
        orientation: what turns those into the presented ones.
    """

    name: str

    @property
    def info(self) -> VideoInfo: ...

    @property
    def damage(self) -> str: ...

    @property
    def coded(self) -> tuple[int, int]: ...

    @property
    def orientation(self) -> Orientation: ...

    def fill(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        """Draw frame f into row rows[f] for every f; all exist. Raises VideoDecodeError."""

    def close(self) -> None: ...
