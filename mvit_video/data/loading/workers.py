"""Processes that make batches, in order, and whose end or silence is noticed.

Like torch's DataLoader, but for what matters to a run of days: each worker has a pipe of its own, so that one killed in
the middle of a message harms no other's; a death is an error where the next batch is asked for, at once and with the
file's name, rather than one raised from a signal handler anywhere in the training step; silence has a limit; and no
worker outlives the process it works for. Tensors come through shared_memory.py, for which the receiver needs no answer
from the worker: one that is stopped cannot hold it up.
"""

import ctypes
import gc
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from mvit_video.data.loading import shared_memory, worker_monitor
from mvit_video.data.loading.worker_monitor import FileNotes, WorkerError

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")
_ORPHAN_CHECK_S = 2.0
_KILL_WAIT_S = 5.0
# A worker ends when its loader says so or is gone, not with signals that a terminal or a cluster sends to everybody.
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
_PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Workers(Generic[Task, Result]):
    """Worker processes over one function. They start at once and end with `close`, or with this object.

    Args:
        fetch: makes the result of a task; runs in the workers.
        count: processes.
        prefetch: results each worker works ahead.
        timeout_s: longest wait for a result; 0 for no limit.
    """

    def __init__(self, fetch: Callable[[Task], Result], *, count: int, prefetch: int, timeout_s: float) -> None:
        self.prefetch = prefetch
        self.timeout_s = timeout_s
        self._notes = FileNotes(count)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # Forking is what torch's loader does, too: workers share what was read before, an index of many videos say.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        # Runs before multiprocessing joins its children at exit, which would wait for workers for ever.
        self._close = multiprocessing.util.Finalize(self, _kill, args=(self._processes,), exitpriority=100)
        in_main_thread = threading.current_thread() is threading.main_thread()
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(number, fetch, theirs, [*self._pipes, ours], self._notes, os.getpid(), in_main_thread),
                daemon=True,
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """The results of the tasks, in their order; the workers end with the iterator.

        Raises:
            WorkerError: a worker died, or gave nothing for `timeout_s`.
            Exception: whatever `fetch` raised.
        """
        waiting = iter(tasks)
        turns: deque[int] = deque()  # whose result comes next

        def hand_out(worker: int) -> None:
            for task in waiting:
                self._send(worker, task)
                turns.append(worker)
                return

        try:
            for _ in range(self.prefetch):
                for worker in range(len(self._pipes)):
                    hand_out(worker)
            while turns:
                worker = turns.popleft()
                result = self._receive(worker)
                hand_out(worker)
                yield result
        finally:
            self.close()

    def close(self) -> None:
        """End the workers at once; they hold nothing that is worth keeping."""
        self._close()

    def _send(self, worker: int, task: Task) -> None:
        try:
            self._pipes[worker].send(task)
        except OSError as error:
            raise self._death(worker) from error

    def _receive(self, worker: int) -> Any:
        """The next result of a worker."""
        self._await(worker)
        try:
            result = shared_memory.receive(self._pipes[worker], lambda: self._await(worker))
        except (EOFError, OSError) as error:
            raise self._death(worker) from error
        if isinstance(result, _Failure):
            result.raise_again(worker)
        return result

    def _await(self, worker: int) -> None:
        """Wait until something has come from a worker."""
        pipe = self._pipes[worker]
        ready = wait([pipe, *(process.sentinel for process in self._processes)], self.timeout_s or None)
        if not ready:
            last = [self._notes.last(number) for number in range(len(self._processes))]
            raise WorkerError(worker_monitor.stuck_message(waited_s=self.timeout_s, last=last))
        if pipe not in ready:
            raise self._death(worker)

    def _death(self, suspect: int) -> WorkerError:
        """The error for the worker that has died: `suspect`, unless it lives and another one does not."""
        self._processes[suspect].join(0.2)
        dead = [number for number, process in enumerate(self._processes) if process.exitcode is not None]
        worker = suspect if suspect in dead or not dead else dead[0]
        process = self._processes[worker]
        return WorkerError(
            worker_monitor.death_message(
                worker=worker,
                workers=len(self._processes),
                pid=process.pid or 0,
                exit_code=process.exitcode,
                last=self._notes.last(worker),
            )
        )


def _kill(processes: list[BaseProcess]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join(_KILL_WAIT_S)
        if process.exitcode is None:
            logger.error("loader worker %s does not end: the system holds it in a read that cannot stop", process.pid)


def pinned(batches: Iterator[Result], close: Callable[[], None], *, ahead: int = 1) -> Generator[Result, None, None]:
    """The batches in page-locked memory, `ahead` of them before they are asked for: a thread copies them.

    Args:
        batches: anything with `pin_memory()`.
        close: ends what makes the batches, so that the thread comes free.
        ahead: batches to keep.
    """
    ready: queue.Queue[Any] = queue.Queue(ahead)
    stopped = threading.Event()
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def offer(item: Any) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            for batch in batches:
                offer(batch.pin_memory() if device is not None else batch)  # type: ignore[attr-defined]
                if stopped.is_set():
                    return
            offer(_End(None))
        except BaseException as error:  # the consumer raises it again
            offer(_End(error))

    thread = threading.Thread(target=work, name="pin-memory", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        close()
        thread.join(_KILL_WAIT_S)


class _End:
    """The last item of a queue: how the thread that filled it ended."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Failure:
    """An exception on its way out of a worker."""

    def __init__(self, error: Exception) -> None:
        self.trace = "".join(traceback.format_exception(error)).rstrip()
        self.error: Exception = error
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception class of any library may fail at it in any way
            self.error = RuntimeError(f"{type(error).__name__}: {error}")

    def raise_again(self, worker: int) -> None:
        """Raise it here, with the worker's traceback as a note."""
        self.error.add_note(f"in loader worker {worker}:\n{self.trace}")
        raise self.error


def _work(
    number: int,
    fetch: Callable[[Any], Any],
    pipe: Connection,
    inherited: list[Connection],
    notes: FileNotes,
    parent: int,
    of_main_thread: bool,
) -> None:
    """What a worker process does: tasks in, results out, until the pipe or the parent is gone."""
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    for other in inherited:  # a pipe ends only when no process holds its other end
        other.close()
    torch.set_num_threads(1)  # parallelism comes from the number of workers
    gc.freeze()  # what came with the process stays: no need to walk through it, nor to copy its pages by doing so
    keep_freed_memory()
    shared_memory.enable()
    worker_monitor.register_worker(notes, number)
    if of_main_thread:  # the kernel takes the end of the thread for that of the parent
        _die_with_parent()
    if os.getppid() != parent:  # it was gone before the kernel was asked, and its tasks may hang
        return
    try:
        while True:
            while not pipe.poll(_ORPHAN_CHECK_S):
                if os.getppid() != parent:
                    return
            task = pipe.recv()
            try:
                result = fetch(task)
            except Exception as error:  # whatever it is, the training process raises it
                result = _Failure(error)
            shared_memory.send(pipe, result)
            del result
    except (EOFError, ConnectionError):
        return


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends in any way, also while this one hangs in a read."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError, TypeError):
        return  # another system: it then looks for its parent between tasks


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed clips, instead of getting each anew, page by page, from the system.

    Saves a seventh of the augmentation's time. For glibc; elsewhere nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, 512 << 20)
