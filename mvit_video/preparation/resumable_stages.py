"""The long stages, reading and re-encoding: only what the journal does not hold is done, and is put there at once."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mvit_video.preparation.content import Content
from mvit_video.preparation.inventory import InventoryItem
from mvit_video.preparation.isolated_workers import Failure, Outcome, run_isolated
from mvit_video.preparation.journal import FileState, Journal, Record, Status, Verify
from mvit_video.preparation.progress import track_files
from mvit_video.preparation.reencode import EncodeTask, Encoding, encode_file
from mvit_video.preparation.scan import ScanTask
from mvit_video.video.reader import MAX_PIXELS

logger = logging.getLogger(__name__)
Task = TypeVar("Task", ScanTask, EncodeTask)
_ENCODING = ("mvit_video.preparation.reencode",)
_STATUSES: Mapping[Failure, Status] = {"error": "broken", "killed": "killed", "timeout": "timeout"}


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How work is spread.

    Attributes:
        workers: processes.
        time_limit_s: seconds a file may take; 0 for no limit.
        retry_broken: whether files found broken before are tried again.
    """

    workers: int
    time_limit_s: float
    retry_broken: bool = False


class ScanStage:
    """Reads the files of a data set and notes the status of each.

    Args:
        items: the files.
        journal: of this and earlier runs.
        verify: how far files are read.
        content: what they are.
    """

    def __init__(
        self,
        items: Sequence[InventoryItem],
        journal: Journal,
        *,
        verify: Verify,
        options: WorkerOptions,
        content: Content,
    ) -> None:
        self.records: dict[int, Record] = {}  # by item
        self.todo: list[int] = []
        self._items = items
        self._journal = journal
        self._options = options
        self._verify: Verify = verify
        self._content = content
        for place, item in enumerate(items):
            record = _absent(item, verify) if item.state is None else journal.find(item.state)
            if record is not None and _stands_for(record, item, verify) and not _again(record, options):
                self.records[place] = record
            elif item.state is not None:
                self.todo.append(place)
            else:
                self.records[place] = _absent(item, verify)

    def work(self, places: Sequence[int], *, title: str = "reading") -> float:
        """Read the files at `places` of the items; the workers' seconds spent on them, added up."""
        items = {place: self._items[place] for place in places}
        most = self._content.max_pixels
        tasks = {p: ScanTask(item.location, _state(item), self._verify, most) for p, item in items.items()}
        done, seconds = set(places), 0.0

        def keep(place: int, outcome: Outcome[ScanTask, Record]) -> None:
            nonlocal seconds
            seconds += outcome.seconds
            record = outcome.result or _failed(outcome.task.state, self._verify, outcome)
            self._journal.add(record)
            self.records[place] = record

        sizes = [self._items[p].size for p in places]
        scan, preload = self._content.scan, self._content.preload
        _work(scan, tasks, keep, options=self._options, title=title, sizes=sizes, preload=preload)
        self.todo = [place for place in self.todo if place not in done]
        return seconds


