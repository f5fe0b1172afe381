"""What a run will cost, said before it starts: time and disk from a sample of the files."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvit_video.runtime.formatting import count_text, duration_text, size_text

SAMPLE_FILES = 8
SAMPLE_ENCODED = 4
RECORD_BYTES = 4000  # of the journal and the index, per video
_SPARE = 1.1  # disk is asked for with so much to spare


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate.

    Attributes:
        files: files still to read; known: those read already, for this estimate or by an earlier run.
        bytes: of the files to read.
        read_s: wall-clock seconds to read them.
        encode_files, encode_s, encode_bytes: of re-encoding: files, seconds, bytes they will take.
        shard_bytes: what the tar shards will take.
        needs: bytes to be written, by folder.
    """

    files: int
    known: int
    bytes: int
    read_s: float
    encode_files: int = 0
    encode_s: float = 0.0
    encode_bytes: float = 0.0
    shard_bytes: float = 0.0
    needs: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.read_s + self.encode_s

    def lines(self, *, workers: int) -> list[str]:
        """In words."""
        known = f" ({self.known} are read already)" if self.known else ""
        lines = [
            f"to read: {count_text(self.files, 'file')}, {size_text(self.bytes)}{known}: "
            f"about {duration_text(self.read_s)} with {count_text(workers, 'process')}"
        ]
        if self.encode_files:
            expected = f"about {duration_text(self.encode_s)}, {size_text(self.encode_bytes)}"
            lines.append(f"to re-encode: {count_text(self.encode_files, 'file')}: {expected}")
        if self.shard_bytes:
            lines.append(f"to pack: {size_text(self.shard_bytes)}")
        for folder, size in self.needs.items():
            lines.append(f"disk: {size_text(size)} in {folder}, where {size_text(free_bytes(folder))} are free")
        return lines


def sample_evenly(todo: Sequence[int], count: int) -> list[int]:
    """At most `count` of the places, spread evenly."""
    if len(todo) <= count:
        return list(todo)
    return [todo[(2 * place + 1) * len(todo) // (2 * count)] for place in range(count)]


def extrapolate(sample: float, *, sample_bytes: int, total_bytes: int) -> float:
    """What all bytes take if a sample of them took `sample`; the sample's own where it has no bytes."""
    return sample * total_bytes / sample_bytes if sample_bytes else sample


def free_bytes(folder: str | os.PathLike[str]) -> int:
    """Bytes a user may still write to the file system of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def check_disk(needs: Mapping[str, float]) -> None:
    """Refuse what cannot fit.

    Args:
        needs: bytes to be written by folder; folders of one file system are added up.

    Raises:
        ValueError: a file system has not that much room.
    """
    folders: dict[int, list[str]] = {}
    for folder in needs:
        folders.setdefault(os.stat(_existing(folder)).st_dev, []).append(folder)
    for group in folders.values():
        wanted = _SPARE * sum(needs[folder] for folder in group)
        free = free_bytes(group[0])
        if wanted > free:
            raise ValueError(
                f"{' and '.join(group)}: about {size_text(wanted)} will be written, a tenth to spare included, and "
                f"{size_text(free)} are free: make room, choose another folder, or take fewer videos (limit=N)"
            )


def _existing(folder: str | os.PathLike[str]) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return path
