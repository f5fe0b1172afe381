"""More columns of a manifest in flat memory, beside those of array_views: seconds, sets of labels, a choice of rows."""

import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from mvit_video.data.datasets.array_views import Column

T_co = TypeVar("T_co", covariant=True)


class FloatColumn(Column[float]):
    """Numbers; `numpy.asarray` of it makes no copy."""

    def __init__(self, values: Iterable[float] | npt.NDArray[np.float64]) -> None:
        if not isinstance(values, np.ndarray):
            values = np.fromiter(values, np.float64)
        self._values = values.astype(np.float64, copy=False)

    def __len__(self) -> int:
        return len(self._values)

    def item(self, place: int) -> float:
        """See Column."""
        return float(self._values[place])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.float64]:
        same = dtype is None or np.dtype(dtype) == self._values.dtype
        return self._values.astype(dtype) if copy or not same else self._values


class LabelSets(Column[tuple[int, ...]]):
    """The classes of each video of a multi-label data set, sorted, each once.

    Args:
        sets: class indices of each video.
    """

    def __init__(self, sets: Iterable[Iterable[int]]) -> None:
        rows = [sorted({operator.index(label) for label in labels}) for labels in sets]
        self._ends = np.fromiter(accumulate(map(len, rows), initial=0), np.int64, len(rows) + 1)
        self._values = np.fromiter(chain.from_iterable(rows), np.int64, int(self._ends[-1]))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, place: int) -> tuple[int, ...]:
        """See Column."""
        return tuple(self._values[self._ends[place] : self._ends[place + 1]].tolist())

    @property
    def values(self) -> npt.NDArray[np.int64]:
        """All labels, one set behind the other."""
        return self._values

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of labels of each video."""
        return np.diff(self._ends)

    def mapped(self, table: npt.NDArray[np.int64]) -> "LabelSets":
        """The sets with every label l replaced by table[l]."""
        return LabelSets([table[np.asarray(labels, np.int64)].tolist() for labels in self])


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


class RowsOf(Column[T_co]):
    """Some rows of another column, looked up when they are asked for.

    Args:
        column: the column.
        rows: places in it.
    """

    def __init__(self, column: Sequence[T_co], rows: npt.NDArray[np.integer]) -> None:
        self._column = column
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def item(self, place: int) -> T_co:
        """See Column."""
        return self._column[int(self._rows[place])]
