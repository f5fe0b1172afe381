"""The classes of videos that may have several each: in flat memory, and as the targets of a loss."""

import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import ArrayView


class LabelSetArrayView(ArrayView[tuple[int, ...]]):
    """The classes of each video of a multi-label data set, sorted, each once.

    Args:
        sets: class indices of each video.
    """

    def __init__(self, sets: Iterable[Iterable[int]]) -> None:
        rows = [sorted({operator.index(label) for label in labels}) for labels in sets]
        self._ends = np.fromiter(accumulate(map(len, rows), initial=0), np.int64, len(rows) + 1)
        self._values = np.fromiter(chain.from_iterable(rows), np.int64, int(self._ends[-1]))

    @classmethod
    def of_arrays(cls, values: npt.NDArray[np.integer], ends: npt.NDArray[np.int64]) -> "LabelSetArrayView":
        """Sets that are arrays already: all labels behind one another, and where each set begins, (videos + 1,)."""
        view = cls([])
        view._values, view._ends = values.astype(np.int64, copy=False), ends
        return view

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, place: int) -> tuple[int, ...]:
        """See ArrayView."""
        return tuple(self._values[self._ends[place] : self._ends[place + 1]].tolist())

    @property
    def values(self) -> npt.NDArray[np.int64]:
        """All labels, one set behind the other."""
        return self._values

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of labels of each video."""
        return np.diff(self._ends)

    def mapped(self, table: npt.NDArray[np.int64]) -> "LabelSetArrayView":
        """The sets with every label l replaced by table[l]."""
        return LabelSetArrayView([table[np.asarray(labels, np.int64)].tolist() for labels in self])


def multi_hot(label_sets: Sequence[Iterable[int]], num_classes: int) -> npt.NDArray[np.float32]:
    """Targets of binary cross-entropy: 1 where a video has the class.

    Args:
        label_sets: class indices of each video, (videos,).
        num_classes: columns.

    Returns:
        float32 (videos, num_classes) of 0 and 1.

    Raises:
        ValueError: a label out of range.
    """
    targets = np.zeros((len(label_sets), num_classes), np.float32)
    for row, labels in enumerate(label_sets):
        for label in labels:
            if not 0 <= label < num_classes:
                raise ValueError(f"label {label} of video {row}: with {num_classes} classes, labels run from 0 on")
            targets[row, label] = 1
    return targets
