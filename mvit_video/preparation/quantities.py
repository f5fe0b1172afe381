"""Distributions as plain values, for reports."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Least, 5 %, median, 95 % and greatest; empty for no values."""
    if not values:
        return {}
    marks = np.quantile(np.asarray(values, np.float64), [0, 0.05, 0.5, 0.95, 1])
    return dict(zip(("min", "5%", "median", "95%", "max"), (round(float(mark), 4) for mark in marks)))


def histogram(values: Sequence[float], edges: Sequence[float]) -> dict[str, int]:
    """Numbers of values below the first edge, between edges, and from the last one on."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    names = [f"below {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"{edges[-1]} and more"]
    return {name: int(count) for name, count in zip(names, counts)}


def most_common(values: Iterable[str], number: int = 12) -> dict[str, int]:
    """The most common values and how often they occur; the rest under "others"."""
    counted = Counter(values)
    shown = dict(counted.most_common(number))
    rest = counted.total() - sum(shown.values())
    return shown | ({"others": rest} if rest else {})
