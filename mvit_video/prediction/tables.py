"""Results as tables: rows of CSV, and lines for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from mvit_video.prediction.results import ClassScore, FilePrediction, FoundObject
from mvit_video.runtime.formatting import one_line

_DIGITS = 6  # of scores and seconds


@dataclass(frozen=True)
class ResultTable:
    """How results stand in predictions.csv and on the screen.

    Attributes:
        boxes: with a column for each edge of a box.
        most: rows on the screen of one file; None for all.
    """

    boxes: bool = False
    most: int | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns of the CSV."""
        edges = ("x1", "y1", "x2", "y2") if self.boxes else ()
        return ("path", "start", "end", "rank", "class", "score", *edges, "error")

    def rows(self, one: FilePrediction) -> list[tuple[Any, ...]]:
        """A row for each class or object of a file, or of each of its windows; one for a file with an error."""
        if one.error is not None:
            return [(one.path, *[""] * (len(self.header) - 2), one.error)]
        if one.windows is None:
            return [(one.path, "", "", *row, "") for row in self._ranked(one.predictions)]
        rows = []
        for window in one.windows:
            times = (round(window.start, _DIGITS), round(window.end, _DIGITS))
            rows += [(one.path, *times, *row, "") for row in self._ranked(window.predictions)]
        return rows

    def text(self, predictions: Sequence[FilePrediction], *, noun: str) -> str:
        """For people: a line for each class or object of each file."""
        lines: list[tuple[str, ...]] = [(noun, "score", "class", *(["box (x1, y1, x2, y2)"] if self.boxes else []))]
        for one in predictions:
            lines += [tuple(map(one_line, line)) for line in self._lines(one)]
        widths = [
            max(cell_len(row[column]) for row in lines if column < len(row) - 1) for column in range(len(lines[0]) - 1)
        ]
        return "".join(_line(row, widths) for row in lines)

    def _lines(self, one: FilePrediction) -> list[tuple[str, ...]]:
        if one.error is not None:
            return [(one.path, "-", f"could not be read: {one.error}")]
        lines = [(f"{100 * best.score:.1f} %", best.name, *_box_text(best)) for best in one.predictions[: self.most]]
        if not one.predictions:
            lines = [("-", "nothing was found")]
        more = len(one.predictions) - len(lines)
        lines += [("", f"and {more} more")] if more > 0 else []
        return [(("" if place else one.path), *line) for place, line in enumerate(lines)]

    def _ranked(self, predictions: Sequence[ClassScore]) -> list[tuple[Any, ...]]:
        ranked = []
        for rank, one in enumerate(predictions, 1):
            edges = [round(edge, 2) for edge in one.box] if isinstance(one, FoundObject) else [""] * 4
            ranked.append((rank, one.name, round(one.score, _DIGITS), *(edges if self.boxes else ())))
        return ranked


def _box_text(one: ClassScore) -> tuple[str, ...]:
    return (", ".join(f"{edge:.0f}" for edge in one.box),) if isinstance(one, FoundObject) else ()


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """A line with its columns under one another, as wide as a terminal shows them; the score to the right."""
    cells = []
    for place, cell in enumerate(row[:-1]):
        space = " " * (widths[place] - cell_len(cell))
        cells.append(space + cell if place == 1 else cell + space)
    return "  ".join([*cells, row[-1]]) + "\n"
