"""The manifest of a prepared split, read from its index file."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import IntArrayView
from mvit_video.data.datasets.index_file import IndexFile
from mvit_video.data.datasets.manifest import Manifest, PathLike
from mvit_video.video.location import VideoLocation


@dataclass(frozen=True)
class IndexedManifest(Manifest):
    """Videos with labels and frame indexes, from a file that every loader worker maps.

    Attributes:
        index: the mapped file.
    """

    index: IndexFile = field(kw_only=True, repr=False, compare=False)

    @classmethod
    def of(cls, index: IndexFile) -> "IndexedManifest":
        """The manifest of an open index."""
        left_out = tuple(path for path, _ in index.left_out)
        return cls(index.paths, IntArrayView(index.labels), index.class_names, index.path, left_out, index=index)

    def __reduce__(self) -> "tuple[Callable[[IndexFile], IndexedManifest], tuple[IndexFile]]":
        return IndexedManifest.of, (self.index,)  # a spawned worker maps the file, it is not sent the columns

    @property
    def shard_of(self) -> npt.NDArray[np.int32] | None:
        """See Manifest."""
        return self.index.shard_of

    def location(self, index: int) -> VideoLocation:
        """Where the bytes of a video are, and its frame index."""
        return self.index.location(index)


def from_index(path: PathLike, *, root: PathLike | None = None) -> IndexedManifest:
    """Open the index that `mvit_video.prepare` wrote of a split.

    Args:
        path: the index file.
        root: folder or URL where the videos (or the shards) are now, if they are no longer where the index says.
    """
    return IndexedManifest.of(IndexFile.open(path, root=None if root is None else os.fspath(root)))