class ReencodeStage:
    """Writes the sound files of a data set again.

    Args:
        items: the files.
        targets: the file to write for each.
        journal: of this stage, of this and earlier runs.
        keep: statuses of the files that are written again.
        folder: where the targets lie.
    """

    def __init__(
        self,
        items: Sequence[InventoryItem],
        targets: Sequence[str],
        journal: Journal,
        *,
        encoding: Encoding,
        options: WorkerOptions,
        keep: frozenset[Status],
        folder: str,
    ) -> None:
        self.records: dict[int, Record] = {}  # by item
        self.folder = folder
        self._keep = keep
        self._items = items
        self._targets = targets
        self._journal = journal
        self._encoding = encoding
        self._options = options

    def wants(self, source: Record) -> bool:
        """Whether a file that was read is to be written again."""
        return source.status in self._keep

    def todo(self, sources: Mapping[int, Record]) -> list[int]:
        """Places of the sound files that are not written yet; takes those that are from the journal."""
        left = []
        for place, source in sources.items():
            if place in self.records or not self.wants(source):
                continue
            record = self._journal.find(source.state)
            if record is not None and self._stands(record, place):
                self.records[place] = record
            else:
                left.append(place)
        return left

    def work(self, places: Sequence[int], sources: Mapping[int, Record], *, title: str = "re-encoding") -> float:
        """Write the files at `places` again; the workers' seconds spent on them, added up."""
        tasks = {
            place: EncodeTask(
                self._items[place].location, sources[place], self._targets[place], self._encoding, MAX_PIXELS
            )
            for place in places
        }
        seconds = 0.0

        def keep(place: int, outcome: Outcome[EncodeTask, Record]) -> None:
            nonlocal seconds
            seconds += outcome.seconds
            record = outcome.result
            if record is None:
                failed = _failed(outcome.task.record.state, "index", outcome)
                record = replace(failed, reason=f"re-encoding: {failed.reason}", recipe=self._encoding.recipe)
            self._journal.add(record)
            self.records[place] = record

        sizes = [self._items[p].size for p in places]
        _work(encode_file, tasks, keep, options=self._options, title=title, sizes=sizes, preload=_ENCODING)
        return seconds

    def _stands(self, record: Record, place: int) -> bool:
        """Whether a record from the journal still holds: same settings, same place, the file unchanged."""
        if record.recipe != self._encoding.recipe or _again(record, self._options):
            return False
        if record.written is None:
            return True
        if record.written.name != os.path.abspath(self._targets[place]):
            return False
        try:
            file_stat = os.stat(record.written.name)
        except FileNotFoundError:
            return False
        return (file_stat.st_size, file_stat.st_mtime_ns) == (record.written.size, record.written.mtime_ns)


def _work(
    function: Callable[[Task], Record],
    tasks: Mapping[int, Task],
    keep: Callable[[int, Outcome[Task, Record]], None],
    *,
    options: WorkerOptions,
    title: str,
    sizes: Iterable[int],
    preload: tuple[str, ...],
) -> None:
    """Do the tasks in worker processes and keep each outcome as it comes."""
    places = {id(task): place for place, task in tasks.items()}
    size_of = dict(zip(tasks, sizes))
    if not tasks:
        return
    outcomes = run_isolated(
        function,
        tasks.values(),
        workers=min(options.workers, len(tasks)),
        time_limit_s=options.time_limit_s,
        preload=preload,
    )
    with track_files(title, len(tasks)) as progress:
        for outcome in outcomes:
            place = places[id(outcome.task)]
            keep(place, outcome)
            if outcome.failure:
                logger.warning("%s: %s", outcome.task, outcome.reason)
            progress.advance(size_of[place])


def _stands_for(record: Record, item: InventoryItem, verify: Verify) -> bool:
    """Whether a record of the same bytes says all that reading them would: folders have no frame rate of their own."""
    same_rate = not item.is_folder or not record.frames or record.fps == item.location.frame_rate
    return same_rate and record.covers(verify)


def _again(record: Record, options: WorkerOptions) -> bool:
    return options.retry_broken and record.status not in ("ok", "partial")


def _state(item: InventoryItem) -> FileState:
    assert item.state is not None, "only files that were found are read"
    return item.state


def _absent(item: InventoryItem, verify: Verify) -> Record:
    """The record of a file that is not there."""
    state = FileState(name=item.location.name, size=0, mtime_ns=0)
    return Record(state=state, verify=verify, status="missing", reason=item.problem)


def _failed(state: FileState, verify: Verify, outcome: Outcome[Task, Record]) -> Record:
    """The record of a file whose worker did not come to a result."""
    assert outcome.failure
    return Record(
        state=state,
        verify=verify,
        status=_STATUSES[outcome.failure],
        reason=outcome.reason,
        seconds=round(outcome.seconds, 4),
    )
