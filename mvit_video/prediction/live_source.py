"""Cameras, pipes and network streams: which sources are such, how they are opened, what to do if they cannot be."""

import glob
import os
import re
import stat
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import av

from mvit_video.video.opening import open_input

STANDARD_INPUT = "-"
_LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
_WAITING_SCHEMES = ("http", "https", "tcp")  # the sender waits for whoever reads slowly; others send on regardless
_CAMERA = re.compile(r"/dev/video\d+")
_SILENCE_S = 20.0  # a network stream that sends nothing for so long has ended


@dataclass(frozen=True)
class LiveSource:
    """A stream that arrives while it is looked at.

    Attributes:
        name: what people call it: no password, no query.
        target: what FFmpeg opens.
        format: the demuxer, where the stream does not say it.
        options: of FFmpeg.
        sends_on: it does not wait for whoever reads slowly.
        camera: it is a camera of this machine.
        pipe: it is a pipe or standard input.
    """

    name: str
    target: str
    format: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    sends_on: bool = False
    camera: bool = False
    pipe: bool = False

    def open(self) -> Any:
        """The open stream; a pipe waits until something writes to it.

        Raises:
            ValueError: it cannot be opened; the text says what to do.
        """
        try:
            timeout = None if self.pipe or self.camera else _SILENCE_S
            return open_input(self.target, format=self.format, options=dict(self.options), timeout=timeout)
        except (av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"{self.name}: cannot be opened: {reason}; {self._way_out(error)}") from error

    def _way_out(self, error: Exception) -> str:
        if self.camera:
            if isinstance(error, PermissionError):
                return "your account may not read it: cameras belong to a group, most often `video`"
            return f"is another program using it? {cameras_text()}"
        if self.pipe:
            return "what is written to it must play from its start, as MPEG-TS, Matroska or fragmented MP4 do"
        return "is the sender on, and are address, port and password right? `ffplay ADDRESS` shows whether it plays"


def is_live(source: str) -> bool:
    """Whether a source can only be looked at as it arrives: a camera, a pipe, an address of a streaming protocol."""
    if source == STANDARD_INPUT or _CAMERA.fullmatch(source):
        return True
    if "://" in source:
        parts = urlsplit(source)
        return parts.scheme.lower() in _LIVE_SCHEMES or parts.path.endswith(".m3u8")
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def live_source(source: str) -> LiveSource:
    """How a source is opened as a stream; also one that need not be (`live=true`).

    Raises:
        ValueError: there is no such camera or file, or its protocol is no stream.
    """
    if source == STANDARD_INPUT:
        return LiveSource("standard input", "pipe:0", pipe=True)
    if "://" in source:
        return _network(source)
    if not os.path.exists(source):
        if source.startswith("/dev/"):
            raise ValueError(f"{source}: there is no such camera; {cameras_text()}")
        raise ValueError(f"{source}: there is no such file or pipe; `mkfifo {source}` makes a pipe")
    mode = os.stat(source).st_mode
    if stat.S_ISCHR(mode):
        return LiveSource(source, source, format="v4l2", sends_on=True, camera=True)
    return LiveSource(source, "file:" + source, pipe=stat.S_ISFIFO(mode))


def _network(source: str) -> LiveSource:
    parts = urlsplit(source)
    scheme = parts.scheme.lower()
    if scheme not in (*_LIVE_SCHEMES, "http", "https"):
        raise ValueError(
            f"{source}: {scheme}:// is no protocol of streams; those are http, https and {', '.join(_LIVE_SCHEMES)}"
        )
    host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    options = (("rtsp_transport", "tcp"),) if scheme in ("rtsp", "rtsps") else ()
    name = f"{scheme}://{host}{parts.path}"
    return LiveSource(name, source, options=options, sends_on=scheme not in _WAITING_SCHEMES)


def cameras_text() -> str:
    """The cameras of this machine, for the end of a message."""
    found = sorted(glob.glob("/dev/video*"))
    if not found:
        return "this machine shows no camera (no /dev/video*); is it plugged in, and passed into the container?"
    return f"the cameras of this machine are {', '.join(found)}"
