"""The folder of a prediction's results, which the same command goes on with after it was interrupted.

While it runs, each rank adds a line to a file of its own for every file that it has looked at. At the end they become
predictions.jsonl and predictions.csv. Lines count as done if the file has the same size and time as when it was looked
at; a file that could not be read is tried again.

Where several jobs share the files out, each is a part with files of its own in parts/, which stay there: whichever job
ends last puts them together, and two that do so at a time write the same.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, overload

from mvit_video.prediction.begun import BegunVideos
from mvit_video.prediction.lines import append_line, file_state, json_lines
from mvit_video.prediction.results import FilePrediction
from mvit_video.prediction.tables import ResultTable
from mvit_video.runtime.csv_rows import CsvRows
from mvit_video.runtime.files import replacing, write_text

RESULTS, LINES, TABLE = "results.json", "predictions.jsonl", "predictions.csv"
_PARTS = "predictions.part*.jsonl"  # of ranks
_JOBS = "parts"  # folder of what jobs wrote that share the files out
_BEGUN = "windows.part*.jsonl"  # what ranks noted of videos that they are in the middle of
_STATE = "state"  # of a line: size and modification time of the file when it was looked at
_DRAWN = "drawn"  # of a line: the name of its drawings, without extension


@dataclass(frozen=True)
class Part:
    """One of several jobs that share the files out.

    Attributes:
        number: from 0 on.
        of: how many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number:05d}-of-{self.of:05d}"

    def share(self, files: Sequence[str]) -> Sequence[str]:
        """Its files."""
        return files[self.number :: self.of]


