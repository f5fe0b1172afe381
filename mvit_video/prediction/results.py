"""What was predicted for a file, and how it is written down: as a line of JSON, rows of CSV, a table for people."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_DIGITS = 6  # of scores and seconds in files
_PIXEL_DIGITS = 2  # of boxes


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
class FoundObject(ClassScore):
    """An object in a picture.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the picture as a person sees it.
        mask: its pixels as COCO's run lengths, {"size": [height, width], "counts": text}; None without masks.
    """

    box: tuple[float, float, float, float]
    mask: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file of results."""
        box = [round(value, _PIXEL_DIGITS) for value in self.box]
        return {**super().to_json(), "box": box, **({} if self.mask is None else {"mask": self.mask})}


@dataclass(frozen=True)
class Window:
    """A stretch of a long video, and its classes; or a frame of it that a detector looked at, and its objects.

    Attributes:
        start, end: in seconds from the first frame.
        predictions: the most likely classes, or the objects, best first.
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
            Of a detector the objects of an image, or each class of a video with its best score in any frame.
        windows: of a video that was looked at window by window, or frame by frame; None for one that was not.
        error: why the file could not be read; None where it could.
        features: with `features=True` what enters the model's head, float32: a row for each view of the file, or for
            each window; (V, channels). It stands in no line of results.
    """

    path: str
    predictions: tuple[ClassScore, ...] = ()
    windows: tuple[Window, ...] | None = None
    error: str | None = None
    features: npt.NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

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
    return tuple(_class(one) for one in found)


def _class(one: Mapping[str, Any]) -> ClassScore:
    if "box" not in one:
        return ClassScore(one["class"], one["score"])
    x1, y1, x2, y2 = one["box"]
    return FoundObject(one["class"], one["score"], (x1, y1, x2, y2), one.get("mask"))


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
