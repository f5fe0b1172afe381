"""Tar shards of videos: few large files for file systems that cannot serve many small ones.

A shard is a plain tar archive (GNU format) of the original files, which `tar` lists and unpacks. Its members are found
through the index (shard, first byte, size), never by reading the archive, so any video is one read away.
"""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mvit_video.video.byte_source import locate
from mvit_video.video.location import VideoLocation, is_remote, join_location

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)  # two empty blocks end an archive
_BYTES_TIME = 946684800  # 2000-01-01, for members without a time of their own: tar warns about 1970


class MemberLocation(NamedTuple):
    """Where a video was put: number of the shard among the writer's, first byte of its contents, bytes."""

    shard: int
    start: int
    size: int


class Member(NamedTuple):
    """A file in a shard: its name, first byte of its contents, bytes."""

    name: str
    start: int
    size: int


class ShardWriter:
    """Writes shards, one after the other; each gets its name when it is complete.

    A local shard is written beside its place and renamed. A remote one is written to a temporary local file (TMPDIR)
    and sent whole: object stores show an object once all of it has arrived.

    Args:
        folder: local folder, made if need be, or fsspec URL.
        prefix: shards are called `<prefix>-000000.tar` and so on.
        max_bytes: a shard that holds a video is closed before another would make it larger than this.
        max_videos: most videos in a shard.
        overwrite: replace shards that are there already; otherwise they are refused.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        prefix: str = "videos",
        max_bytes: int = 2**30,
        max_videos: int = 10_000,
        overwrite: bool = False,
    ) -> None:
        if max_bytes < 1 or max_videos < 1:
            raise ValueError(f"max_bytes={max_bytes}, max_videos={max_videos}: a shard must hold at least one of each")
        self.folder = os.fspath(folder)
        self.prefix = prefix
        self.max_bytes = max_bytes
        self.max_videos = max_videos
        self.overwrite = overwrite
        self._shards: list[str] = []
        self._names: set[str] = set()
        self._in_shard = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @property
    def shards(self) -> tuple[str, ...]:
        """File names of the shards begun so far, in `folder`; the last is complete once the writer is closed."""
        return tuple(self._shards)

    def add(self, name: str, content: str | os.PathLike[str] | bytes) -> MemberLocation:
        """Put a video into the shards.

        Args:
            name: of the member: relative, with "/" between folders, different from all before it.
            content: a local file, or the bytes themselves.

        Raises:
            ValueError: the name is not as it should be, the file changed while it was read, or the shard to begin
                exists.
            OSError: reading or writing failed. The shard holds what it held before.
        """
        self._check_name(name)
        with _opened(content) as (source, size, time):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = size, time, 0o644
            head = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            file = self._room_for(len(head) + size + -size % _BLOCK)
            before = file.tell()
            try:
                file.write(head)
                shutil.copyfileobj(source, file, 2**20)
                copied = file.tell() - before - len(head)
                if copied != size:
                    raise ValueError(f"{name}: changed from {size} to {copied} bytes while it was packed; pack it anew")
                file.write(bytes(-size % _BLOCK))
            except BaseException:
                file.seek(before)
                file.truncate()
                raise
        self._names.add(name)
        self._in_shard += 1
        return MemberLocation(len(self._shards) - 1, before + len(head), size)

    def close(self) -> None:
        """Complete the last shard."""
        if self._file is None:
            return
        file = self._file
        if not self._in_shard:  # nothing could be put into it
            self._shards.pop()
            self.discard()
            return
        try:
            file.write(_END)
            file.flush()
            place = join_location(self.folder, self._shards[-1])
            if is_remote(self.folder):
                system, target = file_system(place)
                system.put_file(file.name, target)
            else:
                os.fsync(file.fileno())
                os.replace(file.name, place)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what has been written of the last shard."""
        if self._file is not None:
            self._file.close()
            if os.path.exists(self._file.name):
                os.unlink(self._file.name)
            self._file = None

    def _check_name(self, name: str) -> None:
        parts = name.split("/")
        if not name or name.startswith("/") or ".." in parts or "" in parts or "\0" in name:
            raise ValueError(f"{name!r} is no name for a member of a shard: it must be a relative path without '..'")
        if name in self._names:
            raise ValueError(f"{name}: is in the shards already; give each video a name of its own")

    def _room_for(self, size: int) -> BinaryIO:
        """The shard to write `size` bytes to."""
        if self._file is not None and (
            self._in_shard >= self.max_videos or self._file.tell() + size + len(_END) > self.max_bytes
        ):
            self.close()
        if self._file is None:
            self._file = self._begin(f"{self.prefix}-{len(self._shards):06d}.tar")
        return self._file

    def _begin(self, name: str) -> BinaryIO:
        place = join_location(self.folder, name)
        if not self.overwrite and _exists(place):
            raise ValueError(f"{place}: exists; pack into another folder, remove it, or pass overwrite=True")
        self._shards.append(name)
        self._in_shard = 0
        if is_remote(self.folder):
            return tempfile.NamedTemporaryFile(prefix=name, delete=False)  # type: ignore[return-value]
        os.makedirs(self.folder, exist_ok=True)
        return open(os.path.join(self.folder, f".{name}.tmp"), "wb")


