"""Requests to stop, agreed on by all ranks at a step boundary, and a watchdog that ends a rank that no longer steps.

A cluster warns before it takes a machine away: SLURM by a signal of the job's choosing (SIGUSR2 here), others by
SIGTERM; a person presses Ctrl-C. A handler in the middle of a step could save nothing sensible, and ranks get the
signal at different times. So the handler sets a flag; the ranks combine their flags once per step
(distributed.StopVote), and all of them stop after the same step.
"""

import faulthandler
import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
ERROR_FILE = "MVIT_VIDEO_ERROR_FILE"  # in the environment of a supervised rank: where to say why it ends
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: saved, to be started again
EXIT_STALLED = 76
EXIT_REFUSED = 77  # another attempt is training the run

RANKS_PER_VOTED_STEP = 64
"""Ranks that a vote to stop reaches within one step: there and back some 30 us each over TCP, 4 ms in all."""

_received: list[tuple[signal.Signals, float]] = []
_handlers_before: dict[signal.Signals, Any] = {}
_IMPATIENT_S = 2.0  # a launcher may pass one Ctrl-C on several times; a person needs longer for the second


class Interrupted(RuntimeError):
    """The run was asked to stop, and has stopped at a step boundary with its state saved."""


def install() -> None:
    """Turn the signals into a request to stop. Call it early, in the main thread: before, a signal ends the process.

    A second Ctrl-C does not wait for the step: it raises KeyboardInterrupt.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            before = signal.signal(number, _receive)
            if before != _receive:
                _handlers_before[number] = before


def _receive(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if number == signal.SIGINT and any(old == number and now - when > _IMPATIENT_S for old, when in _received):
        raise KeyboardInterrupt
    _received.append((signal.Signals(number), now))


def uninstall() -> None:
    """Give the signals the meaning again that they had before `install`, and forget what came."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            before = _handlers_before.pop(number, default)
            signal.signal(number, default if before is None else before)  # None: set by other means than Python
    _received.clear()


def received() -> str | None:
    """Name of the first signal that came, None if none did."""
    return _received[0][0].name if _received else None


def stop_if_asked() -> None:
    """End a job that goes on by itself when it is started again, and needs nobody to agree.

    Raises:
        Interrupted: a signal came.
    """
    if _received:
        raise Interrupted(f"stopped by {received()}; the same command goes on")


def vote_span(ranks: int) -> int:
    """Steps that one vote to stop may take to go around: one for every RANKS_PER_VOTED_STEP ranks."""
    return -(-ranks // RANKS_PER_VOTED_STEP)


class StallWatchdog:
    """Ends this process when nothing has happened in it for too long: a rank stuck in a driver, a collective or a read
    would otherwise hold all its peers and their machines until the time limit.

    Args:
        timeout_s: seconds without `beat` after which every thread's stack is printed and the process exits with code
            EXIT_STALLED; 0 switches the watchdog off.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._last = time.monotonic()
        self._what = "starting"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StallWatchdog":
        if self.timeout_s > 0:
            self.beat("starting")
            self._thread = threading.Thread(target=self._run, name="stall-watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self, what: str) -> None:
        """Something was achieved; `what` comes next."""
        self._what, self._last = what, time.monotonic()

    def _run(self) -> None:
        while not self._stop.wait(min(1.0, self.timeout_s / 4)):
            idle = time.monotonic() - self._last
            if idle > self.timeout_s:
                text = (
                    f"stalled: {self._what} has taken {idle:.0f} s, more than trainer.stall_timeout_s="
                    f"{self.timeout_s:g}; this process ends. What its threads are doing:"
                )
                logger.error("%s", text)
                record_error(text.split(";")[0])
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_STALLED)


def record_error(text: str) -> None:
    """Tell the supervisor of this rank, if there is one, why it ends."""
    path = os.environ.get(ERROR_FILE)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
