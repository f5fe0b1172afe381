"""A run whose loader worker is killed or hangs ends with a message and exit code 1, and leaves no process behind."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import interpreters
from tests.conftest import small_overrides
from tests.interpreters import Process

MORE = ("trainer.num_workers=2", "schedule.epochs=2000", "trainer.eval_every=9999", "trainer.checkpoint_every=9999")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_for_step(process: Process, metrics: Path) -> list[int]:
    """The loader workers of a run that has made steps."""
    end = time.monotonic() + 600
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.output()[1]
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
        (signal.SIGSTOP, ["data.worker_timeout_s=8"], "no batch for 8 s (data.worker_timeout_s)"),
    ],
)
def test_a_lost_worker_ends_the_run(
    motion_root: Path, tmp_path: Path, kind: signal.Signals, more: list[str], said: str
) -> None:
    process = interpreters.start("-m", "mvit_video.train", *small_overrides(motion_root, tmp_path, *MORE, *more))
    try:
        workers = wait_for_step(process, tmp_path / "tiny/metrics.jsonl")
        os.kill(workers[0], kind)
        _, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 1
    assert said in errors
    assert "Traceback" not in errors
    assert all(ended(pid) for pid in workers)
