"""The curves of a run as one picture."""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from mvit_video.engine.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, float | str | None]
_WIDTH, _HEIGHT = 12.0, 3.75  # of the picture, and of a row of two panels, in inches
_MOST_DRAWN = 16_000  # points of a curve: ten times the columns of pixels of a panel, with both ends of each
_COLOURS = ("#4477aa", "#ee6677", "#228833")  # told apart by colour-blind readers too


@dataclass(frozen=True)
class Curve:
    """One curve: the values of `key` in the records of a kind.

    Attributes:
        kind: "train" or "eval".
        key: of the records.
        label: in the legend.
    """

    kind: Literal["train", "eval"]
    key: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that share their axes.

    Attributes:
        title, unit: of the panel and of its vertical axis.
        curves: up to three.
        bottom, top: of the vertical axis; None: as the values are.
        exact: draw every value, instead of the running mean of a long curve.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    bottom: float | None = 0.0
    top: float | None = None
    exact: bool = False


# A loss of 8 falling to 1 and one of 0.9 falling to 0.8 should both fill their panel.
LOSS_PANEL = Panel(
    title="Loss",
    unit="loss",
    curves=(Curve("train", "loss", "training"), Curve("eval", "loss", "validation")),
    bottom=None,
)
LEARNING_RATE_PANEL = Panel(
    title="Learning rate", unit="learning rate", curves=(Curve("train", "lr", "learning rate"),), exact=True
)


def throughput_panel(sample: str) -> Panel:
    """How fast training goes, in samples ("clip") a second."""
    return Panel(title="Throughput", unit=f"{sample}s / s", curves=(Curve("train", f"{sample}s_per_s", "training"),))


class CurvePoints:
    """The points of the curves of some panels, added record by record: 16 bytes a point.

    The records of a long run are more than a process should hold, and reading their file anew takes seconds.
    """

    def __init__(self, panels: Sequence[Panel]) -> None:
        wanted = {(curve.kind, curve.key) for panel in panels for curve in panel.curves}
        self._steps = {curve: array("d") for curve in wanted}
        self._values = {curve: array("d") for curve in wanted}

    def add(self, record: Record) -> None:
        """Take the values that are drawn."""
        for curve in self._steps:
            if record.get("kind") == curve[0] and record.get(curve[1]) is not None:
                self._steps[curve].append(_number(record, "step"))
                self._values[curve].append(_number(record, curve[1]))

    def series(self, curve: Curve) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Steps and values of a curve, without the values that are not numbers."""
        key = (curve.kind, curve.key)
        return np.array(self._steps[key]), np.array(self._values[key])


def plot_curves(points: CurvePoints, panels: Sequence[Panel], path: Path, *, title: str = "") -> None:
    """Draw curves over the steps as a picture, two panels to a row, written beside and renamed.

    Args:
        points: of these panels.
        panels: what to draw.
        path: of a .png file.
        title: written above.
    """
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(_WIDTH, _HEIGHT * rows), dpi=110)
    # Fixed margins: a layout made to measure takes longer than the drawing, after every validation.
    figure.subplots_adjust(**_margins(rows))
    figure.suptitle(title, fontsize=14, fontweight="bold", y=1 - 0.1 / (_HEIGHT * rows), va="top")
    for axes, panel in zip(figure.subplots(rows, 2, squeeze=False).flat, panels):
        for colour, curve in zip(_COLOURS, panel.curves):
            steps, values = points.series(curve)
            if len(steps):
                marked = curve.kind == "eval"
                _plot_series(axes, steps, values, colour=colour, label=curve.label, marked=marked, exact=panel.exact)
        axes.set_title(panel.title)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(panel.unit)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(panel.bottom, panel.top)
        if len(axes.lines) > 0 and len(panel.curves) > 1:
            axes.legend(frameon=False)
    save_figure(figure, path, cut=False)


def _margins(rows: int) -> dict[str, float]:
    """Room for titles and numbers, the same on paper for any number of rows: the arguments of `subplots_adjust`."""
    width, height = _WIDTH, _HEIGHT * rows
    gap = {"wspace": 0.85 / ((width - 1.75) / 2), "hspace": 0.9 / ((height - 1.25 - 0.9 * (rows - 1)) / rows)}
    return {"left": 0.75 / width, "right": 1 - 0.15 / width, "bottom": 0.5 / height, "top": 1 - 0.75 / height} | gap


def _plot_series(
    axes: "Axes",
    steps: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    *,
    colour: str,
    label: str,
    marked: bool,
    exact: bool,
) -> None:
    """A curve. A long one that is neither `marked` nor `exact` is drawn faintly under its running mean."""
    window = len(values) // 40
    if marked or exact or window < 3:
        axes.plot(*thinned(steps, values), color=colour, label=label, marker="o" if marked else None, markersize=4)
        return
    axes.plot(*thinned(steps, values), color=colour, alpha=0.25, linewidth=0.8)
    # The mean of up to `window` values on either side; fewer at the ends, so that no end sags towards zero.
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - window, 0), np.minimum(places + window + 1, len(values))
    axes.plot(*thinned(steps, (sums[high] - sums[low]) / (high - low)), color=colour, label=label)


def thinned(
    steps: npt.NDArray[np.float64], values: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The smallest and the largest value of each few, in their order, of a curve with more points than can be seen.

    A curve of up to _MOST_DRAWN points is drawn with all of them. What is left out of another lies between two points
    of the same column of pixels.
    """
    if len(values) <= _MOST_DRAWN:
        return steps, values
    starts = np.linspace(0, len(values), _MOST_DRAWN // 2 + 1).astype(np.int64)
    low, high = (
        np.array([first + int(find(values[first:last])) for first, last in pairwise(starts)])
        for find in (np.argmin, np.argmax)
    )
    places = np.unique(np.concatenate([low, high]))
    return steps[places], values[places]


def _number(record: Record, key: str) -> float:
    value = record[key]
    assert isinstance(value, int | float), record
    return float(value)
