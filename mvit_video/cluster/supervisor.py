"""What a cluster job runs: every task supervises one rank, and the job script decides at the end whether to go on.

A task starts its rank as a child process. A process stuck in a collective or killed from outside can say nothing for
itself; its supervisor, which does nothing but wait, passes warnings on, ends it at once when the job is cancelled, and
notes how it ended. After all tasks have ended the job script calls `conclude`, which reads those notes, names the rank
that failed first, and asks SLURM to start the job again where that makes sense. A job that starts again finds its
newest checkpoint by itself.

This module imports neither torch nor submitit: it must be up in an instant.
"""

import argparse
import importlib
import json
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mvit_video.runtime.interruption import ERROR_FILE, EXIT_INTERRUPTED, install, record_error

LIVES = "lives.jsonl"  # in the run directory: when the run was started, where, and how that life ended
# What ranks say whose partner has gone: they are not the ones that failed.
_SECONDARY = re.compile(
    r"connection (closed|reset|refused)|broken pipe|peer|another rank|timed? ?out|nccl|gloo|socket", re.IGNORECASE
)


@dataclass(frozen=True)
class Place:
    """A task of a job.

    Attributes:
        job_id: SLURM's id, or "local".
        restart: how often the job was started before.
        rank: of this task; `size` tasks in all.
        local_rank: of this task on its node; `local_size` tasks there.
        host: name of its node.
        main_host: name of rank 0's node.
    """

    job_id: str
    restart: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    main_host: str


def slurm_place(environment: Mapping[str, str], hosts: Sequence[str]) -> Place:
    """The place of this task, by SLURM's variables and the names of the job's nodes."""
    size = int(environment["SLURM_NTASKS"])
    return Place(
        job_id=environment["SLURM_JOB_ID"],
        restart=int(environment.get("SLURM_RESTART_COUNT", "0")),
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment["SLURM_LOCALID"]),
        local_size=size // int(environment.get("SLURM_NNODES", len(hosts))),
        host=socket.gethostname(),
        main_host=hosts[0],
    )


def rendezvous_port(job_id: str, restart: int) -> int:
    """TCP port at which the ranks of this life meet, 20000 to 59999.

    Another one after every restart: a process left over from the life before must not meet the new ranks.
    """
    number = int(re.sub(r"\D", "", job_id) or 0)
    return 20000 + (number * 4099 + restart * 101) % 40000


def rank_environment(place: Place) -> dict[str, str]:
    """The variables from which torch.distributed and the package distributed know the other ranks."""
    return {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "MASTER_ADDR": place.main_host,
        "MASTER_PORT": str(rendezvous_port(place.job_id, place.restart)),
    }


# ---- a task


