"""Opening a file or stream with FFmpeg, and which of its streams is the video: one way for all who read."""

from typing import Any

import av
from av.stream import Disposition

# PyAV 19 takes any letter, and the argument no longer.
_WORDS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_input(
    target: Any,
    *,
    format: str | None = None,
    options: dict[str, str] | None = None,
    timeout: float | None = None,
) -> Any:
    """An open container of PyAV, for reading.

    Titles and other words in a file may be in any character set, and PyAV refuses the whole file over one letter that
    is no UTF-8. Nothing here reads them, so such letters are replaced.

    Args:
        target: what FFmpeg opens, or an object with `read`.
        format: the demuxer; None: FFmpeg finds out.
        options: of FFmpeg.
        timeout: seconds; None for none.

    Raises:
        av.error.FFmpegError, OSError, ValueError: it cannot be opened.
    """
    return av.open(target, "r", format=format, options=options, timeout=timeout, **_WORDS)


def video_stream(container: Any) -> Any:
    """The first video that can be decoded; a cover picture is none, wherever it stands. None if there is no video."""
    streams = container.streams.video
    usable = (one for one in streams if one.codec_context is not None)
    return next((one for one in usable if not one.disposition & Disposition.attached_pic), None)
