"""What is written of a stream while it is looked at: a line for each window, and for each segment of its timeline."""

import json
import time
from pathlib import Path
from typing import IO, Any

from mvit_video.prediction.folder import LINES, RESULTS
from mvit_video.prediction.results import Window
from mvit_video.prediction.timeline import SegmentJoiner, TimelineSegment
from mvit_video.runtime.files import write_text

TIMELINE = "timeline.jsonl"


class LiveResults:
    """Lines that are on the disk as soon as they are known. Nothing is held that grows with the stream.

    Args:
        folder: made if it is not there; without results.
        name: of the stream.
        about: how the results come about, for results.json.
        joiner: joins the windows.
    """

    def __init__(self, folder: Path, name: str, about: dict[str, Any], joiner: SegmentJoiner) -> None:
        self.folder, self.name, self.about = folder, name, about
        self.windows = 0
        self._joiner = joiner
        self._lines: IO[str] | None = None
        self._segments: IO[str] | None = None

    def __enter__(self) -> "LiveResults":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_results({"complete": False})
        self._lines = open(self.folder / LINES, "a", encoding="utf-8", errors="backslashreplace")
        self._segments = open(self.folder / TIMELINE, "a", encoding="utf-8", errors="backslashreplace")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._lines is not None and self._segments is not None
        self._lines.close()
        self._segments.close()

    def add(self, window: Window) -> None:
        """Write a window, with the time of the clock at which it was known."""
        assert self._lines is not None
        known = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._put(self._lines, {"path": self.name, **window.to_json(), "known": known})
        self._add_segments(self._joiner.add(window))
        self.windows += 1

    def finish(self, more: dict[str, Any]) -> None:
        """Write the last segments, and that all is written."""
        self._add_segments(self._joiner.finish())
        self._write_results({"complete": True, "num_windows": self.windows, **more})

    def _add_segments(self, segments: list[TimelineSegment]) -> None:
        assert self._segments is not None
        for segment in segments:
            self._put(self._segments, segment.to_json())

    def _put(self, stream: IO[str], line: dict[str, Any]) -> None:
        stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        stream.flush()

    def _write_results(self, more: dict[str, Any]) -> None:
        text = json.dumps({**more, **self.about}, indent=2, ensure_ascii=False)
        write_text(self.folder / RESULTS, text + "\n")