def run_task(job: str, config: Any, place: Place, *, folder: Path, run_dir: Path) -> None:
    """Run one rank of `job` ("module:function") as a child process; returns if it succeeds, else ends this process.

    The exit code is that of the rank, or 128 plus the signal that ended it. How it ended is noted in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if place.rank == 0:
        nodes = os.environ.get("SLURM_JOB_NODELIST", place.host)
        journal(run_dir, event="start", job=place.job_id, restart=place.restart, ranks=place.size, nodes=nodes)
    note = folder / f"{place.job_id}.{place.restart}.{place.rank}.json"
    write_note(note, place, run_dir, ended="running", error="")
    error_file = note.with_suffix(".error")
    error_file.unlink(missing_ok=True)
    child = _start_rank(job, config, {**os.environ, **rank_environment(place), ERROR_FILE: str(error_file)})
    ended_by: list[int] = []
    _pass_signals_on(child, ended_by)
    code = child.wait()
    error = error_file.read_text(encoding="utf-8") if error_file.exists() else ""
    error_file.unlink(missing_ok=True)
    if code == 0:
        write_note(note, place, run_dir, ended="done", error="")
        return
    ended = "ended" if ended_by else "saved" if code == EXIT_INTERRUPTED else "failed"
    if code < 0 and not ended_by:
        error = f"killed by {_signal_name(-code)}" + (f"; before that: {error}" if error else "")
    write_note(note, place, run_dir, ended=ended, error=error or f"exit code {code}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if code > 0 else 128 - code)  # not sys.exit: the job is not over, so there is no result to write


def _start_rank(job: str, config: Any, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the rank and hand it its work through a pipe, which then stays open: its end tells the rank to end."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "mvit_video.cluster.supervisor", "rank"],
        stdin=subprocess.PIPE,
        env=dict(environment),
    )
    assert child.stdin is not None
    work = pickle.dumps((job, config))
    try:
        child.stdin.write(struct.pack("<Q", len(work)) + work)
        child.stdin.flush()
    except BrokenPipeError:
        pass  # it died at birth: its exit code tells
    return child


def _pass_signals_on(child: "subprocess.Popen[bytes]", ended_by: list[int]) -> None:
    """A warning goes to the rank, which saves; the end of the job ends it at once."""

    def warn(number: int, frame: object) -> None:
        child.send_signal(signal.SIGUSR2)

    def end(number: int, frame: object) -> None:
        ended_by.append(number)
        child.kill()

    signal.signal(signal.SIGUSR2, warn)
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _rank_main() -> None:
    """The child: read the work from standard input and do it."""
    install()
    # The descriptor, not sys.stdin: a thread inside the buffered reader would abort the interpreter at its end.
    stream = sys.stdin.fileno()
    (length,) = struct.unpack("<Q", _read_exactly(stream, 8))
    job, config = pickle.loads(_read_exactly(stream, length))  # from our own parent
    threading.Thread(target=_end_with_supervisor, args=(stream,), name="supervisor-watch", daemon=True).start()
    module, name = job.split(":")
    from mvit_video.cluster.launch import run_rank

    code = run_rank(getattr(importlib.import_module(module), name), config)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit where it failed: threads of a broken process group may keep the interpreter from ending.
    if code:
        os._exit(code)


def _read_exactly(stream: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = os.read(stream, length - len(data))
        if not piece:
            raise EOFError("the supervisor ended before it handed over the work")
        data += piece
    return bytes(data)


def _end_with_supervisor(stream: int) -> None:
    while os.read(stream, 1):
        pass
    os._exit(128 + signal.SIGKILL)


# ---- notes and the journal


def write_note(path: Path, place: Place, run_dir: Path, *, ended: str, error: str) -> None:
    """Note a task's state, written beside and renamed."""
    note = {**asdict(place), "run_dir": str(run_dir), "ended": ended, "error": error, "time": time.time()}
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(note), encoding="utf-8")
    os.replace(beside, path)


def read_notes(folder: Path, job_id: str, restart: int) -> list[dict[str, Any]]:
    """Notes of one life of a job, in rank order."""
    notes = [json.loads(path.read_text("utf-8")) for path in folder.glob(f"{job_id}.{restart}.*.json")]
    return sorted(notes, key=lambda note: int(note["rank"]))


