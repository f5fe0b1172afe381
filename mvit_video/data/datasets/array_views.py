"""Read-only sequences over flat memory, for lists that every loader worker holds.

A tuple of 300,000 strings is 300,000 objects whose reference counts every forked worker writes to, which copies their
pages, and which a spawned worker unpickles one by one. One buffer with offsets is neither touched nor taken apart.
"""

import operator
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TypeVar, overload

import numpy as np
import numpy.typing as npt

T_co = TypeVar("T_co", covariant=True)

# Keeps file names that are no valid UTF-8 (they hold lone surrogates in Python) as they are.
TEXT_ERRORS = "surrogatepass"


class ArrayView(Sequence[T_co]):
    """A sequence that makes each item when it is asked for; equal to any sequence of equal items."""

    @abstractmethod
    def item(self, place: int) -> T_co:
        """The item at a place from 0 to len - 1."""

    @overload
    def __getitem__(self, place: int) -> T_co: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[T_co, ...]: ...
    def __getitem__(self, place: int | slice) -> T_co | tuple[T_co, ...]:
        if isinstance(place, slice):
            return tuple(self.item(at) for at in range(len(self))[place])
        at = operator.index(place)
        if not -len(self) <= at < len(self):
            raise IndexError(f"item {at} of {len(self)}")
        return self.item(at % len(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        shown = ", ".join(repr(item) for item in self[:3])
        return f"({shown}{', ...' if len(self) > 3 else ''}; {len(self)} in all)"


class IntArrayView(ArrayView[int]):
    """Integers; `numpy.asarray` of it makes no copy.

    Args:
        values: whole numbers.
    """

    def __init__(self, values: Iterable[int] | npt.NDArray[np.integer]) -> None:
        if not isinstance(values, np.ndarray):
            values = np.fromiter((operator.index(value) for value in values), np.int64)
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def item(self, place: int) -> int:
        return int(self._values[place])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.integer]:
        same = dtype is None or np.dtype(dtype) == self._values.dtype
        return self._values.astype(dtype) if copy or not same else self._values


class FloatArrayView(ArrayView[float]):
    """Numbers; `numpy.asarray` of it makes no copy."""

    def __init__(self, values: Iterable[float] | npt.NDArray[np.float64]) -> None:
        if not isinstance(values, np.ndarray):
            values = np.fromiter(values, np.float64)
        self._values = values.astype(np.float64, copy=False)

    def __len__(self) -> int:
        return len(self._values)

    def item(self, place: int) -> float:
        """See ArrayView."""
        return float(self._values[place])

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[np.float64]:
        same = dtype is None or np.dtype(dtype) == self._values.dtype
        return self._values.astype(dtype) if copy or not same else self._values


class TextArrayView(ArrayView[str]):
    """Strings in one buffer.

    Args:
        values: the strings.
    """

    def __init__(self, values: Iterable[str]) -> None:
        parts = [value.encode("utf-8", TEXT_ERRORS) for value in values]
        self._text: bytes | memoryview = b"".join(parts)
        self._ends = np.fromiter(accumulate(map(len, parts), initial=0), np.int64, len(parts) + 1)

    @classmethod
    def of_buffer(cls, text: bytes | memoryview, ends: npt.NDArray[np.int64]) -> "TextArrayView":
        """Strings that lie in a buffer already, and where each of them begins there: (strings + 1,)."""
        view = cls([])
        view._text, view._ends = text, ends
        return view

    def __len__(self) -> int:
        return len(self._ends) - 1

    def item(self, place: int) -> str:
        return str(self._text[self._ends[place] : self._ends[place + 1]], "utf-8", TEXT_ERRORS)


class SelectedArrayView(ArrayView[T_co]):
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
        """See ArrayView."""
        return self._column[int(self._rows[place])]
