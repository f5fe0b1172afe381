"""Run one rank of a job: in this process, or as a supervisor's child process (`python -m mvit_video.cluster.rank`).

The supervisor hands the rank its job through standard input, which then stays open: when it ends, so does the rank.
"""

import importlib
import logging
import os
import pickle
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from typing import IO, Any

from mvit_video.runtime.interruption import EXIT_INTERRUPTED, EXIT_REFUSED, Interrupted, install, record_error
from mvit_video.runtime.logs import configure_logging, traceback_wanted
from mvit_video.runtime.run_lock import RunLockedError

logger = logging.getLogger(__name__)

MODULE = "mvit_video.cluster.rank"  # this file, for python -m


def run_rank(job: Callable[[Any], Any], config: Any) -> int:
    """Run `job(config)` as one of several ranks; its exit code.

    Errors of the user's making are one message. Others come with their traceback: nobody can ask a cluster job again,
    and of a rank that ended the launcher knows no more than the exit code.
    """
    configure_logging()
    try:
        job(config)
    except Interrupted as stop:
        logger.info("%s", stop)
        return EXIT_INTERRUPTED
    except Exception as error:
        record_error(f"{type(error).__name__}: {error}")
        plain = isinstance(error, ValueError | OSError | RunLockedError) and not traceback_wanted()
        logger.error("%s", error, exc_info=None if plain else error)
        return EXIT_REFUSED if isinstance(error, RunLockedError) else 1
    return 0


def send_job(stream: IO[bytes], job: str, config: Any) -> None:
    """Write what a rank shall do: `job` is "module:function", so that the sender need not import it."""
    work = pickle.dumps((job, config))
    stream.write(struct.pack("<Q", len(work)) + work)
    stream.flush()


def receive_job(descriptor: int) -> tuple[str, Any]:
    """Read what `send_job` wrote.

    Raises:
        EOFError: the supervisor ended before it had written all.
    """
    (length,) = struct.unpack("<Q", _read_exactly(descriptor, 8))
    job, config = pickle.loads(_read_exactly(descriptor, length))  # from our own parent
    return job, config


def _read_exactly(descriptor: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = os.read(descriptor, length - len(data))
        if not piece:
            raise EOFError("the supervisor ended before it handed over the work")
        data += piece
    return bytes(data)


def _end_with_supervisor(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(128 + signal.SIGKILL)


def _run_supervised() -> None:
    install()
    # The descriptor, not sys.stdin: a thread inside the buffered reader would abort the interpreter at its end.
    descriptor = sys.stdin.fileno()
    job, config = receive_job(descriptor)
    threading.Thread(target=_end_with_supervisor, args=(descriptor,), name="supervisor-gone", daemon=True).start()
    module, name = job.split(":")
    code = run_rank(getattr(importlib.import_module(module), name), config)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit where it failed: threads of a broken process group may keep the interpreter from ending.
    if code:
        os._exit(code)


def main() -> None:
    """Entry point of the child process."""
    try:
        _run_supervised()
    except BaseException as error:
        record_error("".join(traceback.format_exception_only(error)).strip())
        raise


if __name__ == "__main__":
    main()
