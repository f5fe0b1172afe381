"""What SLURM knows of jobs, through its command-line tools; nothing is asked of it where they are not installed."""

import getpass
import os
import re
import shutil
import subprocess

PENDING_STATES = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "CONFIGURING"})
RUNNING_STATES = frozenset({"RUNNING", "COMPLETING"})  # an ending job still counts as running for those who look on
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "COMPLETING",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
_TIMEOUT_S = 30


def current_job() -> str | None:
    """Id of the job this process belongs to, None outside of one; an array's jobs have one id each."""
    return os.environ.get("SLURM_JOB_ID")


def current_restart() -> int:
    """How often SLURM has started the job of this process before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def cluster_name() -> str | None:
    """Name of the cluster whose jobs `job_state` knows, None if SLURM does not tell."""
    if "SLURM_CLUSTER_NAME" in os.environ:
        return os.environ["SLURM_CLUSTER_NAME"]
    if shutil.which("scontrol") is None:
        return None
    command = ["scontrol", "show", "config"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    found = re.search(r"^ClusterName\s*=\s*(\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else None


def queue_states() -> dict[str, tuple[str, str]]:
    """State and reason of this user's jobs by id ("12" or, in an array, "12_3"); empty without SLURM.

    Jobs that ended are included as long as SLURM remembers them, some minutes.

    Raises:
        RuntimeError: SLURM is installed, but does not answer.
    """
    if shutil.which("squeue") is None:
        return {}
    done = _squeue("-u", getpass.getuser(), "-r", "-o", "%A|%i|%T|%r")
    if done.returncode:
        raise RuntimeError(f"squeue fails: {_reason(done)}")
    states = {}
    for line in done.stdout.splitlines():
        raw, shown, state, reason = line.split("|", 3)
        states[raw] = states[shown] = (state, reason)
    return states


def job_state(job: str) -> str | None:
    """State of a job of any user, such as "RUNNING"; None if SLURM does not know it (any more).

    Raises:
        RuntimeError: SLURM is not installed, or does not answer.
    """
    if shutil.which("squeue") is None:
        raise RuntimeError("no squeue on this machine")
    done = _squeue("-j", job, "-o", "%T")
    if done.returncode:
        if "invalid job id" in done.stderr.lower():
            return None
        raise RuntimeError(f"squeue fails: {_reason(done)}")
    return next(iter(done.stdout.split()), None)


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Why it failed, in one line: where the controller is out of reach, the last of several lines tells."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {done.returncode}"


def _squeue(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = ["squeue", "-h", "-t", "all", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"squeue does not answer within {_TIMEOUT_S} s") from error
