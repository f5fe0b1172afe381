"""Work on many files in worker processes, where no file can stop the run.

A process pool of the standard library ends with the first worker that is killed, and waits for ever on one that hangs.
Here each worker has its own pipe and one task at a time: a worker that dies or takes too long costs its task alone.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Generic, Literal, TypeVar

logger = logging.getLogger(__name__)
Task = TypeVar("Task")
Result = TypeVar("Result")
Failure = Literal["", "error", "killed", "timeout"]

_ATTEMPTS = 2  # a worker may have been killed for what another process did to the machine's memory
_START_LIMIT_S = 300.0  # to import this package, on a slow shared file system
_END_LIMIT_S = 2.0


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of a task.

    Attributes:
        task: the task.
        result: what the function returned; None if it failed.
        failure: "" for a result, "error" for an exception, "killed" for a process that died at it (twice),
            "timeout" for one that took too long.
        reason: what happened, for people; empty for a result.
        seconds: wall-clock time of the last attempt.
    """

    task: Task
    result: Result | None
    failure: Failure
    reason: str
    seconds: float


@dataclass(eq=False)
class _Worker(Generic[Task]):
    """A process, the parent's end of its pipe, and what it is doing."""

    process: ForkServerProcess
    pipe: Connection
    ready: bool = False
    task: Task | None = None
    attempts: int = 0
    since: float = field(default_factory=time.monotonic)


def run_isolated(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int,
    time_limit_s: float,
    preload: Sequence[str] = (),
) -> Iterator[Outcome[Task, Result]]:
    """Apply `function` to every task in worker processes; outcomes in the order in which they come.

    Tasks are drawn one by one as workers become free. A task whose worker dies is tried once more; one that is over its
    time is not. Closing the iterator ends the workers.

    Args:
        function: importable by name; its argument and result are pickled.
        workers: number of processes.
        time_limit_s: wall-clock seconds per task; 0 for none.
        preload: modules imported once, before the workers are forked, so that a new worker starts at once.

    Raises:
        ValueError: workers below 1, or a negative time limit.
        RuntimeError: the processes cannot be started.
    """
    if workers < 1:
        raise ValueError(f"workers={workers}: at least one process must work")
    if time_limit_s < 0:
        raise ValueError(f"time_limit_s={time_limit_s}: must not be negative; 0 stands for no limit")
    crew = _Crew(function, iter(tasks), time_limit_s=time_limit_s, preload=preload)
    try:
        yield from crew.work(workers)
    finally:
        crew.end()


