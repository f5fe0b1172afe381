"""Each task of a cluster job supervises one rank, its child process.

A process stuck in a collective or killed from outside can say nothing for itself. Its supervisor only waits: it passes
warnings on, ends the rank at once when the job is cancelled, and writes down how it ended (rank_status.py). After all
tasks have ended, the job script decides whether the job is requeued (outcome.py). A job that starts again finds its
newest checkpoint by itself. Without a scheduler the supervisors look after each other (companions.py).

This module imports neither torch nor submitit: it must be up in an instant.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvit_video.cluster import companions, rank
from mvit_video.cluster.placement import TaskPlacement, rank_environment
from mvit_video.cluster.rank_status import RankStatus, Status, status_file, write_status
from mvit_video.runtime.interruption import ERROR_FILE, EXIT_INTERRUPTED, EXIT_REFUSED
from mvit_video.runtime.journal import append_event
from mvit_video.runtime.processes import own_process


def run_task(
    job: str, config: Any, placement: TaskPlacement, *, folder: Path, run_dir: Path, scheduled: bool = True
) -> None:
    """Run one rank of `job` ("module:function") as a child process; returns if it succeeds, else ends this process.

    The exit code is that of the rank, or 128 plus the signal that ended it. Its status is written to `folder`.

    Args:
        job, config: what the rank runs.
        placement: of the rank.
        folder: of the ranks' statuses.
        run_dir: of the run, whose journal tells of the job.
        scheduled: a scheduler ends the other ranks when one fails, and runs outcome.py after all have ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if placement.rank == 0:
        _record_start(run_dir, placement, scheduled=scheduled)
    write_status(folder, RankStatus(placement, str(run_dir), "running"))
    error_file = status_file(folder, placement).with_suffix(".error")
    error_file.unlink(missing_ok=True)
    child = _start_rank(job, config, {**os.environ, **rank_environment(placement), ERROR_FILE: str(error_file)})
    ended_by: list[int] = []
    _forward_signals(child, ended_by)
    code = child.wait() if scheduled else companions.wait_with_others(child, folder, placement, ended_by)
    error = error_file.read_text(encoding="utf-8") if error_file.exists() else ""
    error_file.unlink(missing_ok=True)
    if code < 0 and not ended_by:
        error = f"killed by {_signal_name(-code)}" + (f"; before that: {error}" if error else "")
    status = _status(code, cancelled=bool(ended_by))
    result = RankStatus(placement, str(run_dir), status, "" if status == "done" else error or f"exit code {code}")
    write_status(folder, result)
    if not scheduled and placement.rank == 0:
        companions.record_end(run_dir, folder, result, code)
    if status == "done":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if code > 0 else 128 - code)  # not sys.exit: the job is not over, so there is no result to write


def _record_start(run_dir: Path, placement: TaskPlacement, *, scheduled: bool) -> None:
    nodes = os.environ.get("SLURM_JOB_NODELIST", placement.host) if scheduled else placement.host
    process = {} if scheduled else own_process()
    attempt: dict[str, str | int] = {
        "job": placement.job_id,
        "restart": placement.restart,
        "ranks": placement.size,
        "nodes": nodes,
    }
    append_event(run_dir, "start", **attempt, **process)


def _status(code: int, *, cancelled: bool) -> Status:
    if code == 0:
        return "done"
    if cancelled:
        return "cancelled"
    return "saved" if code == EXIT_INTERRUPTED else "refused" if code == EXIT_REFUSED else "failed"


def _start_rank(job: str, config: Any, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen([sys.executable, "-u", "-m", rank.MODULE], stdin=subprocess.PIPE, env=dict(environment))
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code tells
        rank.send_job(child.stdin, job, config)
    return child


def _forward_signals(child: "subprocess.Popen[bytes]", ended_by: list[int]) -> None:
    """A warning goes to the rank, which saves; the end of the job ends it at once."""

    def warn(number: int, frame: object) -> None:
        child.send_signal(signal.SIGUSR2)

    def end(number: int, frame: object) -> None:
        ended_by.append(number)
        child.kill()

    signal.signal(signal.SIGUSR2, warn)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
