"""A run whose loader worker is killed or hangs ends with a message and exit code 1, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import motion_overrides

MORE = ("trainer.num_workers=2", "schedule.epochs=2000", "trainer.eval_every=9999", "trainer.checkpoint_every=9999")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def start(overrides: Sequence[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mvit_video.train", *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: "subprocess.Popen[str]", metrics: Path) -> list[int]:
    """The loader workers of a run that has made steps."""
    end = time.monotonic() + 180
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    found = children(process.pid)
    assert len(found) == 2
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        (signal.SIGKILL, [], "was killed by SIGKILL, "),
        (signal.SIGSTOP, ["data.worker_timeout_s=2"], "no batch for 2 s (data.worker_timeout_s)"),
    ],
)
def test_a_lost_worker_ends_the_run(
    motion_root: Path, tmp_path: Path, kind: signal.Signals, more: list[str], said: str
) -> None:
    process = start(motion_overrides(motion_root, tmp_path, *MORE, *more))
    try:
        workers = wait_for_step(process, tmp_path / "tiny/metrics.jsonl")
        os.kill(workers[0], kind)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1
    assert said in errors
    assert "Traceback" not in errors
    assert all(ended(pid) for pid in workers)
