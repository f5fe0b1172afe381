"""From a `Media` to what can be opened: a file, a stretch of a local file, or bytes fetched through fsspec."""

import io
import logging
import os
import stat
import time
from dataclasses import dataclass, field

from mvit_video.video.index import FrameIndex, VideoDecodeError
from mvit_video.video.location import Media

logger = logging.getLogger(__name__)

PlaceKey = tuple[str, int, int, int]
_told_of_change = False


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
class Place:
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
    key: PlaceKey
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


def locate(media: Media) -> Place:
    """Find a video and, if it is remote, fetch it.

    Raises:
        VideoDecodeError: there is no such file or object, it is a directory, a device or empty, or it ends before the
            stated stretch does.
        RuntimeError: a package that fsspec needs for the URL is not installed.
    """
    if media.remote:
        data = _fetch(media)
        return Place(
            media.name, "", 0, len(data), True, (media.url, media.start, len(data), 0), data=data, index=media.index
        )
    facts = _regular_file(media)
    whole = media.start == 0 and (media.size in (None, facts.st_size) or media.mtime_ns is not None)
    size = facts.st_size if whole else _checked_stretch(media, facts.st_size)
    key = (media.url, media.start, size, facts.st_mtime_ns)
    index = media.index
    if index is not None and whole:
        same = media.size in (None, facts.st_size) and media.mtime_ns in (None, facts.st_mtime_ns)
        if not same:
            tell_of_change(media.name)
            index = None
    return Place(media.name, media.url, media.start, size, whole, key, index=index)


def tell_of_change(name: str) -> None:
    """Warn once per process that stored indexes are out of date."""
    global _told_of_change
    if not _told_of_change:
        _told_of_change = True
        logger.warning(
            "%s has changed since it was indexed; it is indexed anew at every opening, as is any other such file "
            "(said once). Prepare the data set again.",
            name,
        )


def _regular_file(media: Media) -> os.stat_result:
    try:
        facts = os.stat(media.url)
    except (OSError, ValueError) as error:
        raise VideoDecodeError(media.name, getattr(error, "strerror", None) or str(error)) from error
    if not stat.S_ISREG(facts.st_mode):
        if stat.S_ISDIR(facts.st_mode):
            way_out = "give the path of a video file, or a frame_rate if it holds the frames of a video"
            raise VideoDecodeError(media.name, f"is a directory; {way_out}")
        raise VideoDecodeError(media.name, "is not a regular file; give the path of a video file")
    if facts.st_size == 0:
        raise VideoDecodeError(media.name, "the file is empty (0 bytes)")
    return facts


def _checked_stretch(media: Media, file_size: int) -> int:
    """Bytes of a stretch of a larger file."""
    size = file_size - media.start if media.size is None else media.size
    if media.start < 0 or size <= 0:
        raise VideoDecodeError(media.name, f"is empty: {size} bytes from byte {media.start} of {media.url}")
    if media.start + size > file_size:
        raise VideoDecodeError(
            media.name,
            f"bytes {media.start} to {media.start + size} of {media.url} are asked for, which has {file_size}; "
            "is the copy complete?",
        )
    return size


def _fetch(media: Media) -> bytes:
    """Exactly the bytes of a remote video."""
    import fsspec  # optional, and slow to import

    end = None if media.size is None else media.start + media.size
    try:
        system, path = fsspec.core.url_to_fs(media.url)
    except (ImportError, ValueError) as error:
        raise RuntimeError(f"{media.url}: {error}") from error
    try:
        data = system.cat_file(path, start=media.start or None, end=end)
    except Exception as error:  # every file system raises errors of its own
        raise VideoDecodeError(
            media.name, f"{media.url} cannot be read: {str(error) or type(error).__name__}"
        ) from error
    if not data:
        raise VideoDecodeError(media.name, f"is empty: 0 bytes from byte {media.start} of {media.url}")
    if media.size is not None and len(data) != media.size:
        raise VideoDecodeError(
            media.name, f"{media.size} bytes from byte {media.start} of {media.url} are asked for, it has {len(data)}"
        )
    return bytes(data)
