"""What the preparation has to know of the kind of files it prepares: how one is read, and what is worth reporting."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mvit_video.data.datasets.extensions import FileKind
from mvit_video.data.datasets.manifest import Manifest
from mvit_video.preparation.inventory import Inventory, SplitEntry
from mvit_video.preparation.journal import Record
from mvit_video.preparation.scan import ScanTask

Columns = Mapping[str, tuple[str, str]]


class Content(Protocol):
    """A kind of files.

    Attributes:
        kind: what people call it.
        scan: reads one file, in a process of its own.
        preload: modules that such a process imports before it is needed.
        max_pixels: largest pictures (height * width) to accept.
        near_rule: when two files look the same, in words.
        too_small_title: heading of the files that hold less than a sample takes.
        too_small_rule: which these are, in words.
        quantities: rows of a split's table: key in `statistics` by title.
        histograms: likewise what is shown with bars.
    """

    kind: FileKind
    scan: Callable[[ScanTask], Record]
    preload: tuple[str, ...]
    max_pixels: int
    near_rule: str
    too_small_title: str
    quantities: Mapping[str, str]
    histograms: Mapping[str, str]

    @property
    def too_small_rule(self) -> str:
        """Which files hold less than a sample takes, in words."""
        ...

    def statistics(
        self, entries: Sequence[SplitEntry], records: Mapping[int, Record], manifest: Manifest
    ) -> dict[str, Any]:
        """Distributions over the usable entries of a split, as plain values; `records` by item.

        `notes`, if there are any, are sentences for the split's part of the report.
        """
        ...

    def judged(self, data: Inventory, records: Mapping[int, Record]) -> Mapping[int, Record]:
        """The records, some of them with another status: of files that can be read, and do not suit their labels."""
        ...

    def write_split(self, out: Path, split: str, manifest: Manifest, entries: Sequence[SplitEntry]) -> str | None:
        """Write what a training reads of a split's usable entries, and say where; None: an index does."""
        ...

    def use(self, written: Mapping[str, str], data: Inventory) -> str:
        """The options that choose what was written, by split, as the source."""
        ...

    def too_small(self, entry: SplitEntry, record: Record) -> dict[str, float] | None:
        """What an entry has and what would be needed, by unit and "needed"; None if it has enough."""
        ...


class IndexedContent:
    """What files have in common whose labels an index holds."""

    def judged(self, data: Inventory, records: Mapping[int, Record]) -> Mapping[int, Record]:
        """See Content: a file that can be read suits any label."""
        return records

    def write_split(self, out: Path, split: str, manifest: Manifest, entries: Sequence[SplitEntry]) -> str | None:
        """See Content: an index is written."""
        return None

    def use(self, written: Mapping[str, str], data: Inventory) -> str:
        """See Content."""
        return "data/source=index " + " ".join(f"data.source.{split}={path}" for split, path in written.items())
