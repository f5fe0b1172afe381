"""From a `VideoLocation` to what can be opened: a file, a stretch of a local file, or bytes fetched through fsspec."""

import io
import logging
import os
import stat
import tarfile
import time
from dataclasses import dataclass, field

from mvit_video.video.index import FrameIndex, VideoDecodeError
from mvit_video.video.location import VideoLocation

logger = logging.getLogger(__name__)

SourceKey = tuple[str, int, int, int]
_warned_of_change = False
_HEAD = tarfile.BLOCKSIZE  # bytes of a member's head, just before its contents
_NAME_IN_HEAD = 100  # bytes of a name that it holds; a longer one stands in full before it


class Deadline:
    """The end of the time that one operation on a video may take.

    Args:
        name: the video, for the error.
        limit_s: seconds; None for no limit.
    """

    def __init__(self, name: str, limit_s: float | None) -> None:
        self.name = name
        self.limit_s = limit_s
        self.restart()

    def restart(self) -> None:
        """Give the next operation the whole time."""
        self._end = float("inf") if self.limit_s is None else time.monotonic() + self.limit_s

    @property
    def passed(self) -> bool:
        return self.limit_s is not None and time.monotonic() > self._end

    def check(self) -> None:
        """Raise VideoDecodeError if the time is over."""
        if self.passed:
            raise VideoDecodeError(self.name, f"took more than {self.limit_s:g} s (time_limit_s)")


@dataclass(frozen=True)
class ByteSource:
    """A video found: what to open, and what identifies its content.

    Attributes:
        name: what errors call it.
        path: the local file; empty for fetched bytes.
        start, size: the video's bytes in it.
        whole: the file holds nothing else.
        key: (URL, start, size, modification time in ns or 0), for caches.
        data: the fetched bytes.
        index: the frame index it came with, if it still fits.
    """

    name: str
    path: str
    start: int
    size: int
    whole: bool
    key: SourceKey
    data: bytes | None = field(default=None, repr=False)
    index: FrameIndex | None = field(default=None, repr=False)

    def target(self) -> tuple[str | io.BytesIO, str]:
        """What FFmpeg opens, and the protocols it may use for it.

        The prefix "file:" keeps colons in a path from being read as a protocol; everything behind ",,:" is the path, so
        that it may hold commas.
        """
        if self.data is not None:
            return io.BytesIO(self.data), "none"
        if self.whole:
            return "file:" + self.path, "file"
        return f"subfile,,start,{self.start},end,{self.start + self.size},,:file:{self.path}", "subfile,file"

    def read(self) -> bytes:
        """The video's bytes. Raises VideoDecodeError."""
        if self.data is not None:
            return self.data
        try:
            with open(self.path, "rb") as file:
                file.seek(self.start)
                return file.read(self.size)
        except OSError as error:
            raise VideoDecodeError(self.name, f"cannot be read: {error.strerror or error}") from error


def locate(location: VideoLocation) -> ByteSource:
    """Find a video and, if it is remote, fetch it.

    Raises:
        VideoDecodeError: there is no such file or object, it is a directory, a device or empty, it ends before the
            stated stretch does, or it is an archive that holds something else there.
        RuntimeError: a package that fsspec needs for the URL is not installed.
    """
    if location.remote:
        data = _fetch(location)
        return ByteSource(
            location.name,
            "",
            0,
            len(data),
            True,
            (location.url, location.start, len(data), 0),
            data=data,
            index=location.index,
        )
    file_stat = _regular_file(location)
    whole = location.start == 0 and (location.size in (None, file_stat.st_size) or location.mtime_ns is not None)
    size = file_stat.st_size if whole else _checked_stretch(location, file_stat.st_size)
    if location.member:
        _check_head(location, _read_head(location))
    key = (location.url, location.start, size, file_stat.st_mtime_ns)
    index = location.index
    if index is not None and whole:
        same = location.size in (None, file_stat.st_size) and location.mtime_ns in (None, file_stat.st_mtime_ns)
        if not same:
            warn_of_change(location.name)
            index = None
    return ByteSource(location.name, location.url, location.start, size, whole, key, index=index)


