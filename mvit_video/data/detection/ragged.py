"""Rows of different lengths that lie behind one another in one array: where each begins, and choosing some of them."""

from collections.abc import Iterable
from itertools import accumulate

import numpy as np
import numpy.typing as npt


def starts_of(lengths: Iterable[int]) -> npt.NDArray[np.int64]:
    """Where each row begins, and where the last ends: int64 (rows + 1,)."""
    return np.fromiter(accumulate(lengths, initial=0), np.int64)


def chosen(
    starts: npt.NDArray[np.int64], rows: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where some rows, in the given order, begin behind one another, and the places of their elements until now."""
    lengths = np.diff(starts)[rows]
    begins = np.concatenate([[0], np.cumsum(lengths)])
    return begins, np.repeat(starts[:-1][rows] - begins[:-1], lengths) + np.arange(begins[-1])
