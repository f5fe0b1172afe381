"""Where the bytes of a video are: a file of its own, or a stretch of a larger one."""

import os
from dataclasses import dataclass, field

from mvit_video.video.index import FrameIndex


PICTURE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # of videos that are folders of pictures


def is_remote(place: str) -> bool:
    """Whether a place is read through fsspec rather than from a local file."""
    return "://" in place


def join_place(base: str, place: str) -> str:
    """A path or URL that starts from the folder or URL `base` unless it is absolute."""
    if not base or is_remote(place):
        return place
    return os.path.join(base, place) if place else base  # URLs join like POSIX paths


@dataclass(frozen=True)
class Media:
    """One video to decode.

    Attributes:
        name: what to call it to people: its path, or "shard.tar/member".
        url: local path, or fsspec URL such as "s3://bucket/shard-000001.tar", of the file that holds it.
        start: its first byte there.
        size: its bytes; None for the whole file.
        mtime_ns: modification time of a local file when it was indexed; None if it was not.
        frame_rate: frames per second, if it is a folder of numbered pictures; has no effect on files.
        index: its frames, if they are known already; not used when the file's size or modification time has changed.
    """

    name: str
    url: str
    start: int = 0
    size: int | None = None
    mtime_ns: int | None = None
    index: FrameIndex | None = field(default=None, repr=False)
    frame_rate: float | None = None

    @classmethod
    def of(cls, place: "str | os.PathLike[str] | Media") -> "Media":
        """`place` itself, or the whole file at a path or URL."""
        if isinstance(place, Media):
            return place
        path = os.fspath(place)
        return cls(name=path, url=path)

    @property
    def remote(self) -> bool:
        """Read through fsspec rather than from a local file."""
        return is_remote(self.url)