class ResultsFolder:
    """Results that grow line by line.

    Args:
        folder: made if it is not there.
        rank: of this process.
        about: how the results came about, kept in results.json.
        part: which of several jobs this one is; None: the only one.
        table: how results stand in predictions.csv.

    Attributes:
        begun: the windows of videos that are not done.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        about: Mapping[str, Any],
        part: Part | None = None,
        table: ResultTable = ResultTable(),  # noqa: B008 - frozen
    ) -> None:
        self.folder = folder
        self.table = table
        self.about = dict(about)
        self.part = part
        own = f"predictions.part{rank}.jsonl" if part is None else f"{_JOBS}/{part}.rank{rank}.jsonl"
        self._own = folder / own
        begun = f"windows.part{rank}.jsonl" if part is None else f"{_JOBS}/{part}.rank{rank}.windows"
        self.begun = BegunVideos(folder / begun, _BEGUN if part is None else f"{part}.rank*.windows")

    def begin(self) -> None:
        """Make the folder and note how its results come about; rank 0 does that, before the others add anything."""
        self._own.parent.mkdir(parents=True, exist_ok=True)
        if self.part is not None:
            self._ended(self.part).unlink(missing_ok=True)
        self._write_results({"complete": False})

    def done(self, files: Sequence[str]) -> set[str]:
        """Those of the files that were read as they are now."""
        wanted = set(files)
        held: dict[str, bool] = {}
        for place in self._places():
            for _, line in _read_lines(place):
                if line["path"] in wanted:
                    held[line["path"]] = "error" not in line and line.get(_STATE) == file_state(line["path"])
        return {path for path, whole in held.items() if whole}

    def drawn(self) -> dict[str, str]:
        """The names of the drawings that are in the folder, by the paths of their files."""
        lines = (line for place in self._places() for _, line in _read_lines(place))
        return {line["path"]: line[_DRAWN] for line in lines if _DRAWN in line}

    def add(self, prediction: FilePrediction, *, state: list[int] | None, drawn: str | None = None) -> None:
        """Keep a result; it survives whatever happens to this process afterwards.

        Args:
            prediction: the result.
            state: of the file before it was looked at: it may have grown since.
            drawn: the name of its drawings.
        """
        line = prediction.to_json() if drawn is None else {**prediction.to_json(), _DRAWN: drawn}
        append_line(self._own, {**line, _STATE: state})

    def finish(self, files: Sequence[str]) -> "StoredPredictions":
        """Write predictions.jsonl, predictions.csv and results.json of all lines; rank 0. The results of the files.

        Args:
            files: in the order of their lines; lines of other files, of earlier runs, stand before them.
        """
        held = self._index()
        now = set(files)
        order = [*(path for path in held if path not in now), *(path for path in files if path in held)]
        stored, failed = self._merge(held, order)
        missing = len(now) - len(stored.among(files))
        counts = {"num_files": len(order), "num_failed": failed}
        self._write_results({"complete": missing == 0, **counts, **({"num_missing": missing} if missing else {})})
        if self.part is None:
            for part in self.folder.glob(_PARTS):
                part.unlink()
            self.begun.remove()
        return stored.among(files)

    def end_part(self) -> list[int]:
        """Note that this job has looked at all of its files; the numbers of the jobs that have not."""
        assert self.part is not None
        write_text(self._ended(self.part), "")
        self.begun.remove()
        parts = (Part(number, self.part.of) for number in range(self.part.of))
        return [part.number for part in parts if not self._ended(part).exists()]

    def _ended(self, part: Part) -> Path:
        return self.folder / _JOBS / f"{part}.ended"

    def _places(self) -> list[Path]:
        """The files with lines; the newer ones last."""
        jobs = (self.folder / _JOBS).glob("*.jsonl")
        return [self.folder / LINES, *sorted(jobs), *sorted(self.folder.glob(_PARTS))]

    def _index(self) -> dict[str, tuple[Path, int]]:
        """Where the newest line of each path is."""
        held: dict[str, tuple[Path, int]] = {}
        for place in self._places():
            for offset, line in _read_lines(place):
                held[line["path"]] = (place, offset)
        return held

    def _merge(self, held: Mapping[str, tuple[Path, int]], order: Sequence[str]) -> tuple["StoredPredictions", int]:
        """Write lines and table, one line at a time; how many of them are errors."""
        places: dict[str, int] = {}
        failed = 0
        streams: dict[Path, IO[bytes]] = {}
        with (
            ExitStack() as opened,
            replacing(self.folder / TABLE, per_process=True) as table_beside,
            replacing(self.folder / LINES, per_process=True) as lines_beside,
            open(table_beside, "w", encoding="utf-8", errors="backslashreplace", newline="") as table,
            open(lines_beside, "wb") as lines,
        ):
            rows = CsvRows(table)
            rows.writerow(self.table.header)
            for path in order:
                place, offset = held[path]
                if place not in streams:
                    streams[place] = opened.enter_context(open(place, "rb"))
                streams[place].seek(offset)
                text = streams[place].readline().strip()
                one = FilePrediction.from_json(json.loads(text))
                rows.writerows(self.table.rows(one))
                failed += one.error is not None
                places[path] = lines.tell()
                lines.write(text + b"\n")
        return StoredPredictions(self.folder / LINES, places, order), failed

    def _write_results(self, more: Mapping[str, Any]) -> None:
        text = json.dumps({**more, **self.about}, indent=2, ensure_ascii=False)
        write_text(self.folder / RESULTS, text + "\n")


class StoredPredictions(Sequence[FilePrediction]):
    """Results in a file of lines, each read when it is asked for: a million of them take the memory of their paths.

    Args:
        lines: the file.
        places: where the line of each path begins.
        order: the paths.
    """

    def __init__(self, lines: Path, places: Mapping[str, int], order: Sequence[str]) -> None:
        self._lines, self._places, self._order = lines, places, order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> FilePrediction: ...
    @overload
    def __getitem__(self, place: slice) -> "StoredPredictions": ...
    def __getitem__(self, place: int | slice) -> "FilePrediction | StoredPredictions":
        """A result, read from the file; or some of them."""
        if isinstance(place, slice):
            return StoredPredictions(self._lines, self._places, self._order[place])
        with open(self._lines, "rb") as stream:
            stream.seek(self._places[self._order[place]])
            return FilePrediction.from_json(json.loads(stream.readline()))

    def among(self, files: Sequence[str]) -> "StoredPredictions":
        """Those of the files that have a result, in their order."""
        return StoredPredictions(self._lines, self._places, [path for path in files if path in self._places])


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((offset, line) for offset, line in json_lines(path) if "predictions" in line)
