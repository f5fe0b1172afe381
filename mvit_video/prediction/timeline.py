"""What happens in a long video from when to when: windows of one class joined, as JSON and as a picture."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mvit_video.prediction.results import FilePrediction, Window
from mvit_video.runtime.files import replacing, write_text

OTHER = "other"  # where no class reaches the threshold
_DIGITS = 3  # of seconds and scores in files
_LONGEST = 200  # bytes of a name that a drawing takes from its file
_MOST_ROWS = 30  # classes that a picture has room for


@dataclass(frozen=True)
class TimelineSegment:
    """A stretch of a video in which one class was seen.

    Attributes:
        start, end: in seconds from the first frame.
        name: of the class; "other" where no class reached the threshold.
        score: the mean over its windows of the class's score; for "other" that of the best class, whatever it was.
    """

    start: float
    end: float
    name: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file of a timeline."""
        start, end, score = (round(value, _DIGITS) for value in (self.start, self.end, self.score))
        return {"start": start, "end": end, "class": self.name, "score": score}


class SegmentJoiner:
    """Joins neighbouring windows of one class, window by window: what is held does not grow with their number.

    Where two windows overlap, the first counts up to the middle of what they share, the second from there on.

    Args:
        threshold: score from which a class counts.
        several: each class by itself, as many at a time as reach the threshold; without it the best one of a window
            counts, and "other" where that does not reach the threshold.
    """

    def __init__(self, *, threshold: float, several: bool) -> None:
        self.threshold = threshold
        self.several = several
        self._open: dict[str, tuple[float, float, int]] = {}  # since when, sum of the scores, windows
        self._before: Window | None = None

    def add(self, window: Window) -> list[TimelineSegment]:
        """The segments that are over with the next window, which starts after the one before."""
        border = window.start if self._before is None else (self._before.end + window.start) / 2
        classes = _classes(window, threshold=self.threshold, several=self.several)
        closed = [self._close(name, border) for name in [name for name in self._open if name not in classes]]
        for name, score in classes.items():
            start, total, count = self._open.get(name, (border, 0.0, 0))
            self._open[name] = start, total + score, count + 1
        self._before = window
        return closed

    def finish(self) -> list[TimelineSegment]:
        """The segments that last to the end of the last window."""
        if self._before is None:
            return []
        return [self._close(name, self._before.end) for name in list(self._open)]

    def _close(self, name: str, end: float) -> TimelineSegment:
        start, total, count = self._open.pop(name)
        return TimelineSegment(start, end, name, total / count)


def timeline_segments(windows: Sequence[Window], *, threshold: float, several: bool) -> list[TimelineSegment]:
    """Neighbouring windows of one class as one segment, in the order of their starts.

    Args:
        windows: of one video, in the order of their starts.
        threshold, several: see SegmentJoiner.
    """
    joiner = SegmentJoiner(threshold=threshold, several=several)
    found = [segment for window in windows for segment in joiner.add(window)] + joiner.finish()
    return sorted(found, key=lambda segment: (segment.start, segment.end, segment.name))


def _classes(window: Window, *, threshold: float, several: bool) -> dict[str, float]:
    if several:
        return {one.name: one.score for one in window.predictions if one.score >= threshold}
    best = window.predictions[0]
    return {best.name if best.score >= threshold else OTHER: best.score}


def timeline_names(files: Sequence[str], drawn: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """What the files of each video are called: its name without extension, with a number where several have it.

    Whoever knows more of the names that this gives to the same files, as a job that starts later does, gives the rest
    of the files the same names.

    Args:
        files: paths and URLs.
        drawn: names that are given already, by their paths, which may be others: nothing is written over.
    """
    names: dict[str, str] = {}
    taken = set(drawn.values())
    tried: dict[str, int] = {}
    for path in files:
        if path in drawn:
            names[path] = drawn[path]
            continue
        stem = _shortened(Path(path.split("?")[0]).stem or "video")
        name = ""
        while not name or name in taken:
            tried[stem] = tried.get(stem, 0) + 1
            name = stem if tried[stem] == 1 else f"{stem}-{tried[stem]}"
        names[path] = name
        taken.add(name)
    return names


def _shortened(stem: str) -> str:
    """A name that leaves room for a number and an extension: file systems take 255 bytes."""
    name = os.fsencode(stem)
    return stem if len(name) <= _LONGEST else name[:_LONGEST].decode("utf-8", errors="ignore")


def write_timeline(
    folder: Path, name: str, prediction: FilePrediction, *, threshold: float, several: bool
) -> list[TimelineSegment]:
    """Write `name`.json and `name`.png; the segments."""
    assert prediction.windows is not None
    folder.mkdir(parents=True, exist_ok=True)
    segments = timeline_segments(prediction.windows, threshold=threshold, several=several)
    content = {
        "path": prediction.path,
        "threshold": threshold,
        "segments": [segment.to_json() for segment in segments],
        "windows": [window.to_json() for window in prediction.windows],
    }
    write_text(folder / f"{name}.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    _draw(segments, prediction.windows, folder / f"{name}.png", title=Path(prediction.path).name, threshold=threshold)
    return segments


def _draw(
    segments: Sequence[TimelineSegment], windows: Sequence[Window], path: Path, *, title: str, threshold: float
) -> None:
    """A row for each class with its segments, and below the score of each window's best class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = dict.fromkeys(dict.fromkeys(segment.name for segment in segments), 0.0)
    for segment in segments:
        seconds[segment.name] += segment.end - segment.start
    shown = sorted(seconds, key=lambda name: -seconds[name])[:_MOST_ROWS]
    rows = [name for name in seconds if name in shown]
    figure = Figure(figsize=(11, 2.2 + 0.28 * max(len(rows), 1)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    bars, scores = figure.subplots(2, 1, sharex=True, height_ratios=[0.28 * max(len(rows), 1), 1.1])
    for row, name in enumerate(rows):
        for segment in (segment for segment in segments if segment.name == name):
            colour = "0.75" if name == OTHER else f"C{row % 10}"
            bars.barh(row, segment.end - segment.start, left=segment.start, height=0.7, color=colour)
    left_out = len(seconds) - len(rows)
    more = f" ({left_out} classes of less time are left out)" if left_out else ""
    bars.set_title(_plain(f"{title}{more}"), fontsize=10, loc="left")
    bars.set_yticks(range(len(rows)), [_plain(name) for name in rows], fontsize=8)
    bars.invert_yaxis()
    middles = [(window.start + window.end) / 2 for window in windows]
    scores.plot(middles, [window.predictions[0].score for window in windows], marker=".", linewidth=1, color="0.2")
    scores.axhline(threshold, linewidth=0.8, linestyle="--", color="C3")
    scores.set_ylim(0, 1.02)
    scores.set_xlim(windows[0].start, windows[-1].end)
    scores.set_ylabel("best score", fontsize=8)
    scores.set_xlabel("seconds", fontsize=8)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def _plain(text: str) -> str:
    """Text as it is: a dollar sign begins no formula."""
    return text.replace("$", r"\$")