class _Crew(Generic[Task, Result]):
    """The workers of one run and the tasks that wait for them."""

    def __init__(
        self,
        function: Callable[[Task], Result],
        tasks: Iterator[Task],
        *,
        time_limit_s: float,
        preload: Sequence[str],
    ) -> None:
        self._function = function
        self._tasks = tasks
        self._again: deque[tuple[Task, int]] = deque()
        self._limit = time_limit_s
        self._workers: list[_Worker[Task]] = []
        self._dead_starts = 0
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def work(self, workers: int) -> Iterator[Outcome[Task, Result]]:
        """Outcomes until no task is left."""
        for _ in range(workers):
            if not self._hire():
                break
        while self._workers:
            pipes = [worker.pipe for worker in self._workers]
            ends = [worker.process.sentinel for worker in self._workers]
            wait([*pipes, *ends], timeout=self._next_deadline())
            for worker in list(self._workers):
                yield from self._attend(worker)

    def end(self) -> None:
        """End every worker."""
        for worker in self._workers:
            self._dismiss(worker)
        self._workers.clear()

    def _next_task(self) -> tuple[Task, int] | None:
        if self._again:
            return self._again.popleft()
        for task in self._tasks:
            return task, 0
        return None

    def _hire(self) -> bool:
        """Start a worker on the next task; False if there is none."""
        taken = self._next_task()
        if taken is None:
            return False
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(self._function, theirs), daemon=True)
        process.start()
        theirs.close()  # so that the pipe ends with the worker
        worker: _Worker[Task] = _Worker(process, ours)
        worker.task, worker.attempts = taken
        self._workers.append(worker)
        return True

    def _next_deadline(self) -> float | None:
        """Seconds until a worker is over its time; None if no limit runs."""
        ends = [
            w.since + (self._limit if w.ready else _START_LIMIT_S) for w in self._workers if self._limit or not w.ready
        ]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _attend(self, worker: _Worker[Task]) -> Iterator[Outcome[Task, Result]]:
        """Take what a worker has to say, or notice that it never will."""
        message = _received(worker)
        if message is None:
            if worker.process.sentinel in wait([worker.process.sentinel], timeout=0):
                message = _received(worker)  # its last word may have come between the two looks
                if message is None:
                    yield from self._bury(worker)
                    return
            elif self._is_late(worker):
                yield from self._time_out(worker)
                return
            else:
                return
        if not worker.ready:
            worker.ready = True
            self._give(worker)
            return
        kind, content, seconds = message
        assert worker.task is not None
        if kind == "result":
            yield Outcome(worker.task, content, "", "", seconds)
        else:
            yield Outcome(worker.task, None, "error", str(content), seconds)
        taken = self._next_task()
        if taken is None:
            self._workers.remove(worker)
            self._dismiss(worker)
        else:
            worker.task, worker.attempts = taken
            self._give(worker)

    def _give(self, worker: _Worker[Task]) -> None:
        """Send a worker its task."""
        worker.since = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: the next look at it tells
            worker.pipe.send(worker.task)

    def _is_late(self, worker: _Worker[Task]) -> bool:
        seconds = time.monotonic() - worker.since
        return seconds > _START_LIMIT_S if not worker.ready else bool(self._limit) and seconds > self._limit

    def _time_out(self, worker: _Worker[Task]) -> Iterator[Outcome[Task, Result]]:
        if not worker.ready:
            raise RuntimeError(
                f"a worker process did not start within {_START_LIMIT_S:.0f} s: is the machine overloaded?"
            )
        assert worker.task is not None
        self._workers.remove(worker)
        self._dismiss(worker)
        seconds = time.monotonic() - worker.since
        yield Outcome(worker.task, None, "timeout", f"took more than {self._limit:g} s and was stopped", seconds)
        self._hire()

    def _bury(self, worker: _Worker[Task]) -> Iterator[Outcome[Task, Result]]:
        """A worker has died: its task is tried once more."""
        self._workers.remove(worker)
        worker.process.join(_END_LIMIT_S)
        worker.pipe.close()
        how = _how_it_ended(worker.process.exitcode)
        assert worker.task is not None
        if not worker.ready:
            self._dead_starts += 1
            if self._dead_starts > 3:
                raise RuntimeError(f"worker processes {how} while they start: is the machine out of memory?")
            self._again.append((worker.task, worker.attempts))
        elif worker.attempts + 1 < _ATTEMPTS:
            logger.warning("a worker process %s at %s; the file is tried once more", how, worker.task)
            self._again.append((worker.task, worker.attempts + 1))
        else:
            seconds = time.monotonic() - worker.since
            yield Outcome(worker.task, None, "killed", f"the process that read it {how}, {_ATTEMPTS} times", seconds)
        self._hire()

    def _dismiss(self, worker: _Worker[Task]) -> None:
        """End a worker, whatever it is doing."""
        worker.process.kill()
        worker.process.join(_END_LIMIT_S)
        if worker.process.is_alive():
            logger.warning("process %d does not end: its file system does not answer", worker.process.pid)
        worker.pipe.close()


def _received(worker: _Worker[Task]) -> "tuple[str, Any, float] | None":
    """The next message of a worker, None if there is none or the worker is dead."""
    try:
        return worker.pipe.recv() if worker.pipe.poll() else None
    except (EOFError, OSError):  # OSError: it died in the middle of a message
        return None


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"ended with status {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was ended by signal {-exit_code}"


def _serve(function: Callable[[Task], Result], pipe: Connection) -> None:
    """What a worker does: a task in, a message out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt ends
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # out of memory, Linux ends a worker rather than the run
    pipe.send(("ready", "", 0.0))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        start = time.monotonic()
        try:
            message: tuple[str, object] = ("result", function(task))
        except Exception as error:
            # Whatever a file makes a library raise, it is that file's outcome and not the end of the run.
            message = ("error", f"{type(error).__name__}: {error}")
        pipe.send((*message, time.monotonic() - start))


def _exit_with_parent() -> None:
    """End with the process that started this one, even where that was killed and this one is busy."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"
    parent.join()
    os._exit(1)
