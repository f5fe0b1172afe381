"""The tasks of a job without a scheduler: each supervisor does for its own rank what SLURM does for all.

SLURM ends the other ranks when one has failed, and its job script records how the job ended (outcome.py). A process in
the background has nobody for that. So each supervisor looks after what became of the others, by their statuses in the
job's folder, and that of rank 0 keeps the journal.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mvit_video.cluster.outcome import describe_end
from mvit_video.cluster.placement import TaskPlacement
from mvit_video.cluster.rank_status import RankStatus, read_statuses
from mvit_video.runtime.journal import append_event
from mvit_video.runtime.processes import process_start

_LOOK_S = 0.5


def wait_with_others(
    child: "subprocess.Popen[bytes]", folder: Path, placement: TaskPlacement, ended_by: list[int]
) -> int:
    """Wait for a rank, and end it as soon as another one has failed; its exit code.

    A rank that waits for one that never comes would do so for all of `trainer.collective_timeout_s`.

    Args:
        child: the rank.
        folder: of the ranks' statuses.
        placement: of this rank.
        ended_by: takes the signal with which the rank was ended.
    """
    while True:
        try:
            return child.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            others = _others(folder, placement)
        if any(other.status in ("failed", "refused", "cancelled") or _is_gone(other) for other in others):
            ended_by.append(signal.SIGKILL)
            child.kill()
            return child.wait()


def record_end(run_dir: Path, folder: Path, own: RankStatus, exit_code: int) -> None:
    """Wait until all ranks have ended, and say and record in the journal what became of the job.

    Args:
        run_dir: of the run.
        folder: of the ranks' statuses.
        own: status of rank 0, whose supervisor calls this.
        exit_code: of rank 0.
    """
    others = _others(folder, own.placement)
    while any(other.status == "running" and not _is_gone(other) for other in others):
        time.sleep(_LOOK_S)
        others = _others(folder, own.placement)
    all_done = exit_code == 0 and all(other.status == "done" for other in others)
    status, cause = describe_end([own, *others], 0 if all_done else exit_code or 1)
    where = own.placement
    print(f"mvit_video: job {where.job_id}: {status}: {cause}", file=sys.stderr, flush=True)  # the ranks may be silent
    append_event(run_dir, "end", job=where.job_id, restart=where.restart, pid=os.getpid(), status=status, cause=cause)


def _others(folder: Path, placement: TaskPlacement) -> list[RankStatus]:
    """What is known of the other ranks. An earlier job may have had the same number, but hardly the same port, too."""
    statuses = read_statuses(folder, placement.job_id, placement.restart)
    return [s for s in statuses if s.placement.port == placement.port and s.placement.rank != placement.rank]


def _is_gone(status: RankStatus) -> bool:
    return status.status == "running" and process_start(status.pid) is None
