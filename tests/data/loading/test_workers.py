"""Loader processes: in order, and what happens when one is killed, hangs or raises."""

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvit_video.data.loading import shared_memory, worker_monitor, workers
from mvit_video.data.loading.worker_monitor import WorkerError
from mvit_video.data.loading.workers import Workers, pinned
from mvit_video.video.reader import VideoDecodeError

SECONDS = 8.0  # much less than the time limits that must not be what ends a test


def make(fetch: Callable[[Any], Any], *, number: int = 2, prefetch: int = 2, timeout_s: float = 60.0) -> Workers:
    return Workers(fetch, count=number, prefetch=prefetch, timeout_s=timeout_s)


def square(task: int) -> torch.Tensor:
    return torch.tensor([task * task, os.getpid()])


def pids(subject: Workers) -> list[int]:
    return [process.pid or 0 for process in subject._processes]


def gone(pid: int) -> bool:
    """No such process, or one that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A test that hangs fails instead."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError("the loader hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_results_come_in_order_from_all_workers_which_then_end() -> None:
    subject = make(square, number=3)
    results = list(subject.run(range(20)))
    assert [int(result[0]) for result in results] == [i * i for i in range(20)]
    assert {int(result[1]) for result in results} == set(pids(subject))
    assert all(gone(pid) for pid in pids(subject))


def test_workers_of_an_abandoned_loader_end() -> None:
    subject = make(square)
    running = pids(subject)
    batches = subject.run(count())
    assert int(next(batches)[0]) == 0
    del batches, subject
    assert within(SECONDS, lambda: all(gone(pid) for pid in running))


def test_workers_that_were_never_asked_end_too() -> None:
    subject = make(square)
    running = pids(subject)
    batches = subject.run(count())  # an iterator that was not begun
    del batches, subject
    assert within(SECONDS, lambda: all(gone(pid) for pid in running))


def hold(task: tuple[int, str]) -> int:
    """Reads "for ever" at task 3."""
    number, name = task
    with worker_monitor.reading(name):
        if number == 3:
            time.sleep(1000)
    return number


def named(numbers: Iterator[int] | range) -> Iterator[tuple[int, str]]:
    return ((number, f"/videos/{number}.mp4") for number in numbers)


def test_a_killed_worker_ends_the_run_with_its_file() -> None:
    subject = make(hold)
    batches = subject.run(named(count()))
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    reading = lambda: (note := subject._notes.last(1)) is not None and note.active  # noqa: E731
    assert within(SECONDS, reading)
    victim = pids(subject)[1]
    threading.Timer(0.3, os.kill, (victim, signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(
        WorkerError, match=rf"worker 1 of 2 \(process {victim}\) was killed by SIGKILL, reading /videos/3\.mp4 for"
    ):
        next(batches)
    assert time.monotonic() - started < SECONDS
    assert all(gone(pid) for pid in pids(subject))


def test_a_worker_killed_while_nobody_waits_is_noticed_at_the_next_batch() -> None:
    subject = make(square, number=2, prefetch=1)
    batches = subject.run(count())
    next(batches)
    os.kill(pids(subject)[0], signal.SIGKILL)
    assert within(SECONDS, lambda: gone(pids(subject)[0]))
    with pytest.raises(WorkerError, match=r"worker 0 of 2 .* was killed by SIGKILL, before it opened a file"):
        list(islice(batches, 4))
    assert all(gone(pid) for pid in pids(subject))


def crash(task: int) -> int:
    faulthandler.disable()  # pytest's would print a page
    with worker_monitor.reading("bad.mp4"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return task


def test_a_crash_of_the_decoder_names_the_file() -> None:
    with pytest.raises(WorkerError, match=r"killed by SIGSEGV, reading bad\.mp4.* crash in a library"):
        next(make(crash).run(range(2)))


def test_a_file_system_that_hangs_ends_the_run_with_its_files(tmp_path: Path) -> None:
    """Opening a pipe that nobody writes to blocks in the kernel, as a lost network share does."""
    os.mkfifo(tmp_path / "0.mp4")
    subject = make(open_and_read, number=2, timeout_s=1.0)
    with pytest.raises(WorkerError, match=r"no batch for 1 s .*\n  worker 0: reading .*/0\.mp4 for \d s$"):
        next(subject.run(str(tmp_path / f"{number}.mp4") for number in range(1)))
    assert all(gone(pid) for pid in pids(subject))


def open_and_read(path: str) -> bytes:
    with worker_monitor.reading(path), open(path, "rb") as file:
        return file.read()


def test_a_stopped_worker_is_not_waited_for() -> None:
    subject = make(square, number=1, prefetch=1, timeout_s=0.5)
    os.kill(pids(subject)[0], signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"no batch for 0\.5 s .* No worker is reading a file"):
        next(subject.run(count()))
    assert all(gone(pid) for pid in pids(subject))


def large(task: int) -> np.ndarray:
    return shared_memory.empty((3, 1000)).fill_(task).numpy()


def test_shared_results_need_no_answer_from_a_stopped_worker() -> None:
    """They are complete in the pipe: the memory's descriptor comes with them."""
    subject = make(large, number=1, prefetch=2, timeout_s=1.0)
    batches = subject.run(count())
    first = next(batches)
    assert within(SECONDS, lambda: subject._pipes[0].poll())
    time.sleep(0.2)
    os.kill(pids(subject)[0], signal.SIGSTOP)
    second = next(batches)
    assert [(array.shape, set(array.ravel().tolist())) for array in (first, second)] == [
        ((3, 1000), {0}),
        ((3, 1000), {1}),
    ]
    with pytest.raises(WorkerError, match="no batch for 1 s"):
        list(islice(batches, 4))
    first += 1  # the memory is the receiver's
    assert (first == 1).all()


