"""Confusion matrices as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvit_video.engine.figures import save_figure
from mvit_video.metrics import IntArray, confusion_counts

_LABELLED_CLASSES = 40
_NUMBERED_CLASSES = 20
# Rows of a picture, which has about 1,300 pixels for them. All cells of 21,000 classes would take 3.5 GB, each copy.
_MOST_ROWS = 1000


def classes_per_row(num_classes: int) -> int:
    """How many neighbouring classes a row of a confusion matrix stands for: one, up to _MOST_ROWS classes."""
    return math.ceil(num_classes / _MOST_ROWS)


def drawn_counts(labels: IntArray, predictions: IntArray, *, num_classes: int) -> IntArray:
    """The matrix that `plot_confusion` draws: (R, R) counts, rows true and columns predicted.

    Args:
        labels: (N,) class indices.
        predictions: (N,) class indices, -1 for what has none and is left out.
        num_classes: each row stands for `classes_per_row` of them.
    """
    together = classes_per_row(num_classes)
    # Rounded towards minus infinity, -1 stays -1.
    return confusion_counts(labels // together, predictions // together, num_classes=math.ceil(num_classes / together))


def plot_confusion(
    matrix: npt.ArrayLike,
    class_names: Sequence[str],
    path: Path,
    *,
    item: str = "video",
    unreadable: int = 0,
    right: int | None = None,
) -> None:
    """Draw a confusion matrix, each row in per cent of its class, as a picture, written beside and renamed.

    Up to 20 classes every cell holds its number, up to 40 every class is named; beyond, every n-th is. Of more than
    _MOST_ROWS classes, neighbours share a row.

    Args:
        matrix: (R, R) counts, rows true and columns predicted, see `drawn_counts`; a row a class up to _MOST_ROWS.
        class_names: their names.
        path: of a .png file.
        item: what is counted, in the singular.
        unreadable: those that are not in the matrix; they count as wrong.
        right: how many are named rightly; None: those on the diagonal, where a row is a class.

    Raises:
        ValueError: if matrix and names do not fit.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counts = np.asarray(matrix, dtype=np.float64)
    together = classes_per_row(len(class_names))
    size = math.ceil(len(class_names) / together)
    if counts.shape != (size, size):
        raise ValueError(
            f"the matrix is {counts.shape} and there are {len(class_names)} class names: it must be ({size}, {size})"
        )
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)

    inches = min(5.0 + 0.45 * size, 16.0)
    figure = Figure(figsize=(inches + 1.0, inches), dpi=110, layout="constrained")
    axes = figure.subplots()
    # Among many classes the confusions are a few per cent each: a square root scale shows them.
    norm = PowerNorm(1.0 if size <= _LABELLED_CLASSES else 0.5, vmin=0.0, vmax=1.0)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, format=PercentFormatter(xmax=1.0))
    bar.set_label(f"share of the true class's {item}s")
    bar.outline.set_visible(False)
    shown = range(0, size, math.ceil(size / _LABELLED_CLASSES))
    first = [class_names[i * together] for i in shown]
    names = [f"{name} ({totals[i, 0]:.0f})" for name, i in zip(first, shown)]
    axes.set_yticks(list(shown), names, fontsize=9)
    axes.set_xticks(list(shown), first, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    several = f", {together} classes from the named one on" if together > 1 else ""
    axes.set_xlabel(f"predicted class{several}")
    axes.set_ylabel(f"true class ({item}s{several})")
    named = np.trace(counts) if right is None else right
    axes.set_title(confusion_title(named, counts.sum() + unreadable, item=item, unreadable=unreadable))
    if size <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9
            )
    save_figure(figure, path)


def confusion_title(right: float, total: float, *, item: str, unreadable: int) -> str:
    """How many of all items are right, the unreadable ones included: the accuracy that results.json has."""
    share = f" ({100 * right / total:.1f}%)" if total else ""
    return f"{right:.0f} of {total:.0f} {item}s right{share}" + (f", {unreadable} unreadable" if unreadable else "")
