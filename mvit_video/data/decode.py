"""Exact decoding of chosen frames of a video file.

    with VideoReader(path) as video:
        clip = video.read(range(0, video.info.num_frames, 8))  # uint8 (N, H, W, 3)

The "pyav" backend returns the same frames as playing the file from start to end and counting, for every container and
codec that FFmpeg plays: it indexes the file once (one demuxing pass, remembered per process), decodes only what the
asked frames need, names every decoded picture by its packet, and checks that all of them came. The "decord" backend is
there for people who compare with it. It is inexact on open GOP, HEVC, edit lists, MPEG-TS and AVI with B-frames: it
returns other frames than those asked for there, without saying so.

After a packet that does not decode cleanly, every picture that may have been predicted from it is refused. Damage that
happens to leave a valid bitstream behind is beyond any decoder's notice.
"""

import operator
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from mvit_video.data.media import Media
from mvit_video.data.pyav_source import PyAVSource
from mvit_video.data.video_file import VideoFile, file_key
from mvit_video.data.video_index import VideoDecodeError, VideoInfo

__all__ = ["MAX_PIXELS", "Backend", "VideoDecodeError", "VideoInfo", "VideoReader", "probe", "read_frames"]

Backend = Literal["pyav", "decord"]
MAX_PIXELS = 8192 * 4320  # 8K cinema; a hostile header must not cost a worker its memory


class VideoReader:
    """Frames of one video file by index, in any order, repeats allowed.

    Args:
        path: the file.
        backend: "pyav" (exact) or "decord" (see the module's text for where it is not).
        max_pixels: files with larger pictures (height * width) are refused before any is decoded.

    Raises:
        VideoDecodeError: the file cannot be read, with the reason.
        ValueError: unknown backend.
        RuntimeError: the backend is not installed.
    """

    def __init__(
        self, path: str | os.PathLike[str] | Media, *, backend: Backend = "pyav", max_pixels: int = MAX_PIXELS
    ) -> None:
        path = Media.of(path).url
        if max_pixels < 1:
            raise ValueError(f"max_pixels={max_pixels}: must be positive")
        self._source: _Source
        if backend == "pyav":
            self._source = PyAVSource(os.fspath(path), max_pixels)
        elif backend == "decord":
            self._source = _DecordSource(os.fspath(path), max_pixels)
        else:
            raise ValueError(f"backend={backend!r}: must be 'pyav' or 'decord'")

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._source.close()

    @property
    def info(self) -> VideoInfo:
        """Facts about the video; num_frames counts what can be asked for."""
        return self._source.info

    @property
    def damage(self) -> str:
        """Why only a first part of the file can be read; empty for a whole file and for decord."""
        return self._source.damage

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """Decode frames.

        Args:
            indices: frame numbers from 0 to info.num_frames - 1; each distinct one is decoded once.

        Returns:
            uint8 (len(indices), H, W, 3), RGB, H and W as in `info`.

        Raises:
            VideoDecodeError: a frame does not exist or cannot be decoded cleanly.
            ValueError: no indices.
        """
        wanted = [operator.index(i) for i in indices]
        if not wanted:
            raise ValueError("indices is empty: ask for at least one frame")
        info = self.info
        for frame in (min(wanted), max(wanted)):
            if not 0 <= frame < info.num_frames:
                tail = f" (damaged: {self.damage})" if self.damage else ""
                raise VideoDecodeError(self._source.path, f"asked for frame {frame} of {info.num_frames}{tail}")
        rows: dict[int, int] = {}
        for row, frame in enumerate(wanted):
            rows.setdefault(frame, row)
        clip = torch.empty((len(wanted), info.height, info.width, 3), dtype=torch.uint8)
        self._source.fill(rows, clip.numpy())
        for row, frame in enumerate(wanted):
            if rows[frame] != row:
                clip[row] = clip[rows[frame]]
        return clip


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Facts about a video: see VideoInfo. Raises VideoDecodeError."""
    with VideoReader(path) as video:
        return video.info


def read_frames(path: str | os.PathLike[str], indices: Sequence[int], *, backend: Backend = "pyav") -> torch.Tensor:
    """Decode frames of a video: uint8 (len(indices), H, W, 3). See VideoReader.read."""
    with VideoReader(path, backend=backend) as video:
        return video.read(indices)


class _Source(Protocol):
    """What a backend has to offer."""

    path: str

    @property
    def info(self) -> VideoInfo: ...

    @property
    def damage(self) -> str: ...

    def fill(self, rows: Mapping[int, int], out: npt.NDArray[np.uint8]) -> None:
        """Write frame f into out[rows[f]] for every f; all exist. Raises VideoDecodeError."""

    def close(self) -> None: ...


class _DecordSource:
    """decord's VideoReader behind the same interface; picture size and codec are checked through PyAV first."""

    damage = ""

    def __init__(self, path: str, max_pixels: int) -> None:
        try:
            import decord  # optional: it has no wheels for many platforms
        except ImportError as error:
            raise RuntimeError(
                "backend='decord': decord is not installed; pip install decord, or use 'pyav'"
            ) from error
        self.path = path
        file_key(path)
        with VideoFile(path, max_pixels=max_pixels) as file:
            codec = file.codec
        decord.logging.set_level(decord.logging.QUIET)
        self._error = decord.DECORDError
        try:
            self._reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            height, width, _ = self._reader[0].shape
            count, fps = len(self._reader), float(self._reader.get_avg_fps())
        except (self._error, RuntimeError, IndexError) as error:
            raise VideoDecodeError(path, f"decord cannot read it: {str(error).splitlines()[0]}") from error
        self._info = VideoInfo(count, fps, height, width, codec, count / fps)

    @property
    def info(self) -> VideoInfo:
        return self._info

    def close(self) -> None:
        del self._reader

    def fill(self, rows: Mapping[int, int], out: npt.NDArray[np.uint8]) -> None:
        frames = sorted(rows)
        try:
            batch = self._reader.get_batch(frames).asnumpy()
        except (self._error, RuntimeError, IndexError) as error:
            raise VideoDecodeError(self.path, f"decord cannot decode it: {str(error).splitlines()[0]}") from error
        for frame, picture in zip(frames, batch):
            out[rows[frame]] = picture
