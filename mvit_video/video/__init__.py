"""Exact decoding of chosen frames of any video file that FFmpeg plays. It knows nothing of data sets or training.

    from mvit_video.video import VideoReader, probe, read_frames

    probe("clip.mp4")                       # VideoInfo(num_frames=300, fps=29.97, ...)
    read_frames("clip.mp4", [0, 8, 16])     # uint8 (3, H, W, 3), RGB
    with VideoReader("clip.mp4") as video:  # several reads of one file
        video.read([0, 8]), video.read_yuv([0, 8]), video.read_clips([[0, 8], [8, 16]])

| name | what it is |
|---|---|
| `VideoReader`, `read_frames`, `probe` | frames by number, and what is known of a video (reader.py) |
| `VideoLocation` | a file, a range of bytes in a larger file, either of them at a URL, or a folder of pictures (location.py) |
| `VideoInfo` | number of frames, frame rate, size, codec, duration (index.py) |
| `VideoDecodeError` | the one error for everything that can be wrong with a file; it has `path` and `reason` (index.py) |
| `FrameIndex`, `encode_frame_index`, `decode_frame_index` | the packets of a file, to be kept as bytes, so that it need not be indexed again |
| `YuvFrames` | frames as the decoder makes them; `rgb()` converts them on any device (yuv.py) |
| `Backend`, `BACKENDS`, `Layout`, `MAX_PIXELS` | the choices of decoder and pixel layout, and the largest picture |

Needs PyAV, NumPy and PyTorch, and of the project runtime/decode_error.py; decord, torchcodec and fsspec where they are
asked for.
"""  # noqa: E501 - a table

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvit_video.video.index import FrameIndex, VideoDecodeError, VideoInfo
    from mvit_video.video.index_encoding import decode_frame_index, encode_frame_index
    from mvit_video.video.location import VideoLocation
    from mvit_video.video.reader import BACKENDS, MAX_PIXELS, Backend, Layout, VideoReader, probe, read_frames
    from mvit_video.video.yuv import YuvFrames

__all__ = [
    "BACKENDS",
    "MAX_PIXELS",
    "Backend",
    "FrameIndex",
    "Layout",
    "VideoDecodeError",
    "VideoInfo",
    "VideoLocation",
    "VideoReader",
    "YuvFrames",
    "decode_frame_index",
    "encode_frame_index",
    "probe",
    "read_frames",
]

_MODULES = {
    "FrameIndex": "index",
    "VideoDecodeError": "index",
    "VideoInfo": "index",
    "VideoLocation": "location",
    "YuvFrames": "yuv",
    "decode_frame_index": "index_encoding",
    "encode_frame_index": "index_encoding",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for: the reader needs torch, which takes seconds to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'reader')}"), name)