def test_shared_memory_and_its_files_go_with_the_tensors() -> None:
    def mapped() -> int:
        return sum("mvit_video.batch" in line for line in Path("/proc/self/maps").read_text().splitlines())

    subject = make(large, number=2, prefetch=8)
    batches = subject.run(range(40))
    held = [next(batches)]
    before = len(os.listdir("/proc/self/fd"))
    held += list(islice(batches, 30))
    assert len(os.listdir("/proc/self/fd")) <= before + 30
    assert [int(array[2, 999]) for array in held] == list(range(31))
    assert mapped() == 31
    del held
    assert mapped() == 1  # the newest, which the iterator still holds
    assert len(os.listdir("/proc/self/fd")) <= before
    batches.close()
    assert mapped() == 0


def test_without_shared_memory_results_are_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert [int(array.sum()) for array in make(large).run(range(3))] == [0, 3000, 6000]


def test_no_limit_waits() -> None:
    def slow(task: int) -> int:
        time.sleep(0.3)
        return task

    assert list(make(slow, number=1, timeout_s=0).run(range(2))) == [0, 1]


class Odd(Exception):
    """Cannot be unpickled: its constructor takes more than it passes on."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail(task: int) -> int:
    if task == 1:
        raise VideoDecodeError("a.mp4", "no video stream")
    if task == 2:
        raise Odd(1, 2)
    return task


def test_exceptions_keep_their_type_and_bring_the_workers_traceback() -> None:
    with pytest.raises(VideoDecodeError, match=r"a\.mp4: no video stream") as caught:
        list(make(fail).run(range(2)))
    assert "in fail" in caught.value.__notes__[0]
    assert caught.value.__notes__[0].startswith("in loader worker 1:")
    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        list(make(fail).run([0, 2]))


def state(task: int) -> tuple[int, list[bool]]:
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    return torch.get_num_threads(), [signal.getsignal(kind) is signal.SIG_IGN for kind in kinds]


def test_a_worker_has_one_thread_and_no_ear_for_the_signals_of_the_run() -> None:
    assert next(make(state, number=1).run(range(1))) == (1, [True] * 4)


def test_pinning_thread_passes_batches_errors_and_the_end_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    subject = make(square)
    results = list(pinned(subject.run(range(7)), subject.close))
    assert [int(result[0]) for result in results] == [i * i for i in range(7)]
    subject = make(fail)
    batches = pinned(subject.run(range(2)), subject.close)
    assert next(batches) == 0
    with pytest.raises(VideoDecodeError):
        next(batches)
    assert all(gone(pid) for pid in pids(subject))
    subject = make(square)
    batches = pinned(subject.run(count()), subject.close)
    next(batches)
    batches.close()
    assert all(gone(pid) for pid in pids(subject))
    assert not [thread for thread in threading.enumerate() if thread.name == "pin-memory"]


def slow_after_first(task: int) -> int:
    if task:
        time.sleep(1000)
    return task


def own_workers(told: Any, end: str) -> None:
    """A process of its own that uses a loader and then ends in some way."""
    os.setpgrp()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the rest of this process
    subject = make(slow_after_first, timeout_s=0)
    batches = subject.run(range(9))
    next(batches)
    told.send(pids(subject))
    if end == "exception":
        raise ValueError
    if end == "exit":
        sys.exit(3)
    time.sleep(1000)


@pytest.mark.parametrize(("end", "code"), [("killed", -signal.SIGKILL), ("exit", 3), ("exception", 1)])
def test_no_worker_outlives_its_process(end: str, code: int) -> None:
    context = multiprocessing.get_context("fork")
    hears, told = context.Pipe()
    process = context.Process(target=own_workers, args=(told, end))
    process.start()
    children = hears.recv()
    assert len(children) == 2
    if end == "killed":
        assert not any(gone(pid) for pid in children)
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join(20)
    assert process.exitcode == code
    assert within(SECONDS, lambda: all(gone(pid) for pid in children))


def own_late_workers(told: Any) -> None:
    """A process of its own whose workers take a second to begin, with tasks waiting for them."""
    os.setpgrp()
    workers.keep_freed_memory = lambda: time.sleep(1)  # called before a worker looks after its parent
    subject = make(slow_after_first, timeout_s=0)
    for worker in range(2):
        subject._send(worker, 1)
    told.send(pids(subject))
    time.sleep(1000)


def test_no_worker_begins_without_its_process() -> None:
    context = multiprocessing.get_context("fork")
    hears, told = context.Pipe()
    process = context.Process(target=own_late_workers, args=(told,))
    process.start()
    children = hears.recv()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(20)
    assert within(SECONDS, lambda: all(gone(pid) for pid in children))


def test_kept_memory_is_asked_for_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def missing(name: object) -> object:
        asked.append(name)
        raise OSError("no such library")

    monkeypatch.setattr(workers.ctypes, "CDLL", missing)
    workers.keep_freed_memory()
    workers._die_with_parent()
    assert asked == [None, None]