def warn_of_change(name: str) -> None:
    """Warn once per process that stored indexes are out of date."""
    global _warned_of_change
    if not _warned_of_change:
        _warned_of_change = True
        logger.warning(
            "%s has changed since it was indexed; it is indexed anew at every opening, as is any other such file "
            "(said once). Prepare the data set again.",
            name,
        )


def _regular_file(location: VideoLocation) -> os.stat_result:
    try:
        file_stat = os.stat(location.url)
    except (OSError, ValueError) as error:
        raise VideoDecodeError(location.name, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(file_stat.st_mode):
        if stat.S_ISDIR(file_stat.st_mode):
            way_out = "give the path of a file (a folder of numbered pictures is a video with a frame_rate)"
            raise VideoDecodeError(location.name, f"is a directory; {way_out}")
        raise VideoDecodeError(location.name, "is not a regular file; give the path of one")
    if file_stat.st_size == 0:
        raise VideoDecodeError(location.name, "the file is empty (0 bytes)")
    return file_stat


def _checked_stretch(location: VideoLocation, file_size: int) -> int:
    """Bytes of a stretch of a larger file."""
    size = file_size - location.start if location.size is None else location.size
    if location.start < 0 or size <= 0:
        raise VideoDecodeError(location.name, f"is empty: {size} bytes from byte {location.start} of {location.url}")
    if location.start + size > file_size:
        raise VideoDecodeError(
            location.name,
            f"bytes {location.start} to {location.start + size} of {location.url} are asked for, which has {file_size}"
            "; is the copy complete?",
        )
    return size


def _read_head(location: VideoLocation) -> bytes:
    try:
        with open(location.url, "rb", buffering=0) as file:
            file.seek(location.start - _HEAD)
            return file.read(_HEAD)
    except OSError as error:
        raise VideoDecodeError(location.name, f"cannot be read: {error.strerror or error}") from error


def _check_head(location: VideoLocation, head: bytes) -> None:
    """Refuse a member whose head is not the one before its first byte: its archive was replaced by another."""
    wanted = location.member.encode("utf-8", "surrogateescape")
    try:
        found = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        found = tarfile.TarInfo()
    name = found.name.encode("utf-8", "surrogateescape")
    if name not in (wanted, wanted[:_NAME_IN_HEAD]) or found.size != location.size:
        there = f"{name.decode('utf-8', 'replace')} of {found.size} bytes" if name else "no member"
        raise VideoDecodeError(
            location.name,
            f"{location.url} has changed since it was indexed: {there} begins at byte {location.start}, and not "
            f"{location.member} of {location.size} bytes. Prepare the data set again, or bring the archive back",
        )


def _reason(error: Exception) -> str:
    """What a file system says; a missing file alone has the address for a text, and other texts may say nothing."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    kind = type(error).__name__
    return f"{error} ({kind})" if str(error) else kind


def _fetch(location: VideoLocation) -> bytes:
    """Exactly the bytes of a remote video."""
    import fsspec  # optional, and slow to import

    first = location.start - (_HEAD if location.member else 0)
    end = None if location.size is None else location.start + location.size
    try:
        system, path = fsspec.core.url_to_fs(location.url)
    except (ImportError, ValueError) as error:
        raise RuntimeError(f"{location.url}: {error}") from error
    try:
        data = system.cat_file(path, start=first or None, end=end)
    except Exception as error:  # every file system raises errors of its own
        raise VideoDecodeError(location.name, f"{location.url} cannot be read: {_reason(error)}") from error
    if location.member:
        _check_head(location, data[:_HEAD])
        data = data[_HEAD:]
    if not data:
        raise VideoDecodeError(location.name, f"is empty: 0 bytes from byte {location.start} of {location.url}")
    if location.size is not None and len(data) != location.size:
        raise VideoDecodeError(
            location.name,
            f"{location.size} bytes from byte {location.start} of {location.url} are asked for, it has {len(data)}",
        )
    return bytes(data)
