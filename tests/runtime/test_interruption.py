"""Requests to stop, and the watchdog over processes that no longer step."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvit_video.runtime import interruption
from mvit_video.runtime.interruption import ERROR_FILE, EXIT_STALLED, RANKS_PER_VOTED_STEP, StallWatchdog, vote_span


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    interruption.install()
    yield
    interruption.uninstall()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_signals_set_a_flag(handlers: None) -> None:
    assert interruption.received() is None
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.received() == "SIGUSR2"


def test_one_ctrl_c_passed_on_twice_is_one_but_a_second_does_not_wait(
    handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert interruption.received() == "SIGINT"
    now = time.monotonic()
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now + 10)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_uninstall_forgets(handlers: None) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    interruption.uninstall()
    assert interruption.received() is None
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


def test_a_stalled_process_says_where_it_hangs_and_ends(tmp_path: Path) -> None:
    code = (
        "import time\nfrom mvit_video.runtime.interruption import StallWatchdog\n"
        "with StallWatchdog(0.5) as watchdog:\n"
        "    watchdog.beat('step 7')\n"
        "    time.sleep(900)\n"
    )
    environment = {**os.environ, ERROR_FILE: str(tmp_path / "error")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == EXIT_STALLED
    assert "stalled: step 7 has taken" in done.stderr
    assert 'File "<string>", line 5' in done.stderr  # the stack of the thread that hangs
    assert (tmp_path / "error").read_text().startswith("stalled: step 7")


class Clock:
    """A clock that stands still unless it is moved, and counts how often it is read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reads = 0

    def monotonic(self) -> float:
        self.reads += 1
        return self.now

    def await_reads(self, count: int) -> None:
        wanted = self.reads + count
        while self.reads < wanted:
            time.sleep(0.001)


def test_a_process_that_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: a machine that is busy for half a second must not end the tests' process."""
    clock = Clock()
    ended: list[int] = []
    monkeypatch.setattr(interruption, "time", clock)
    monkeypatch.setattr(os, "_exit", ended.append)
    with StallWatchdog(0.04) as watchdog:
        for _ in range(8):
            clock.now += 0.03
            clock.await_reads(3)
            watchdog.beat("going on")
        assert ended == []
        clock.now += 0.05
        clock.await_reads(3)
        assert ended[0] == EXIT_STALLED


def test_zero_switches_the_watchdog_off() -> None:
    with StallWatchdog(0.0) as watchdog:
        assert watchdog._thread is None


def test_a_vote_takes_a_step_for_every_64_ranks() -> None:
    assert RANKS_PER_VOTED_STEP == 64
    assert [vote_span(ranks) for ranks in (1, 64, 65, 1024)] == [1, 1, 2, 16]
