"""TorchCodec's VideoDecoder behind the interface of video/reader.py. See there for where it is inexact."""

from collections.abc import Mapping
from typing import Any

from mvit_video.video.byte_source import ByteSource
from mvit_video.video.container import VideoFile
from mvit_video.video.index import Orientation, VideoDecodeError, VideoInfo
from mvit_video.video.pictures import Canvas, rgb_frame

_ERRORS = (RuntimeError, ValueError, IndexError)


class TorchCodecDecoder:
    """Frames by TorchCodec on the CPU, seek_mode "exact"; picture size and codec are checked through PyAV first.

    A stretch of a larger file and a remote video are read into memory.
    """

    damage = ""
    orientation = Orientation()  # TorchCodec turns the pictures itself

    def __init__(self, source: ByteSource, *, max_pixels: int) -> None:
        decoder = _video_decoder()
        self.name = source.name
        with VideoFile(source, max_pixels=max_pixels) as file:
            codec, fallback_fps = file.codec, file.declared_fps
        target = source.path if source.data is None and source.whole else source.read()
        try:
            self._decoder = decoder(target, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            count = int(self._decoder.metadata.num_frames or 0)
            if count:
                height, width = self._decoder.get_frames_at(indices=[0]).data.shape[1:3]
        except _ERRORS as error:
            raise VideoDecodeError(self.name, f"torchcodec cannot read it: {_first_line(error)}") from error
        fps = float(self._decoder.metadata.average_fps or fallback_fps)
        if not count or not fps > 0:
            raise VideoDecodeError(self.name, f"torchcodec cannot read it: {count} frames at {fps} frames per second")
        self.coded = (int(height), int(width))
        self.info = VideoInfo(count, fps, int(height), int(width), codec, count / fps)

    def close(self) -> None:
        del self._decoder

    def fill(self, rows: Mapping[int, int], canvas: Canvas) -> None:
        """Draw frames (frame -> row of the canvas). Raises VideoDecodeError."""
        frames = sorted(rows)
        try:
            batch = self._decoder.get_frames_at(indices=frames).data.numpy()
        except _ERRORS as error:
            raise VideoDecodeError(self.name, f"torchcodec cannot decode it: {_first_line(error)}") from error
        for frame, picture in zip(frames, batch):
            canvas.draw(rgb_frame(picture), rows[frame])


def _video_decoder() -> Any:
    """TorchCodec's class, with its libraries loaded. Raises RuntimeError with what to install."""
    try:
        import torchcodec  # optional: each release goes with few releases of torch
        from torchcodec.decoders import VideoDecoder

        # Without a matching FFmpeg the import fails late, or succeeds (0.17) and leaves this None. No file is at fault.
        if getattr(torchcodec, "ffmpeg_major_version", "of old releases") is None:
            raise ImportError("its libraries, FFmpeg's or this PyTorch do not fit together")
    except (ImportError, RuntimeError, OSError) as error:
        raise RuntimeError(
            f"backend='torchcodec': torchcodec cannot be loaded ({_first_line(error)}); pip install "
            "'mvit_video[torchcodec]' and FFmpeg's shared libraries, or use 'pyav'"
        ) from error
    return VideoDecoder


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
