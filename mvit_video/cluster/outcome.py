"""What became of one start of a SLURM job, and whether SLURM shall start it again.

The job script runs `python -m mvit_video.cluster.outcome FOLDER EXIT_CODE ...` after all tasks have ended. SLURM by
itself starts a job again whose node is lost, but not one whose task failed.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mvit_video.cluster.rank_status import RankStatus, read_statuses
from mvit_video.runtime.journal import Ending, append_event, read_events
from mvit_video.runtime.slurm import current_job, current_restart

# What ranks say whose partner has gone: they are not the ones that failed. PyTorch ends a process by SIGABRT that has
# waited too long in NCCL.
_SECONDARY = re.compile(
    r"connection (closed|reset|refused)|broken pipe|peer|another rank|timed? ?out|nccl|gloo|socket|killed by SIGABRT",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RestartLimits:
    """How often a job is started again: after failures, and in all."""

    max_failures: int
    max_restarts: int


@dataclass(frozen=True)
class JobOutcome:
    """What became of one start of a job, and what follows.

    Attributes:
        status: "done", "saved" (asked to stop), "cancelled" (ended from outside, or requeued), "failed", or "refused"
            (another attempt is training the run).
        cause: for people.
        requeue: start the job again.
    """

    status: Ending
    cause: str
    requeue: bool


def decide_outcome(
    ranks: Sequence[RankStatus], exit_code: int, *, failures: int, restarts: int, limits: RestartLimits, chained: bool
) -> JobOutcome:
    """Decide what follows (pure).

    Args:
        ranks: statuses of the ranks.
        exit_code: of the job's step.
        failures: starts of the job that failed before this one.
        restarts: how often it was started again before.
        limits: most failures, and most restarts in all, after which it is still started again.
        chained: the next job of a chain is waiting already, so a job that saved simply ends.
    """
    status, cause = describe_end(ranks, exit_code)
    if status == "saved":
        if chained:
            return JobOutcome(status, f"{cause}; the next job of the chain goes on", False)
        again = restarts < limits.max_restarts
        more = "" if again else f"; not started again: launcher.max_restarts={limits.max_restarts} reached"
        return JobOutcome(status, f"{cause}{more}", again)
    if status == "failed":
        if failures < limits.max_failures and restarts < limits.max_restarts:
            return JobOutcome(status, cause, True)
        options = f"launcher.max_failures={limits.max_failures}, launcher.max_restarts={limits.max_restarts}"
        cause = f"{cause}; not started again after {failures + 1} failures ({options})"
    return JobOutcome(status, cause, False)


def describe_end(ranks: Sequence[RankStatus], exit_code: int) -> tuple[Ending, str]:
    """What became of a start of a job, and the cause for people (pure).

    Args:
        ranks: statuses of the ranks.
        exit_code: of the job's step.
    """
    if exit_code == 0:
        return "done", "finished"
    failed = [rank for rank in ranks if rank.status == "failed"]
    running = [rank for rank in ranks if rank.status == "running"]
    refused = [rank for rank in ranks if rank.status == "refused"]
    if refused:
        return "refused", refused[0].error
    if any(rank.status == "saved" for rank in ranks) and not failed:
        return "saved", "asked to stop; saved"
    if not failed and not running and ranks:
        return "cancelled", "ended from outside (cancelled, requeued or out of time)"
    return "failed", describe_failure(failed, running, exit_code)


def describe_failure(failed: Sequence[RankStatus], running: Sequence[RankStatus], exit_code: int) -> str:
    """Name the rank that failed first, not those that failed because it was gone."""
    primary = [rank for rank in failed if not _SECONDARY.search(rank.error)]
    if not primary and running:
        lost = ", ".join(f"{rank.placement.rank} on {rank.placement.host}" for rank in running)
        return f"the process of rank {lost} was killed together with its supervisor (exit code {exit_code})"
    if not failed:
        return f"no rank came up (exit code {exit_code}); see the job's log"
    first = min(primary or failed, key=lambda rank: rank.time)
    return f"rank {first.placement.rank} of {first.placement.size} on {first.placement.host}: {first.error}"


def finish_job(folder: Path, exit_code: int, *, limits: RestartLimits, chained: bool) -> int:
    """Record what became of this job and requeue it where that helps; the job's exit code.

    Args:
        folder: of the ranks' statuses.
        exit_code, limits, chained: as for `decide_outcome`.
    """
    job_id, restart = current_job(), current_restart()
    if job_id is None:
        raise RuntimeError("SLURM_JOB_ID is not set: only a SLURM job's script calls this")
    ranks = read_statuses(folder, job_id, restart)
    run_dir = Path(ranks[0].run_dir) if ranks else None
    events = read_events(run_dir) if run_dir else []
    failures = sum(e["event"] == "end" and e.get("job") == job_id and e.get("status") == "failed" for e in events)
    outcome = decide_outcome(ranks, exit_code, failures=failures, restarts=restart, limits=limits, chained=chained)
    if run_dir:
        append_event(run_dir, "end", job=job_id, restart=restart, status=outcome.status, cause=outcome.cause)
    _say(f"job {job_id}, start {restart + 1}: {outcome.status}: {outcome.cause}")
    if outcome.requeue and not _requeue(job_id):
        return exit_code or 1
    return 0 if outcome.status == "saved" and chained else exit_code


def _requeue(job_id: str) -> bool:
    done = subprocess.run(["scontrol", "requeue", job_id], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        _say(
            f"SLURM does not start job {job_id} again: {done.stderr.strip()}. Give the same command once more: it goes "
            "on from the last checkpoint"
        )
        return False
    _say(f"job {job_id} will be started again")
    time.sleep(60)  # SLURM ends this script; leaving first would give the job an exit code
    return True


def _say(text: str) -> None:
    print(f"mvit_video: {text}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the job script's last command."""
    parser = argparse.ArgumentParser(
        prog="python -m mvit_video.cluster.outcome",
        description="Say what became of a SLURM job, and start it again where that helps.",
    )
    parser.add_argument("folder", type=Path, help="of the ranks' statuses")
    parser.add_argument("exit_code", type=int, help="of the job's step")
    parser.add_argument("--max-failures", type=int, required=True)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--chained", action="store_true", help="the next job of a chain is waiting")
    options = parser.parse_args(arguments)
    limits = RestartLimits(options.max_failures, options.max_restarts)
    return finish_job(options.folder, options.exit_code, limits=limits, chained=options.chained)


if __name__ == "__main__":
    sys.exit(main())
