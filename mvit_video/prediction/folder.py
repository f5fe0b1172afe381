"""The folder of a prediction's results, which the same command goes on with after it was interrupted.

While it runs, each rank adds a line to a file of its own for every file that it has looked at. At the end they become
predictions.jsonl and predictions.csv. Lines count as done if the file has the same size and time as when it was looked
at; a file that could not be read is tried again.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvit_video.prediction.results import FilePrediction, csv_text
from mvit_video.runtime.files import write_text
from mvit_video.video.location import is_remote

RESULTS, LINES, TABLE = "results.json", "predictions.jsonl", "predictions.csv"
_PARTS = "predictions.part*.jsonl"
_STATE = "state"  # of a line: size and modification time of the file when it was looked at


class ResultsFolder:
    """Results that grow line by line.

    Args:
        folder: made if it is not there.
        rank: of this process.
        about: how the results came about, kept in results.json.
    """

    def __init__(self, folder: Path, *, rank: int, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = dict(about)
        self._part = folder / f"predictions.part{rank}.jsonl"

    def begin(self) -> None:
        """Make the folder and note how its results come about; rank 0 does that, before the others add anything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_results({"complete": False})

    def held(self) -> dict[str, dict[str, Any]]:
        """The lines of this and of earlier runs, by path; the newest of each."""
        lines: dict[str, dict[str, Any]] = {}
        for place in (self.folder / LINES, *sorted(self.folder.glob(_PARTS))):
            for line in _read_lines(place):
                lines[line["path"]] = line
        return lines

    def done(self, files: Sequence[str]) -> set[str]:
        """Those of the files that were read as they are now."""
        held = self.held()
        wanted = (path for path in files if path in held)
        return {path for path in wanted if "error" not in held[path] and held[path].get(_STATE) == _state(path)}

    def add(self, prediction: FilePrediction) -> None:
        """Keep a result; it survives whatever happens to this process afterwards."""
        line = json.dumps({**prediction.to_json(), _STATE: _state(prediction.path)}, ensure_ascii=False)
        # A line that was cut short by the end of a process stays a line of its own.
        text = line if _ends_in_newline(self._part) else "\n" + line
        with open(self._part, "a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text + "\n")

    def finish(self, files: Sequence[str]) -> list[FilePrediction]:
        """Write predictions.jsonl, predictions.csv and results.json of all lines, and remove the ranks' own; rank 0.

        Args:
            files: in the order of their lines; lines of other files, of earlier runs, stand before them.
        """
        held = self.held()
        now = set(files)
        order = [*(path for path in held if path not in now), *(path for path in files if path in held)]
        held = {path: held[path] for path in order}
        found = [FilePrediction.from_json(line) for line in held.values()]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in held.values())
        write_text(self.folder / LINES, text)
        write_text(self.folder / TABLE, csv_text(found))
        failed = sum(one.error is not None for one in found)
        self._write_results({"complete": True, "num_files": len(found), "num_failed": failed})
        for part in self.folder.glob(_PARTS):
            part.unlink()
        return found

    def _write_results(self, more: Mapping[str, Any]) -> None:
        text = json.dumps({**more, **self.about}, indent=2, ensure_ascii=False)
        write_text(self.folder / RESULTS, text + "\n")


def _state(path: str) -> list[int] | None:
    """Size and modification time of a local file; None for one that is not there or not local."""
    if is_remote(path):
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are whole."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as stream:
        for text in stream:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # the last line of a process that was killed; its file is looked at again
            if isinstance(line, dict) and isinstance(line.get("path"), str) and "predictions" in line:
                yield line


def _ends_in_newline(path: Path) -> bool:
    """Whether the next line can be added at once."""
    if not path.is_file() or not path.stat().st_size:
        return True
    with open(path, "rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"
