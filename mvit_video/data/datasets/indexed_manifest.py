"""The manifest of a prepared split, read from its index file."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import IntArrayView, SelectedArrayView
from mvit_video.data.datasets.index_file import IndexFile
from mvit_video.data.datasets.manifest import Manifest, PathLike
from mvit_video.video.location import VideoLocation

_MORE = ("segments", "groups", "weights", "label_sets")  # columns that not every data set has


@dataclass(frozen=True)
class IndexedManifest(Manifest):
    """Videos with labels and frame indexes, from a file that every loader worker maps.

    Attributes:
        index: the mapped file.
        rows: the videos of the index that the manifest holds, in its order; None for all.
    """

    index: IndexFile = field(kw_only=True, repr=False, compare=False)
    rows: IntArrayView | None = field(default=None, kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, index: IndexFile) -> "IndexedManifest":
        """The manifest of an open index."""
        left_out = tuple(path for path, _ in index.left_out)
        more = {name: getattr(index, name) for name in (*_MORE, "frame_rate")}
        return cls(
            index.paths,
            IntArrayView(index.labels),
            index.class_names,
            index.path,
            left_out,
            kind=index.kind,
            index=index,
            **more,
        )

    def __reduce__(self) -> "tuple[Callable[..., IndexedManifest], tuple[Any, ...]]":
        """A spawned worker maps the file, it is not sent the columns; but for those that differ from the file's."""
        as_written = all(getattr(self, name) is getattr(self.index, name) for name in _MORE)
        if self.rows is None and self.class_names == self.index.class_names and as_written:
            return IndexedManifest.of, (self.index,)
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("paths", "index")}
        own["groups"] = None if self.groups is None else tuple(self.groups)  # those of a file do not travel
        return _remade, (self.index, own)

    @property
    def shard_of(self) -> npt.NDArray[np.int32] | None:
        """See Manifest."""
        shards = self.index.shard_of
        return shards if shards is None or self.rows is None else shards[np.asarray(self.rows)]

    def location(self, index: int) -> VideoLocation:
        """Where the bytes of a video are, and its frame index."""
        return self.index.location(index if self.rows is None else self.rows[index])

    def _chosen(self, rows: npt.NDArray[np.integer]) -> dict[str, Any]:
        held = rows if self.rows is None else np.asarray(self.rows)[rows]
        columns = super()._chosen(rows)
        return {**columns, "paths": SelectedArrayView(self.index.paths, held), "rows": IntArrayView(held)}


def _remade(index: IndexFile, own: dict[str, Any]) -> IndexedManifest:
    rows = own["rows"]
    return IndexedManifest(
        paths=index.paths if rows is None else SelectedArrayView(index.paths, np.asarray(rows)), index=index, **own
    )


def from_index(path: PathLike, *, root: PathLike | None = None) -> IndexedManifest:
    """Open the index that `mvit_video.prepare` wrote of a split.

    Args:
        path: the index file.
        root: folder or URL where the videos (or the shards) are now, if they are no longer where the index says.
    """
    return IndexedManifest.of(IndexFile.open(path, root=None if root is None else os.fspath(root)))
