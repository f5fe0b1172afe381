"""One training of a run at a time, whatever the number of its ranks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mvit_video.distributed.process_group import World, from_main
from mvit_video.runtime.run_lock import RunLock, RunLockedError


@contextmanager
def exclusive_run(run_dir: Path, world: World) -> Iterator[None]:
    """Hold the lock of a run directory: rank 0 takes it, and the others wait for its answer.

    Raises (on every rank alike):
        RunLockedError: another attempt is training the run.
        OSError: rank 0 cannot write into the run directory.
    """
    lock = RunLock(run_dir)
    error: RunLockedError | OSError | None = None
    if world.is_main:
        try:
            lock.acquire()
        except (RunLockedError, OSError) as refused:
            error = refused
    answer = from_main(None if error is None else (isinstance(error, RunLockedError), str(error)), world)
    if answer is not None:
        locked, text = answer
        raise error or (RunLockedError(text) if locked else OSError(text))
    try:
        yield
    finally:
        lock.release()
