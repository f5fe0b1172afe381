"""Which frames of its file each entry of a split is; a segment that holds none is no use to a training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mvit_video.preparation.inventory import SplitEntry
from mvit_video.preparation.journal import Record, Status
from mvit_video.video.index import frames_between


@dataclass(frozen=True)
class SplitFrames:
    """The entries of a split that can be used, with their frames, and what is wrong with sound files' others.

    Attributes:
        usable: in the split's order.
        empty: reason by row of the segments that hold no frame.
    """

    usable: tuple[SplitEntry, ...]
    empty: Mapping[int, str]


def split_frames(
    entries: Sequence[SplitEntry], records: Mapping[int, Record], *, keep: frozenset[Status]
) -> SplitFrames:
    """Find the frames of every entry whose file is in order.

    Args:
        entries: of a split.
        records: by item.
        keep: statuses of the files that are used.
    """
    found: dict[int, SplitEntry] = {}
    empty: dict[int, str] = {}
    item, seconds = -1, np.zeros(0)
    for entry in sorted(entries, key=lambda entry: entry.item):  # a long file's index is decoded once
        record = records[entry.item]
        if record.status not in keep:
            continue
        if entry.segment.whole:
            found[entry.row] = replace(entry, frames=range(record.num_frames))
            continue
        if entry.item != item:
            item, seconds = entry.item, _seconds(record)
        try:
            frames = frames_between(seconds, entry.segment.start, entry.segment.end)
        except ValueError as error:
            empty[entry.row] = str(error)
            continue
        found[entry.row] = replace(entry, frames=frames)
    return SplitFrames(tuple(found[entry.row] for entry in entries if entry.row in found), empty)


def frame_count(entry: SplitEntry, record: Record) -> int:
    """Frames of an entry: of its segment, or of the whole file."""
    return record.num_frames if entry.frames is None else len(entry.frames)


def duration(entry: SplitEntry, record: Record) -> float:
    """Seconds of an entry."""
    return record.duration if entry.segment.whole or not record.fps else frame_count(entry, record) / record.fps


def _seconds(record: Record) -> npt.NDArray[np.float64]:
    return record.frame_index.seconds_shown()
