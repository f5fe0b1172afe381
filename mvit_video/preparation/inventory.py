"""From the splits' manifests to the files there are: each once, with its size and time, whatever lists it.

A folder of pictures counts as a file: its size is that of its pictures, its time that of the newest.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.data.datasets.segments import WHOLE, Segment
from mvit_video.preparation.journal import FileState
from mvit_video.video.location import PICTURE_EXTENSIONS, VideoLocation, same_place

_THREADS = 32  # a network file system answers many at a time


@dataclass(frozen=True)
class InventoryItem:
    """A file that some split lists.

    Attributes:
        location: where it is, without any frame index it may have come with.
        state: its identity; None if it cannot be found.
        problem: why it cannot; empty if it can.
    """

    location: VideoLocation
    state: FileState | None
    problem: str = ""

    @property
    def size(self) -> int:
        """Bytes; 0 for a file that cannot be found."""
        return 0 if self.state is None else self.state.size

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of pictures."""
        return self.location.frame_rate is not None


@dataclass(frozen=True)
class SplitEntry:
    """A line of a split.

    Attributes:
        item: which file.
        label: its class, the first one where it has several.
        segment: the stretch of the file that it is.
        labels: all its classes.
        row: its place in the manifest.
        frames: its frames, once its file was read; None until then.
    """

    item: int
    label: int
    segment: Segment = WHOLE
    labels: tuple[int, ...] = ()
    row: int = 0
    frames: range | None = None


@dataclass(frozen=True)
class Inventory:
    """All files and what each split lists of them.

    Attributes:
        items: every file once.
        entries: of each split, in the manifest's order.
        manifests: of each split.
    """

    items: tuple[InventoryItem, ...]
    entries: Mapping[str, tuple[SplitEntry, ...]]
    manifests: Mapping[str, Manifest]


def take_inventory(manifests: Mapping[str, Manifest], *, limit: int | None = None) -> Inventory:
    """Look up every file of every split.

    Args:
        manifests: by the splits' names.
        limit: take so many entries of each split, spread evenly over it; None for all.
    """
    places: dict[tuple[str, int], int] = {}
    locations: list[VideoLocation] = []
    entries: dict[str, tuple[SplitEntry, ...]] = {}
    for split, manifest in manifests.items():
        listed = []
        for index in evenly_spaced(len(manifest), limit):
            location = manifest.location(index)
            key = (same_place(location.url), location.start)
            if key not in places:
                places[key] = len(locations)
                whole = location.start == 0 and (location.size is None or location.mtime_ns is not None)
                # A whole file is looked at as it is now; only a stretch of a larger one has a size of its own.
                locations.append(_whole(location) if whole else _without_index(location))
            label = manifest.labels[index]
            labels = (label,) if manifest.label_sets is None else manifest.label_sets[index]
            listed.append(SplitEntry(places[key], label, manifest.segment(index), labels, index))
        entries[split] = tuple(listed)
    return Inventory(tuple(look_up(locations)), entries, dict(manifests))


def evenly_spaced(count: int, limit: int | None) -> Sequence[int]:
    """`limit` of `count` places, spread evenly; all of them where there are no more."""
    if limit is None or limit >= count:
        return range(count)
    return [place * count // limit for place in range(limit)]


def look_up(locations: Sequence[VideoLocation]) -> list[InventoryItem]:
    """Size and time of every file."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_look_up, locations, chunksize=64))


def _look_up(location: VideoLocation) -> InventoryItem:
    if location.remote:
        return _look_up_remote(replace(location, frame_rate=None))  # folders of pictures are local
    try:
        file_stat = os.stat(location.url)
    except (OSError, ValueError) as error:
        return InventoryItem(location, None, getattr(error, "strerror", None) or str(error))
    if location.frame_rate is not None and stat.S_ISDIR(file_stat.st_mode):
        return InventoryItem(location, _folder_state(location.url, file_stat.st_mtime_ns))
    if not stat.S_ISREG(file_stat.st_mode):
        return InventoryItem(
            location, None, "is a directory" if stat.S_ISDIR(file_stat.st_mode) else "is not a regular file"
        )
    size = file_stat.st_size if location.size is None else location.size
    path = os.path.abspath(location.url)
    return InventoryItem(
        replace(location, frame_rate=None),
        FileState(name=path, start=location.start, size=size, mtime_ns=file_stat.st_mtime_ns),
    )


def _folder_state(folder: str, mtime_ns: int) -> FileState:
    """The identity of a folder of pictures: their bytes in all, and the newest of their times and its own."""
    size = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.lower().endswith(PICTURE_EXTENSIONS):
                picture = entry.stat()
                size, mtime_ns = size + picture.st_size, max(mtime_ns, picture.st_mtime_ns)
    return FileState(name=os.path.abspath(folder), size=size, mtime_ns=mtime_ns)


def _look_up_remote(location: VideoLocation) -> InventoryItem:
    """An object behind a URL; its size stands for its identity, since not every store keeps a time."""
    from fsspec.core import url_to_fs  # optional, and slow to import

    size = location.size
    if size is None:
        system, path = url_to_fs(location.url)
        try:
            size = int(system.size(path))
        except Exception as error:  # every file system raises errors of its own
            return InventoryItem(location, None, str(error) or type(error).__name__)
    return InventoryItem(location, FileState(name=location.url, start=location.start, size=size, mtime_ns=0))


def _whole(location: VideoLocation) -> VideoLocation:
    return VideoLocation(location.name, location.url, frame_rate=location.frame_rate)


def _without_index(location: VideoLocation) -> VideoLocation:
    return VideoLocation(location.name, location.url, start=location.start, size=location.size)
