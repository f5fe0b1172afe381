"""What a cluster job's tasks note, and what the job script makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mvit_video.cluster import supervisor
from mvit_video.cluster.supervisor import Place, judge, rendezvous_port
from mvit_video.runtime.interruption import EXIT_INTERRUPTED
from tests.paths import ROOT

LIMITS = (3, 100)
WAIT_S = 240  # for what takes a second where the machine is not busy


def note(rank: int, ended: str, error: str = "", when: float = 0.0) -> dict[str, Any]:
    return {"rank": rank, "size": 4, "host": f"node{rank // 2}", "ended": ended, "error": error, "time": when}


def verdict(notes: list[dict[str, Any]], code: int, **changes: Any) -> supervisor.Verdict:
    return judge(notes, code, **{"failures": 0, "restarts": 0, "limits": LIMITS, "chain": False, **changes})


def test_place_of_a_slurm_task() -> None:
    environment = {
        "SLURM_JOB_ID": "17",
        "SLURM_RESTART_COUNT": "2",
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "4",
        "SLURM_NNODES": "2",
        "SLURM_LOCALID": "1",
    }
    place = supervisor.slurm_place(environment, ["node1", "node2"])
    assert (place.job_id, place.restart, place.rank, place.size) == ("17", 2, 3, 4)
    assert (place.local_rank, place.local_size, place.main_host) == (1, 2, "node1")
    assert supervisor.rank_environment(place)["MASTER_PORT"] == str(rendezvous_port("17", 2))


def test_a_restart_meets_at_another_port() -> None:
    ports = [rendezvous_port("4711", restart) for restart in range(300)]
    assert len(set(ports)) == 300
    assert all(20000 <= port < 60000 for port in ports)
    assert rendezvous_port("4711", 0) != rendezvous_port("4712", 0)


def test_a_job_that_finished() -> None:
    assert verdict([note(0, "done"), note(1, "done")], 0) == supervisor.Verdict("done", "finished", False)


def test_a_job_that_saved_is_started_again_up_to_a_limit() -> None:
    notes = [note(0, "saved"), note(1, "ended"), note(2, "saved")]
    assert verdict(notes, EXIT_INTERRUPTED).requeue
    spent = verdict(notes, EXIT_INTERRUPTED, restarts=100)
    assert not spent.requeue and "launcher.max_restarts=100 reached" in spent.cause
    assert verdict(notes, EXIT_INTERRUPTED, chain=True) == supervisor.Verdict(
        "saved", "asked to stop; saved; the next job of the queue goes on", False
    )


def test_the_rank_that_failed_first_is_named_not_those_that_lost_it() -> None:
    notes = [
        note(0, "failed", "RuntimeError: [gloo] Connection closed by peer [10.0.0.3]", when=1.0),
        note(1, "ended"),
        note(2, "failed", "RuntimeError: rank 2: another rank did not finish its step", when=1.5),
        note(3, "failed", "killed by SIGKILL", when=2.0),
    ]
    result = verdict(notes, 137)
    assert result.ended == "failed" and result.requeue
    assert result.cause == "rank 3 of 4 on node1: killed by SIGKILL"


def test_a_rank_lost_with_its_supervisor_is_named() -> None:
    notes = [note(0, "failed", "Connection reset by peer"), note(1, "running")]
    assert verdict(notes, 137).cause == (
        "the process of rank 1 on node0 was killed together with its supervisor (exit code 137)"
    )


def test_failures_are_limited() -> None:
    notes = [note(0, "failed", "ValueError: no")]
    assert verdict(notes, 1, failures=2).requeue
    last = verdict(notes, 1, failures=3)
    assert not last.requeue
    assert (
        "rank 0 of 4 on node0: ValueError: no; not started again after 4 failures (launcher.max_failures=3"
        in last.cause
    )


def test_cancelling_is_no_failure() -> None:
    assert verdict([note(0, "ended"), note(1, "ended")], 143).ended == "ended"
    assert not verdict([note(0, "ended"), note(1, "ended")], 143).requeue


def test_a_job_whose_ranks_never_came_up() -> None:
    assert verdict([], 1).cause == "no rank came up (exit code 1); see the job's log"


def rank_main(config: dict[str, str]) -> None:
    """A job: what it does is in the config."""
    Path(config["pid"]).write_text(str(os.getpid()))
    if config["do"] == "fail":
        raise ValueError("nothing to train on")
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
from mvit_video.cluster.supervisor import Place, run_task
folder = Path(sys.argv[1])
place = Place(job_id="9", restart=0, rank=0, size=1, local_rank=0, local_size=1, host="here", main_host="localhost")
config = {"do": sys.argv[2], "pid": str(folder / "pid")}
run_task("tests.cluster.test_supervisor:rank_main", config, place, folder=folder / "lives", run_dir=folder / "run")
"""


