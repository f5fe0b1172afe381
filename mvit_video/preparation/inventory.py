"""From the splits' manifests to the files there are: each once, with its size and time, whatever lists it."""

import logging
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mvit_video.data.datasets.manifest import Manifest
from mvit_video.preparation.journal import FileState
from mvit_video.video.location import VideoLocation

logger = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class SplitEntry:
    """A line of a split: which item, of which class."""

    item: int
    label: int


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

    Raises:
        ValueError: a manifest holds what an index cannot: segments, several labels a video, folders of pictures.
    """
    for split, manifest in manifests.items():
        _check_kind(split, manifest)
        _say_what_is_lost(split, manifest)
    places: dict[tuple[str, int], int] = {}
    locations: list[VideoLocation] = []
    entries: dict[str, tuple[SplitEntry, ...]] = {}
    for split, manifest in manifests.items():
        listed = []
        for index in evenly_spaced(len(manifest), limit):
            location = manifest.location(index)
            key = (location.url, location.start)
            if key not in places:
                places[key] = len(locations)
                whole = location.start == 0 and (location.size is None or location.mtime_ns is not None)
                # A whole file is looked at as it is now; only a stretch of a larger one has a size of its own.
                locations.append(VideoLocation(location.name, location.url) if whole else _without_index(location))
            listed.append(SplitEntry(places[key], manifest.labels[index]))
        entries[split] = tuple(listed)
    return Inventory(tuple(look_up(locations)), entries, dict(manifests))


def _check_kind(split: str, manifest: Manifest) -> None:
    """Refuse what would be lost in the index."""
    kinds = {
        "segments of videos": manifest.segments,
        "several labels a video": manifest.label_sets,
        "folders of pictures": manifest.frame_rate,
    }
    for kind, values in kinds.items():
        if values is not None:
            raise ValueError(
                f"split {split}: {manifest.source} has {kind}, which an index cannot hold; train from it as it is, "
                "without preparing it"
            )


def _say_what_is_lost(split: str, manifest: Manifest) -> None:
    lost = [name for name in ("groups", "weights") if getattr(manifest, name) is not None]
    if lost:
        logger.warning("split %s: the index will not hold the %s of %s", split, " and ".join(lost), manifest.source)


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
        return _look_up_remote(location)
    try:
        file_stat = os.stat(location.url)
    except (OSError, ValueError) as error:
        return InventoryItem(location, None, getattr(error, "strerror", None) or str(error))
    if not stat.S_ISREG(file_stat.st_mode):
        return InventoryItem(
            location, None, "is a directory" if stat.S_ISDIR(file_stat.st_mode) else "is not a regular file"
        )
    size = file_stat.st_size if location.size is None else location.size
    path = os.path.abspath(location.url)
    return InventoryItem(
        location, FileState(name=path, start=location.start, size=size, mtime_ns=file_stat.st_mtime_ns)
    )


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


def _without_index(location: VideoLocation) -> VideoLocation:
    return VideoLocation(location.name, location.url, start=location.start, size=location.size)