def read_member(url: str, start: int, size: int) -> bytes:
    """The contents of one member of a shard. Raises VideoDecodeError if the shard is not there or too short."""
    return locate(VideoLocation(name=url, url=url, start=start, size=size)).read()


def list_members(url: str) -> list[Member]:
    """The files in a shard, in its order; only heads are read.

    Raises:
        ValueError: it is no plain tar archive, is not whole, or a member is a sparse file (not one run of bytes).
        OSError: it cannot be read.
    """
    members: list[Member] = []
    try:
        with open_shard(url) as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            for info in archive:
                if info.issparse():
                    raise ValueError(f"{url}: {info.name} is a sparse file; pack it again without --sparse")
                if info.isreg():
                    members.append(Member(info.name, info.offset_data, info.size))
            file.seek(archive.offset)
            if file.read(_BLOCK) != _END[:_BLOCK]:
                raise tarfile.ReadError(f"there is no end mark behind byte {archive.offset}")
    except tarfile.TarError as error:
        raise ValueError(f"{url}: is no whole, uncompressed tar archive ({error}); copy or pack it again") from error
    return members


def shard_order(shard_of: npt.NDArray[np.integer], *, seed: int, epoch: int, window: int) -> npt.NDArray[np.int64]:
    """Order in which an epoch visits the videos of shards, a permutation drawn from (seed, epoch).

    The shards are shuffled and cut into groups of nearly equal size, at most `window` each; the groups come one after
    the other, the videos of a group in random order. So at every place of the order at most `window` shards have been
    begun and not finished, which is what a file system or its cache has to keep up with. A window of all shards gives
    the order of plain files: each permutation is as likely as any other.

    Args:
        shard_of: (videos,) number of each video's shard.
        window: shards read at a time.

    Returns:
        int64 (videos,).

    Raises:
        ValueError: window is below 1.
    """
    if window < 1:
        raise ValueError(f"window={window}: at least one shard must be open at a time")
    rng = np.random.default_rng([seed, epoch])
    numbers, shard = np.unique(shard_of, return_inverse=True)
    groups = -(-len(numbers) // window)
    group = rng.permutation(len(numbers)) * groups // max(1, len(numbers))
    mixed = rng.permutation(len(shard))
    return mixed[np.argsort(group[shard[mixed]], kind="stable")]


@contextmanager
def _opened(content: str | os.PathLike[str] | bytes) -> Iterator[tuple[BinaryIO, int, int]]:
    """A video to read, its bytes and its modification time in s."""
    if isinstance(content, bytes):
        yield io.BytesIO(content), len(content), _BYTES_TIME
        return
    with open(content, "rb") as file:
        file_stat = os.fstat(file.fileno())
        yield file, file_stat.st_size, int(file_stat.st_mtime)


def open_shard(url: str) -> BinaryIO:
    """A shard to read, local or remote."""
    if not is_remote(url):
        return open(url, "rb")
    system, path = file_system(url)
    return system.open(path, "rb")


def _exists(place: str) -> bool:
    if not is_remote(place):
        return os.path.exists(place)
    system, path = file_system(place)
    return bool(system.exists(path))


def file_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL, and its path there. RuntimeError if its package is not installed."""
    import fsspec  # slow to import

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise RuntimeError(f"{url}: {error}") from error
    return system, path
