"""A supervisor and its rank: real processes, and what is written down of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvit_video.cluster.rank_status import read_statuses
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, EXIT_REFUSED
from mvit_video.runtime.journal import read_events
from mvit_video.runtime.run_lock import RunLockedError
from tests.paths import ROOT

WAIT_S = 240  # for what takes a second where the machine is not busy


def rank_main(config: dict[str, str]) -> None:
    """A job: what it does is in the config."""
    Path(config["pid"]).write_text(str(os.getpid()))
    if config["do"] == "fail":
        raise ValueError("nothing to train on")
    if config["do"] == "refuse":
        raise RunLockedError("process 7 on node3 trains it")
    if config["do"] == "wait":
        deadline = time.monotonic() + 2 * WAIT_S
        from mvit_video.runtime import interruption

        while time.monotonic() < deadline:
            if interruption.received():
                raise interruption.Interrupted("saved")
            time.sleep(0.02)


SCRIPT = """
import sys
from pathlib import Path
from mvit_video.cluster.placement import TaskPlacement
from mvit_video.cluster.supervisor import run_task
folder, do, rank, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
placement = TaskPlacement(
    job_id="9", restart=0, rank=rank, size=size, local_rank=rank, local_size=size, host="here", main_host="localhost",
    port=int(sys.argv[5]),
)
config = {"do": do, "pid": str(folder / f"pid{rank}")}
job = "tests.cluster.test_supervisor:rank_main"
run_task(job, config, placement, folder=folder / "ranks", run_dir=folder / "run", scheduled=size == 1)
"""


def supervise(folder: Path, what: str, *, rank: int = 0, size: int = 1, port: int = 7) -> "subprocess.Popen[bytes]":
    arguments = [str(folder), what, str(rank), str(size), str(port)]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT)


def rank_pid(folder: Path, rank: int = 0) -> int:
    deadline = time.monotonic() + WAIT_S
    file = folder / f"pid{rank}"
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


def status(folder: Path) -> tuple[str, str]:
    (only,) = read_statuses(folder / "ranks", "9", 0)
    assert only.placement.rank == 0 and only.run_dir == str(folder / "run")
    return only.status, only.error


def test_a_rank_that_succeeds(tmp_path: Path) -> None:
    assert supervise(tmp_path, "succeed").wait(WAIT_S) == 0
    assert status(tmp_path) == ("done", "")
    (start,) = read_events(tmp_path / "run")
    assert (start["event"], start["job"], start["ranks"]) == ("start", "9", 1)


def test_a_rank_that_fails_says_why(tmp_path: Path) -> None:
    assert supervise(tmp_path, "fail").wait(WAIT_S) == 1
    assert status(tmp_path) == ("failed", "ValueError: nothing to train on")


def test_a_rank_that_was_refused(tmp_path: Path) -> None:
    assert supervise(tmp_path, "refuse").wait(WAIT_S) == EXIT_REFUSED
    assert status(tmp_path) == ("refused", "RunLockedError: process 7 on node3 trains it")


def test_a_warning_reaches_the_rank(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    rank_pid(tmp_path)
    task.send_signal(signal.SIGUSR2)
    assert task.wait(WAIT_S) == EXIT_INTERRUPTED
    assert status(tmp_path)[0] == "saved"


def test_a_cancelled_task_ends_at_once(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    pid = rank_pid(tmp_path)
    task.send_signal(signal.SIGTERM)
    task.wait(WAIT_S)
    assert status(tmp_path)[0] == "cancelled"
    assert not Path(f"/proc/{pid}").exists()


def test_a_rank_killed_from_outside_is_noticed(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    os.kill(rank_pid(tmp_path), signal.SIGKILL)
    assert task.wait(WAIT_S) == 137
    assert status(tmp_path) == ("failed", "killed by SIGKILL")


def test_a_rank_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    pid = rank_pid(tmp_path)
    task.kill()
    task.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_scheduler_ranks_end_with_the_one_that_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting = supervise(tmp_path, "wait", rank=0, size=2)
    rank_pid(tmp_path)
    assert supervise(tmp_path, "fail", rank=1, size=2).wait(WAIT_S) == 1
    assert waiting.wait(WAIT_S) == 137
    assert [s.status for s in read_statuses(tmp_path / "ranks", "9", 0)] == ["cancelled", "failed"]
    start, end = read_events(tmp_path / "run")
    assert (end["job"], end["pid"], end["status"]) == ("9", start["pid"], "failed")
    assert end["cause"] == "rank 1 of 2 on here: ValueError: nothing to train on"
    assert f"mvit_video: job 9: failed: {end['cause']}" in capfd.readouterr().err


def test_without_a_scheduler_a_lost_supervisor_is_noticed(tmp_path: Path) -> None:
    waiting, lost = (supervise(tmp_path, "wait", rank=rank, size=2) for rank in (0, 1))
    rank_pid(tmp_path, 0), rank_pid(tmp_path, 1)
    lost.kill()
    lost.wait(WAIT_S)
    assert waiting.wait(WAIT_S) == 137
    assert "rank 1 on here was killed together with its supervisor" in read_events(tmp_path / "run")[-1]["cause"]


def test_without_a_scheduler_the_journal_tells_how_all_ended(tmp_path: Path) -> None:
    tasks = [supervise(tmp_path, "wait", rank=0, size=2), supervise(tmp_path, "wait", rank=1, size=2)]
    rank_pid(tmp_path, 0), rank_pid(tmp_path, 1)
    for task in tasks:
        task.send_signal(signal.SIGUSR2)
    assert [task.wait(WAIT_S) for task in tasks] == [EXIT_INTERRUPTED, EXIT_INTERRUPTED]
    assert read_events(tmp_path / "run")[-1]["status"] == "saved"


def test_an_earlier_job_of_the_same_number_ends_nothing(tmp_path: Path) -> None:
    """In a container the same numbers of processes come again and again."""
    assert supervise(tmp_path, "fail", rank=1, size=2, port=7).wait(WAIT_S) == 1
    assert supervise(tmp_path, "succeed", rank=0, size=2, port=8).wait(WAIT_S) == 0
    assert read_events(tmp_path / "run")[-1]["status"] == "done"


@pytest.mark.parametrize("module", ["supervisor", "submit", "outcome"])
def test_what_waits_for_ranks_is_light(module: str) -> None:
    """A supervisor must be up in an instant, on every node."""
    code = (
        f"import sys, mvit_video.cluster.{module}; print([m for m in ('torch', 'submitit', 'av') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
