"""Which file each loader worker is reading, and what to say of a worker that died or fell silent.

A worker that is killed, or hangs in a read, cannot speak for itself. So it notes each file in shared memory before it
opens it, where the training process finds it afterwards.
"""

import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_HEADER = struct.Struct("<?dH")  # still at it, time.monotonic() of the opening, bytes of the name
_SLOT_BYTES = 1024
_ADVICE = {
    signal.SIGKILL: "Most often that is the system running out of memory ('dmesg | grep -i kill' tells): give the run "
    "more memory, or lower trainer.num_workers, data.prefetch or trainer.batch_size",
    signal.SIGBUS: "Most often that is shared memory running out ('df -h /dev/shm' tells; containers get 64 MB unless "
    "started with --shm-size or --ipc=host): give it more, or lower trainer.num_workers or data.prefetch",
    signal.SIGTERM: "Somebody, or the cluster, ended it",
}
_CRASHED = (
    "That is a crash in a library, most often of the decoder on a damaged file: read that file alone, and take it out "
    "of the list if it crashes again"
)


class WorkerError(RuntimeError):
    """A loader worker died or gave nothing for too long; the message names the files concerned."""


@dataclass(frozen=True)
class FileNote:
    """What a worker noted last.

    Attributes:
        name: the file.
        active: whether the worker was still reading it; else it was done with it.
        seconds: since it opened the file.
    """

    name: str
    active: bool
    seconds: float

    def __str__(self) -> str:
        return f"reading {self.name} for {self.seconds:.0f} s" if self.active else f"after reading {self.name}"


class FileNotes:
    """A slot per worker in shared memory; workers write, the training process reads.

    Args:
        workers: number of slots.
    """

    def __init__(self, workers: int) -> None:
        self._slots = torch.zeros((workers, _SLOT_BYTES), dtype=torch.uint8).share_memory_()

    def note(self, worker: int, name: str) -> None:
        """The worker opens a file. Of a very long name the end is kept."""
        text = name.encode(errors="replace")[-(_SLOT_BYTES - _HEADER.size) :]
        memory = memoryview(self._slots[worker].numpy())
        memory[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(memory, 0, True, time.monotonic(), len(text))

    def done(self, worker: int) -> None:
        """The worker is done with its file."""
        self._slots[worker, 0] = 0

    def last(self, worker: int) -> FileNote | None:
        """What the worker noted last; None if it has opened no file yet."""
        memory = self._slots[worker].numpy().tobytes()
        active, opened, length = _HEADER.unpack_from(memory)
        if not length:
            return None
        name = memory[_HEADER.size : _HEADER.size + length].decode(errors="replace")
        return FileNote(name, active, time.monotonic() - opened)


_own: tuple[FileNotes, int] | None = None  # this process's slot, if it is a loader worker


def register_worker(notes: FileNotes, worker: int) -> None:
    """Make this process worker number `worker`: `reading` notes its files there from now on."""
    global _own
    _own = notes, worker


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around everything that may hang or crash on a file; notes nothing outside of loader workers."""
    if _own is None:
        yield
        return
    notes, worker = _own
    notes.note(worker, name)
    try:
        yield
    finally:
        notes.done(worker)


def death_message(*, worker: int, workers: int, pid: int, exit_code: int | None, last: FileNote | None) -> str:
    """What to say of a worker that ended by itself; `exit_code` as multiprocessing gives it, -N for signal N."""
    where = str(last) if last else "before it opened a file"
    if exit_code is not None and exit_code < 0:
        cause = signal.Signals(-exit_code)
        how, advice = f"was killed by {cause.name}", _ADVICE.get(cause, _CRASHED)
    else:
        how, advice = f"ended with exit code {exit_code}", "Its own message, if it left one, is above"
    return (
        f"loader worker {worker} of {workers} (process {pid}) {how}, {where}. {advice}. "
        "The same command goes on from the last checkpoint"
    )


def stuck_message(*, waited_s: float, last: list[FileNote | None]) -> str:
    """What to say when the worker whose turn it is gave no batch for `waited_s`; `last` is of every worker."""
    held = [f"  worker {number}: {note}" for number, note in enumerate(last) if note is not None and note.active]
    files = "\n".join(["Being read now:", *held]) if held else "No worker is reading a file"
    return (
        f"no batch for {waited_s:g} s (data.worker_timeout_s): a file system that hangs, a video that takes for ever, "
        "or batches too large for the workers. Try the files; where batches do take that long, raise "
        f"data.worker_timeout_s (0: no limit). {files}"
    )
