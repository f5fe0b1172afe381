"""How far a long piece of work is: rich's bar on a terminal, a line of the log every ten seconds elsewhere.

Without a terminal rich prints one line, when all is over; the log of a cluster's job would stay empty for hours.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mvit_video.runtime.formatting import duration_text

logger = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0


class FileProgress:
    """Counts finished files and their bytes.

    Args:
        what: what is being done, such as "reading".
        files: how many there are in all.
        progress: the bar; None for lines of the log.
    """

    def __init__(self, what: str, files: int, progress: Progress | None = None) -> None:
        self._what = what
        self._files = files
        self._done = 0
        self._bytes = 0
        self._start = self._said = 0.0
        self._progress = progress
        self._bar = None if progress is None else progress.add_task(what, total=files, speed="")

    def advance(self, size: int) -> None:
        """One more file, of `size` bytes, is finished."""
        now = time.monotonic()
        if not self._done:  # the time it took the workers to start says nothing about the files
            self._start = self._said = now
        else:
            self._bytes += size
        self._done += 1
        seconds = max(now - self._start, 1e-9)
        if self._progress is not None and self._bar is not None:
            self._progress.update(self._bar, completed=self._done, speed=_speed(self._done, self._bytes, seconds))
        elif now - self._said >= _LINE_EVERY_S:
            self._said = now
            logger.info("%s", progress_line(self._what, self._done, self._files, self._bytes, seconds))


def progress_line(what: str, done: int, files: int, size: int, seconds: float) -> str:
    """Where the work stands, in words; `size` bytes of all but the first file took `seconds`."""
    left = (files - done) * seconds / (done - 1)
    return f"{what}: {done} of {files} files, {_speed(done, size, seconds)}, {duration_text(left)} left"


def _speed(done: int, size: int, seconds: float) -> str:
    return f"{(done - 1) / seconds:.1f} files/s, {size / seconds / 1e6:.1f} MB/s"


@contextmanager
def track_files(what: str, files: int) -> Iterator[FileProgress]:
    """The progress while the work lasts."""
    console = rich.get_console()
    if not console.is_terminal:
        yield FileProgress(what, files)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield FileProgress(what, files, progress)
