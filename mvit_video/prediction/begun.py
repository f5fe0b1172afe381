"""Long videos that were begun: the windows that are done, so that an interrupted prediction goes on in the middle."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvit_video.prediction.lines import append_line, file_state, json_lines
from mvit_video.prediction.results import Window


@dataclass(frozen=True)
class BegunVideo:
    """The first windows of a video.

    Attributes:
        windows: as they were written down, in order.
        steps: after how many windows each line ended, and the sum of their probabilities, float64 (classes,).
    """

    windows: tuple[Window, ...]
    steps: tuple[tuple[int, npt.NDArray[np.float64]], ...]

    def up_to(self, most: int, *, group: int) -> tuple[tuple[Window, ...], npt.NDArray[np.float64]] | None:
        """As many windows as possible, in whole groups, with the sum of their probabilities; None for none.

        Args:
            most: windows to take.
            group: windows that are looked at together.
        """
        for count, total in reversed(self.steps):
            if count <= most and count % group == 0:
                return self.windows[:count], total
        return None


class BegunVideos:
    """The file in which a rank notes the windows that it has looked at.

    Args:
        path: of the file; several of its kind may lie beside it.
        pattern: of their names.
    """

    def __init__(self, path: Path, pattern: str) -> None:
        self.path = path
        self.pattern = pattern

    def add(self, path: str, first: int, windows: Sequence[Window], total: npt.NDArray[np.float64]) -> None:
        """Note the next windows of a video.

        Args:
            path: of the video.
            first: the number of the first of them.
            windows: with their classes.
            total: the sum of the probabilities of all windows so far, float64 (classes,).
        """
        held = [window.to_json() for window in windows]
        line = {"path": path, "state": file_state(path), "first": first, "windows": held, "total": total.tolist()}
        append_line(self.path, line)

    def of(self, files: Sequence[str]) -> dict[str, BegunVideo]:
        """Those of the files that were begun and have not changed since."""
        wanted = set(files)
        found: dict[str, tuple[list[Window], list[tuple[int, npt.NDArray[np.float64]]]]] = {}
        for place in sorted(self.path.parent.glob(self.pattern)):
            for _, line in json_lines(place):
                path = line["path"]
                if path not in wanted or line["state"] != file_state(path):
                    continue
                if line["first"] == 0:
                    found[path] = [], []
                windows, steps = found.get(path, ([], []))
                if line["first"] != len(windows):
                    continue  # of an attempt whose beginning another one has written anew
                windows += map(Window.from_json, line["windows"])
                steps.append((len(windows), np.array(line["total"])))
        return {path: BegunVideo(tuple(windows), tuple(steps)) for path, (windows, steps) in found.items()}

    def remove(self) -> None:
        """Nothing is begun any more."""
        for place in self.path.parent.glob(self.pattern):
            place.unlink()


def same_times(windows: Sequence[Window], expected: Sequence[tuple[float, float]]) -> bool:
    """Whether windows that were written down are the first ones of those that a video has."""
    pairs = zip(windows, expected)
    near = (math.isclose(w.start, s, abs_tol=1e-5) and math.isclose(w.end, e, abs_tol=1e-5) for w, (s, e) in pairs)
    return len(windows) <= len(expected) and all(near)
