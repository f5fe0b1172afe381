"""Packing a split into tar shards: what goes into which, and writing one, which is a worker's task."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mvit_video.data.datasets.shards import ShardWriter, read_member
from mvit_video.preparation.journal import Record
from mvit_video.video.byte_source import locate
from mvit_video.video.location import VideoLocation, is_remote, join_location

_HEAD_BYTES = 2048  # of a member: its header and padding


@dataclass(frozen=True)
class ShardMember:
    """A video to pack: its name in the shard, where it is, and what reading it found."""

    name: str
    location: VideoLocation
    size: int
    mtime_ns: int
    digest: str


@dataclass(frozen=True)
class PlannedShard:
    """A shard to write.

    Attributes:
        folder: local folder or fsspec URL.
        split, number: whose videos, and which of the split's shards it is.
        members: in their order.
    """

    folder: str
    split: str
    number: int
    members: tuple[ShardMember, ...]

    def __str__(self) -> str:
        return join_location(self.folder, self.file_name)

    @property
    def file_name(self) -> str:
        """What ShardWriter calls it: each shard has a writer of its own."""
        return f"{self.prefix}-000000.tar"

    @property
    def prefix(self) -> str:
        return f"{self.split}-{self.number:05d}"

    @property
    def size(self) -> int:
        """Bytes of its videos."""
        return sum(member.size for member in self.members)

    @property
    def key(self) -> str:
        """A digest of everything that decides what the shard holds."""
        content = [[member.name, member.size, member.digest] for member in self.members]
        return hashlib.sha256(json.dumps([str(self), content]).encode()).hexdigest()


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is written: its plan's key, first byte of each member, and its size and time if it is local."""

    key: str
    starts: tuple[int, ...]
    size: int
    mtime_ns: int

    def stands(self, shard: PlannedShard) -> bool:
        """Whether the file is still the one that was written."""
        if self.key != shard.key:
            return False
        return is_remote(shard.folder) or _size_and_time(str(shard)) == (self.size, self.mtime_ns)


def plan_shards(split: str, members: Sequence[ShardMember], *, folder: str, max_bytes: int) -> list[PlannedShard]:
    """Spread the members of a split over shards, in an order shuffled once and for all: each shard is a mixed sample.

    Raises:
        ValueError: max_bytes below 1.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes={max_bytes}: a shard must hold at least one byte")
    groups: list[list[ShardMember]] = []
    filled = max_bytes
    for place in np.random.default_rng(0).permutation(len(members)).tolist():
        size = members[place].size + _HEAD_BYTES
        if filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(members[place])
        filled += size
    return [PlannedShard(folder, split, number, tuple(group)) for number, group in enumerate(groups)]


def write_shard(shard: PlannedShard) -> WrittenShard:
    """Write a shard and, if it is local, read it back.

    Raises:
        ValueError: a video has changed since it was read.
        OSError: reading or writing failed.
    """
    most = 2**62  # the plan says what belongs into it
    with ShardWriter(shard.folder, prefix=shard.prefix, max_bytes=most, max_videos=most, overwrite=True) as writer:
        placed = [writer.add(member.name, _content(member)) for member in shard.members]
    starts = tuple(place.start for place in placed)
    if is_remote(shard.folder):
        return WrittenShard(shard.key, starts, 0, 0)
    for member, start in zip(shard.members, starts):
        if hashlib.sha256(read_member(str(shard), start, member.size)).hexdigest() != member.digest:
            raise ValueError(f"{member.location.name}: its bytes in {shard} are not those that were read; run again")
    return WrittenShard(shard.key, starts, *_size_and_time(str(shard)))


def member_of(location: VideoLocation, record: Record, name: str) -> ShardMember:
    """The member that a video becomes."""
    written = record.written
    if written is not None:
        location = VideoLocation.of(written.name)
    return ShardMember(name, location, record.file.size, record.file.mtime_ns, record.digest)


def member_name(path: str, root: str) -> str:
    """Name of a video in a shard: its path below the folder that all share."""
    name = path.split("://", 1)[-1] if is_remote(path) else os.path.relpath(path, root)
    return "/".join(part for part in Path(name).parts if part not in ("..", "/"))


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, with a number before the extension where one occurs again."""
    taken: set[str] = set()
    result = []
    for name in names:
        stem, extension = os.path.splitext(name)
        number, candidate = 1, name
        while candidate in taken:
            number += 1
            candidate = f"{stem}~{number}{extension}"
        taken.add(candidate)
        result.append(candidate)
    return result


def shard_to_json(packed: WrittenShard) -> str:
    """One line of the shards' journal."""
    return json.dumps(asdict(packed), separators=(",", ":"))


def shards_from_lines(lines: Sequence[str]) -> Mapping[str, WrittenShard]:
    """The shards of a journal by key; torn lines are passed over."""
    found: dict[str, WrittenShard] = {}
    for line in lines:
        try:
            content = json.loads(line)
            found[content["key"]] = WrittenShard(**{**content, "starts": tuple(content["starts"])})
        except (ValueError, KeyError, TypeError):
            continue  # torn by an interrupted run: that shard is written again
    return found


def _content(member: ShardMember) -> str | bytes:
    location = member.location
    if location.remote:
        content: str | bytes = locate(location).read()
    elif location.start or location.size is not None:
        content = read_member(location.url, location.start, member.size)
    else:
        if _size_and_time(location.url) != (member.size, member.mtime_ns):
            raise ValueError(f"{location.name}: has changed since it was read; run the same command again")
        return location.url
    if len(content) != member.size:
        raise ValueError(
            f"{location.name}: has {len(content)} bytes, {member.size} were read; run the same command again"
        )
    return content


def _size_and_time(path: str) -> tuple[int, int]:
    """(size, modification time) of a file; (-1, -1) if there is none."""
    try:
        file_stat = os.stat(path)
    except FileNotFoundError:
        return -1, -1
    return file_stat.st_size, file_stat.st_mtime_ns
