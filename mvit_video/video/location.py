"""Where the bytes of a video are: a file of its own, a stretch of a larger one, or a folder of pictures."""

import os
from dataclasses import dataclass, field

from mvit_video.video.index import FrameIndex

PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # of videos that are folders of pictures


def is_remote(location: str) -> bool:
    """Whether a location is read through fsspec rather than from a local file."""
    return "://" in location


def same_place(location: str) -> str:
    """What all ways of writing one path have in common (`a.mp4`, `./a.mp4`, `/here/a.mp4`); links are not followed."""
    return location if is_remote(location) else os.path.abspath(location)


def join_location(base: str, location: str) -> str:
    """A path or URL that starts from the folder or URL `base` unless it is absolute."""
    if not base or is_remote(location):
        return location
    return os.path.join(base, location) if location else base  # URLs join like POSIX paths


@dataclass(frozen=True)
class VideoLocation:
    """One video to decode.

    Attributes:
        name: what to call it to people: its path, or "shard.tar/member".
        url: local path, or fsspec URL such as "s3://bucket/shard-000001.tar", of the file that holds it.
        start: its first byte there.
        size: its bytes; None for the whole file.
        member: its name in a tar archive, whose head before `start` must be that of this file; empty: it is in none.
        mtime_ns: modification time of a local file when it was indexed; None if it was not.
        index: its frames, if they are known already; not used when the file's size or modification time has changed.
        frame_rate: frames per second, if it is a folder of numbered pictures; has no effect on files.
    """

    name: str
    url: str
    start: int = 0
    size: int | None = None
    mtime_ns: int | None = None
    index: FrameIndex | None = field(default=None, repr=False)
    frame_rate: float | None = None
    member: str = ""

    @classmethod
    def of(cls, location: "str | os.PathLike[str] | VideoLocation") -> "VideoLocation":
        """`location` itself, or the whole file at a path or URL."""
        if isinstance(location, VideoLocation):
            return location
        path = os.fspath(location)
        return cls(name=path, url=path)

    @property
    def remote(self) -> bool:
        """Read through fsspec rather than from a local file."""
        return is_remote(self.url)