def supervise(folder: Path, what: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), what], cwd=ROOT)


def rank_pid(folder: Path) -> int:
    deadline = time.monotonic() + WAIT_S
    while not ((folder / "pid").exists() and (folder / "pid").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int((folder / "pid").read_text())


def ended(folder: Path) -> tuple[str, str]:
    (only,) = supervisor.read_notes(folder / "lives", "9", 0)
    return only["ended"], only["error"]


def test_a_rank_that_succeeds(tmp_path: Path) -> None:
    assert supervise(tmp_path, "succeed").wait(WAIT_S) == 0
    assert ended(tmp_path) == ("done", "")
    (start,) = supervisor.read_journal(tmp_path / "run")
    assert (start["event"], start["job"], start["ranks"]) == ("start", "9", 1)


def test_a_rank_that_fails_says_why(tmp_path: Path) -> None:
    assert supervise(tmp_path, "fail").wait(WAIT_S) == 1
    assert ended(tmp_path) == ("failed", "ValueError: nothing to train on")


def test_a_warning_reaches_the_rank(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    rank_pid(tmp_path)
    task.send_signal(signal.SIGUSR2)
    assert task.wait(WAIT_S) == EXIT_INTERRUPTED
    assert ended(tmp_path)[0] == "saved"


def test_a_cancelled_task_ends_at_once(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    pid = rank_pid(tmp_path)
    task.send_signal(signal.SIGTERM)
    task.wait(WAIT_S)
    assert ended(tmp_path)[0] == "ended"
    assert not Path(f"/proc/{pid}").exists()


def test_a_rank_killed_from_outside_is_noticed(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    os.kill(rank_pid(tmp_path), signal.SIGKILL)
    assert task.wait(WAIT_S) == 137
    assert ended(tmp_path) == ("failed", "killed by SIGKILL")


def test_a_rank_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    task = supervise(tmp_path, "wait")
    pid = rank_pid(tmp_path)
    task.kill()
    task.wait(WAIT_S)
    deadline = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that notes how it was called."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    return tmp_path / "called"


def lives(folder: Path, ending: str, error: str) -> Path:
    place = Place(job_id="9", restart=0, rank=0, size=1, local_rank=0, local_size=1, host="here", main_host="here")
    (folder / "lives").mkdir(exist_ok=True)
    supervisor.write_note(folder / "lives" / "9.0.0.json", place, folder / "run", ended=ending, error=error)
    return folder / "lives"


def test_conclude_starts_a_failed_job_again_until_the_limit(
    tmp_path: Path, scontrol: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lives(tmp_path, "failed", "killed by SIGKILL")
    for _ in range(2):
        supervisor.main(["conclude", str(folder), "137", "--max-failures", "1", "--max-restarts", "9"])
    assert scontrol.read_text() == "requeue 9\n"  # the second time the limit was reached
    text = capsys.readouterr().err
    assert "job 9, start 1: failed: rank 0 of 1 on here: killed by SIGKILL" in text
    assert "not started again after 2 failures" in text
    assert [event["ended"] for event in supervisor.read_journal(tmp_path / "run")] == ["failed", "failed"]


def test_conclude_says_so_when_slurm_refuses(
    tmp_path: Path, scontrol: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho no permission >&2\nexit 1\n")
    folder = lives(tmp_path, "saved", "")
    code = supervisor.main(["conclude", str(folder), "75", "--max-failures", "1", "--max-restarts", "9"])
    assert code == 75
    assert "SLURM does not start job 9 again: no permission. Give the same command once more" in capsys.readouterr().err


def test_a_torn_journal_line_is_left_out(tmp_path: Path) -> None:
    supervisor.journal(tmp_path, event="start")
    with open(tmp_path / supervisor.LIVES, "a") as file:
        file.write(json.dumps({"event": "end"})[:5])
    assert [event["event"] for event in supervisor.read_journal(tmp_path)] == ["start"]


def test_the_supervisor_is_light() -> None:
    code = "import sys, mvit_video.cluster.submit; print([m for m in ('torch', 'submitit', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