def journal(run_dir: Path, **event: Any) -> None:
    """Append an event to the run's journal."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / LIVES, "a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), **event}) + "\n")


def read_journal(run_dir: Path) -> list[dict[str, Any]]:
    """Events of a run, oldest first; a line cut short by a crash is left out."""
    path = run_dir / LIVES
    events = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


# ---- the end of a job


@dataclass(frozen=True)
class Verdict:
    """What became of one life of a job, and what follows.

    Attributes:
        ended: "done", "saved" (asked to stop), "ended" (cancelled or requeued from outside) or "failed".
        cause: for people.
        requeue: start the job again.
    """

    ended: str
    cause: str
    requeue: bool


def judge(
    notes: Sequence[Mapping[str, Any]], code: int, *, failures: int, restarts: int, limits: tuple[int, int], chain: bool
) -> Verdict:
    """Decide what follows (pure).

    Args:
        notes: what the tasks noted.
        code: exit code of the job's step.
        failures: lives of the job that failed before this one.
        restarts: how often it was started again before.
        limits: most failures, and most restarts in all, after which it is still started again.
        chain: another job that goes on is waiting already, so a job that saved simply ends.
    """
    max_failures, max_restarts = limits
    if code == 0:
        return Verdict("done", "finished", False)
    failed = [note for note in notes if note["ended"] == "failed"]
    silent = [note for note in notes if note["ended"] == "running"]
    if any(note["ended"] == "saved" for note in notes) and not failed:
        if chain:
            return Verdict("saved", "asked to stop; saved; the next job of the queue goes on", False)
        again = restarts < max_restarts
        more = "" if again else f"; not started again: launcher.max_restarts={max_restarts} reached"
        return Verdict("saved", f"asked to stop; saved{more}", again)
    if not failed and not silent and notes:
        return Verdict("ended", "ended from outside (cancelled, requeued or out of time)", False)
    cause = describe_failure(failed, silent, code)
    if failures >= max_failures or restarts >= max_restarts:
        limit = f"launcher.max_failures={max_failures}, launcher.max_restarts={max_restarts}"
        return Verdict("failed", f"{cause}; not started again after {failures + 1} failures ({limit})", False)
    return Verdict("failed", cause, True)


def describe_failure(failed: Sequence[Mapping[str, Any]], silent: Sequence[Mapping[str, Any]], code: int) -> str:
    """Name the rank that failed first, not those that lost it."""

    def order(note: Mapping[str, Any]) -> tuple[bool, float]:
        return bool(_SECONDARY.search(note["error"])), float(note["time"])

    primary = [note for note in sorted(failed, key=order) if not _SECONDARY.search(note["error"])]
    if primary:
        first = primary[0]
        return f"rank {first['rank']} of {first['size']} on {first['host']}: {first['error']}"
    if silent:
        lost = ", ".join(f"{note['rank']} on {note['host']}" for note in silent)
        return f"the process of rank {lost} was killed together with its supervisor (exit code {code})"
    if failed:
        first = min(failed, key=order)
        return f"rank {first['rank']} of {first['size']} on {first['host']}: {first['error']}"
    return f"no rank came up (exit code {code}); see the job's log"


def conclude(folder: Path, code: int, *, limits: tuple[int, int], chain: bool) -> int:
    """Called by the job script when its step has ended; the job's exit code."""
    job_id, restart = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    notes = read_notes(folder, job_id, restart)
    run_dir = Path(notes[0]["run_dir"]) if notes else None
    events = read_journal(run_dir) if run_dir else []
    failures = sum(e.get("event") == "end" and e.get("job") == job_id and e.get("ended") == "failed" for e in events)
    verdict = judge(notes, code, failures=failures, restarts=restart, limits=limits, chain=chain)
    if run_dir:
        journal(run_dir, event="end", job=job_id, restart=restart, ended=verdict.ended, cause=verdict.cause)
    print(
        f"mvit_video: job {job_id}, start {restart + 1}: {verdict.ended}: {verdict.cause}", file=sys.stderr, flush=True
    )
    if verdict.requeue and not _requeue(job_id):
        return code or 1
    return 0 if verdict.ended == "saved" and chain else code


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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def main(arguments: Sequence[str] | None = None) -> int:
    """`rank`: be a rank; `conclude FOLDER CODE ...`: end a job."""
    parser = argparse.ArgumentParser(prog="python -m mvit_video.cluster.supervisor")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("rank", help="run one rank; the work comes through standard input")
    end = commands.add_parser("conclude", help="end a job: say what happened, and start it again where that helps")
    end.add_argument("folder", type=Path)
    end.add_argument("code", type=int)
    end.add_argument("--max-failures", type=int, required=True)
    end.add_argument("--max-restarts", type=int, required=True)
    end.add_argument("--chain", action="store_true")
    options = parser.parse_args(arguments)
    if options.command == "conclude":
        limits = (options.max_failures, options.max_restarts)
        return conclude(options.folder, options.code, limits=limits, chain=options.chain)
    try:
        _rank_main()
    except BaseException as error:
        record_error("".join(traceback.format_exception_only(error)).strip())
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main())
