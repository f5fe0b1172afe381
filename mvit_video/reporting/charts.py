"""Curves as geometry: where lines, ticks and points lie in a drawing. No text of a run gets here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

WIDTH, HEIGHT = 560, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 24, 12, 30  # margins around the plot
MAX_POINTS = 250  # of a line


@dataclass(frozen=True, kw_only=True)
class Series:
    """The values of one line.

    Attributes:
        label: in the legend.
        colour: its number.
        x, y: (N,) each, x ascending.
        marked: draw a mark at each value: they are few, and each counts.
    """

    label: str
    colour: int
    x: Values
    y: Values
    marked: bool = False


@dataclass(frozen=True)
class Tick:
    """A tick of an axis: where it lies in the drawing, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A line as it is drawn.

    Attributes:
        label, colour: see Series.
        path: of SVG.
        marks: (x, y) of the marks.
        x, y: the values drawn, for the reader.
    """

    label: str
    colour: int
    path: str
    marks: Sequence[tuple[float, float]]
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines that share their axes.

    Attributes:
        title, unit: what is drawn, and in what.
        x_ticks, y_ticks: of the axes.
        x_range, y_range: the values at the ends of the plot.
        lines: drawn.
        thinned: values that a point stands for where a line has too many; 1 for all.
    """

    title: str
    unit: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    lines: Sequence[Line]
    thinned: int

    @property
    def readable(self) -> list[dict[str, Any]]:
        """The values of the lines, for the script of the page."""
        return [{"label": line.label, "x": line.x, "y": line.y} for line in self.lines]


def chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    *,
    bottom: float | None = None,
    top: float | None = None,
    limits: tuple[float | None, float | None] = (None, None),
) -> Chart:
    """The drawing of some lines, each of at least one value.

    Args:
        title, unit: see Chart.
        series: the lines.
        bottom, top: ends of the vertical axis; None: as the values are.
        limits: what the axis does not go beyond for the sake of a margin.
    """
    thin = [thinned(one.x, one.y, 1 if one.marked else MAX_POINTS) for one in series]
    x_range = _padded(min(float(x[0]) for x, _, _ in thin), max(float(x[-1]) for x, _, _ in thin), 0.0)
    low = min(float(y.min()) for _, y, _ in thin) if bottom is None else bottom
    high = max(float(y.max()) for _, y, _ in thin) if top is None else top
    y_range = _padded(low, high, 0.04, keep=(bottom is not None, top is not None))
    y_range = max(y_range[0], _or(limits[0], -math.inf)), min(y_range[1], _or(limits[1], math.inf))

    def across(value: float) -> float:
        return LEFT + (value - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    lines = []
    for one, (x, y, _) in zip(series, thin):
        points = [(round(across(float(a)), 1), round(down(float(b)), 1)) for a, b in zip(x, y)]
        path = "M" + "L".join(f"{a:g},{b:g}" for a, b in points)
        marks = points if one.marked or len(points) == 1 else ()
        lines.append(Line(one.label, one.colour, path, marks, rounded(x), rounded(y)))
    return Chart(
        title=title,
        unit=unit,
        x_ticks=[Tick(across(value), short(value)) for value in ticks(*x_range, count=6)],
        y_ticks=[Tick(down(value), short(value)) for value in ticks(*y_range, count=5)],
        x_range=x_range,
        y_range=y_range,
        lines=lines,
        thinned=max(factor for _, _, factor in thin),
    )


def thinned(x: Values, y: Values, most: int) -> tuple[Values, Values, int]:
    """Means of runs of neighbours where there are more than `most` values; and how many each stands for.

    `most` of 1 thins nothing: the line is of values that count one by one.
    """
    factor = 1 if most == 1 else math.ceil(len(x) / most)
    if factor == 1:
        return x, y, 1
    starts = np.arange(0, len(x), factor)
    sizes = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes, factor


def ticks(low: float, high: float, *, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number in few letters: 0.0004 as 4e-04, 12000 as 12k."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3:
        return f"{value:.0e}" if float(f"{value:.0e}") == value else f"{value:.1e}"
    if size >= 1e4:
        return f"{value / 1e6:g}M" if size >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.6g}"


def rounded(values: Values) -> list[float]:
    """Numbers with five digits, which is more than a drawing shows."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def _padded(low: float, high: float, share: float, keep: tuple[bool, bool] = (True, True)) -> tuple[float, float]:
    """A range that is not empty, grown by a share of its length at the ends that are not kept."""
    if high <= low:
        half = abs(low) * 0.05 or 0.5
        return low - half, low + half
    margin = share * (high - low)
    return (low if keep[0] else low - margin), (high if keep[1] else high + margin)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
