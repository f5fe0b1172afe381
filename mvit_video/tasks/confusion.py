"""Confusion matrices as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvit_video.engine.figures import save_figure

_LABELLED_CLASSES = 40
_NUMBERED_CLASSES = 20


def plot_confusion(
    matrix: npt.ArrayLike, class_names: Sequence[str], path: Path, *, item: str = "video", unreadable: int = 0
) -> None:
    """Draw a confusion matrix, each row in per cent of its class, as a picture, written beside and renamed.

    Up to 20 classes every cell holds its number, up to 40 every class is named; beyond, every n-th is.

    Args:
        matrix: (C, C) counts, rows true and columns predicted.
        class_names: C names.
        path: of a .png file.
        item: what is counted, in the singular.
        unreadable: those that are not in the matrix; they count as wrong.

    Raises:
        ValueError: if matrix and names do not fit.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    counts = np.asarray(matrix, dtype=np.float64)
    size = len(class_names)
    if counts.shape != (size, size):
        raise ValueError(f"the matrix is {counts.shape} and there are {size} class names: it must be ({size}, {size})")
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
    names = [f"{class_names[i]} ({totals[i, 0]:.0f})" for i in shown]
    axes.set_yticks(list(shown), names, fontsize=9)
    axes.set_xticks(
        list(shown), [class_names[i] for i in shown], rotation=45, ha="right", rotation_mode="anchor", fontsize=9
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel(f"true class ({item}s)")
    axes.set_title(confusion_title(np.trace(counts), counts.sum() + unreadable, item=item, unreadable=unreadable))
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
