"""What the job script makes of the ranks' statuses."""

import os
from pathlib import Path
from typing import Any

import pytest

from mvit_video.cluster import outcome as outcome_module
from mvit_video.cluster.outcome import JobOutcome, RestartLimits, decide_outcome
from mvit_video.cluster.placement import TaskPlacement
from mvit_video.cluster.rank_status import RankStatus, write_status
from mvit_video.runtime.interruption import EXIT_INTERRUPTED, EXIT_REFUSED
from mvit_video.runtime.journal import read_events

LIMITS = RestartLimits(max_failures=3, max_restarts=100)


def rank(number: int, status: Any, error: str = "", when: float = 0.0) -> RankStatus:
    placement = TaskPlacement("9", 0, number, 4, number % 2, 2, f"node{number // 2}", "node0")
    return RankStatus(placement, "/runs/s", status, error, when)


def outcome(ranks: list[RankStatus], code: int, **changes: Any) -> JobOutcome:
    return decide_outcome(ranks, code, **{"failures": 0, "restarts": 0, "limits": LIMITS, "chained": False, **changes})


def test_a_job_that_finished() -> None:
    assert outcome([rank(0, "done"), rank(1, "done")], 0) == JobOutcome("done", "finished", False)


def test_a_job_that_saved_is_started_again_up_to_a_limit() -> None:
    ranks = [rank(0, "saved"), rank(1, "cancelled"), rank(2, "saved")]
    assert outcome(ranks, EXIT_INTERRUPTED).requeue
    spent = outcome(ranks, EXIT_INTERRUPTED, restarts=100)
    assert not spent.requeue and "launcher.max_restarts=100 reached" in spent.cause
    assert outcome(ranks, EXIT_INTERRUPTED, chained=True) == JobOutcome(
        "saved", "asked to stop; saved; the next job of the chain goes on", False
    )


def test_the_rank_that_failed_first_is_named_not_those_that_lost_it() -> None:
    ranks = [
        rank(0, "failed", "RuntimeError: [gloo] Connection closed by peer [10.0.0.3]", when=1.0),
        rank(1, "cancelled"),
        rank(2, "failed", "RuntimeError: rank 2: another rank did not finish its step", when=1.5),
        rank(3, "failed", "killed by SIGKILL", when=2.0),
    ]
    result = outcome(ranks, 137)
    assert result.status == "failed" and result.requeue
    assert result.cause == "rank 3 of 4 on node1: killed by SIGKILL"


@pytest.mark.parametrize("secondary", ["Connection reset by peer", "killed by SIGABRT"])
def test_a_rank_lost_with_its_supervisor_is_named(secondary: str) -> None:
    """Of the ranks that lost it, those on a CPU get gloo's error, and those on a GPU are ended by PyTorch."""
    ranks = [rank(0, "failed", secondary), rank(1, "running")]
    assert outcome(ranks, 137).cause == (
        "the process of rank 1 on node0 was killed together with its supervisor (exit code 137)"
    )
    alone = outcome([rank(0, "failed", secondary), rank(1, "cancelled")], 134)
    assert alone.cause == f"rank 0 of 4 on node0: {secondary}"


def test_failures_are_limited() -> None:
    ranks = [rank(0, "failed", "ValueError: no")]
    assert outcome(ranks, 1, failures=2).requeue
    last = outcome(ranks, 1, failures=3)
    assert not last.requeue
    assert (
        "rank 0 of 4 on node0: ValueError: no; not started again after 4 failures (launcher.max_failures=3"
        in last.cause
    )


def test_cancelling_is_no_failure() -> None:
    assert outcome([rank(0, "cancelled"), rank(1, "cancelled")], 143).status == "cancelled"
    assert not outcome([rank(0, "cancelled"), rank(1, "cancelled")], 143).requeue


def test_a_job_whose_ranks_never_came_up() -> None:
    assert outcome([], 1).cause == "no rank came up (exit code 1); see the job's log"


def test_a_refused_job_is_not_started_again() -> None:
    ranks = [rank(0, "refused", "RunLockedError: process 7 on node3 trains it"), rank(1, "cancelled")]
    assert outcome(ranks, EXIT_REFUSED) == JobOutcome("refused", "RunLockedError: process 7 on node3 trains it", False)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in that records how it was called."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr(outcome_module.time, "sleep", lambda seconds: None)
    return tmp_path / "called"


def statuses(folder: Path, status: Any, error: str) -> Path:
    placement = TaskPlacement("9", 0, 0, 1, 0, 1, "here", "here")
    (folder / "ranks").mkdir(exist_ok=True)
    write_status(folder / "ranks", RankStatus(placement, str(folder / "run"), status, error))
    return folder / "ranks"


def test_it_starts_a_failed_job_again_until_the_limit(
    tmp_path: Path, scontrol: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = statuses(tmp_path, "failed", "killed by SIGKILL")
    for _ in range(2):
        outcome_module.main([str(folder), "137", "--max-failures", "1", "--max-restarts", "9"])
    assert scontrol.read_text() == "requeue 9\n"  # the second time the limit was reached
    text = capsys.readouterr().err
    assert "job 9, start 1: failed: rank 0 of 1 on here: killed by SIGKILL" in text
    assert "not started again after 2 failures" in text
    assert [event["status"] for event in read_events(tmp_path / "run")] == ["failed", "failed"]


def test_it_says_so_when_slurm_refuses(tmp_path: Path, scontrol: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho no permission >&2\nexit 1\n")
    folder = statuses(tmp_path, "saved", "")
    code = outcome_module.main([str(folder), "75", "--max-failures", "1", "--max-restarts", "9"])
    assert code == 75
    assert "SLURM does not start job 9 again: no permission. Give the same command once more" in capsys.readouterr().err


def test_outside_of_a_job_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(RuntimeError, match="SLURM_JOB_ID is not set: only a SLURM job's script calls this"):
        outcome_module.main([str(tmp_path), "1", "--max-failures", "1", "--max-restarts", "9"])
