"""What was predicted for a file, and how it is written down: as a line of JSON, rows of CSV, a table for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_DIGITS = 6  # of scores and seconds in files
CSV_HEADER = ("path", "start", "end", "rank", "class", "score", "error")


@dataclass(frozen=True)
class ClassScore:
    """A class and how likely it is.

    Attributes:
        name: of the class.
        score: its probability, from 0 to 1: among all classes, or by itself where a model names several.
    """

    name: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file of results."""
        return {"class": self.name, "score": round(self.score, _DIGITS)}


@dataclass(frozen=True)
class Window:
    """A stretch of a long video, and its classes.

    Attributes:
        start, end: in seconds from the first frame.
        predictions: the most likely classes, best first.
    """

    start: float
    end: float
    predictions: tuple[ClassScore, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file of results."""
        classes = [one.to_json() for one in self.predictions]
        return {"start": round(self.start, _DIGITS), "end": round(self.end, _DIGITS), "predictions": classes}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Window":
        """What `to_json` made. Raises KeyError or TypeError where it is something else."""
        return cls(line["start"], line["end"], _classes(line["predictions"]))


@dataclass(frozen=True)
class FilePrediction:
    """What a model says of a file.

    Attributes:
        path: of the file.
        predictions: the most likely classes, best first, from the mean over its views or windows; empty after an error.
        windows: of a video that was looked at window by window; None for one that was not.
        error: why the file could not be read; None where it could.
    """

    path: str
    predictions: tuple[ClassScore, ...] = ()
    windows: tuple[Window, ...] | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file of results."""
        line: dict[str, Any] = {"path": self.path, "predictions": [one.to_json() for one in self.predictions]}
        if self.windows is not None:
            line["windows"] = [window.to_json() for window in self.windows]
        if self.error is not None:
            line["error"] = self.error
        return line

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "FilePrediction":
        """What `to_json` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        windows = line.get("windows")
        return cls(
            path=line["path"],
            predictions=_classes(line["predictions"]),
            windows=None if windows is None else tuple(map(Window.from_json, windows)),
            error=line.get("error"),
        )


def _classes(found: Iterable[Mapping[str, Any]]) -> tuple[ClassScore, ...]:
    return tuple(ClassScore(one["class"], one["score"]) for one in found)


def best_classes(
    probabilities: npt.NDArray[np.floating], names: Sequence[str], *, top_k: int
) -> tuple[ClassScore, ...]:
    """The `top_k` most likely classes, best first.

    Args:
        probabilities: (classes,).
        names: of the classes.
        top_k: how many; all where there are fewer.
    """
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ClassScore(names[place], float(probabilities[place])) for place in best.tolist())


def csv_rows(one: FilePrediction) -> list[tuple[Any, ...]]:
    """A row for each class of a file, or of each of its windows, by CSV_HEADER; one row for a file with an error."""
    if one.error is not None:
        return [(one.path, "", "", "", "", "", one.error)]
    if one.windows is None:
        return [(one.path, "", "", *row, "") for row in _ranked(one.predictions)]
    rows = []
    for window in one.windows:
        times = (round(window.start, _DIGITS), round(window.end, _DIGITS))
        rows += [(one.path, *times, *row, "") for row in _ranked(window.predictions)]
    return rows


def _ranked(predictions: Sequence[ClassScore]) -> list[tuple[int, str, float]]:
    return [(rank, one.name, round(one.score, _DIGITS)) for rank, one in enumerate(predictions, 1)]


def table_text(predictions: Sequence[FilePrediction], *, noun: str) -> str:
    """A table for people: a line for each class of each file."""
    rows = [(noun, "score", "class")]
    for one in predictions:
        if one.error is not None:
            rows.append((one.path, "-", f"could not be read: {one.error}"))
        for place, best in enumerate(one.predictions):
            rows.append(("" if place else one.path, f"{100 * best.score:.1f} %", best.name))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "".join(f"{path:<{widths[0]}}  {score:>{widths[1]}}  {name}\n" for path, score, name in rows)
