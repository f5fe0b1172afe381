"""One attempt at a time: the lock on a run directory, with real processes and a clock of its own."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mvit_video.runtime import run_lock, slurm
from mvit_video.runtime.run_lock import LOCK_FILE, LockOwner, RunLock, RunLockedError, current_owner, owner_state
from tests.paths import ROOT

HOLD = """
import sys, time
from pathlib import Path
from mvit_video.runtime.run_lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
RACE = """
import sys
from pathlib import Path
from mvit_video.runtime.run_lock import RunLock, RunLockedError
sys.stdin.readline()
try:
    RunLock(Path(sys.argv[1])).acquire()
except RunLockedError:
    print("refused", flush=True)
else:
    print("held", flush=True)
sys.stdin.read()
"""


def start(code: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def holder(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    process = start(HOLD, folder)
    try:
        assert first_line(process) == "held"
        yield process
    finally:
        process.kill()
        process.communicate()


JOB_STATE, CLUSTER_NAME = slurm.job_state, slurm.cluster_name  # those that ask SLURM


@pytest.fixture(autouse=True)
def outside_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is installed on this machine."""

    def absent(job: str) -> str | None:
        raise RuntimeError("no squeue on this machine")

    monkeypatch.setattr(slurm, "job_state", absent)
    monkeypatch.setattr(slurm, "cluster_name", lambda: None)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)


def left_behind(folder: Path, **changes: Any) -> LockOwner:
    """A lock of another owner."""
    owner = dataclasses.replace(current_owner(), **changes)
    folder.mkdir(exist_ok=True)
    (folder / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def elsewhere(folder: Path, **changes: Any) -> LockOwner:
    """A lock of an owner on another machine."""
    return left_behind(folder, **{"host": "node7", "machine": "node7", "boot": "b", "pid": 12, **changes})


def holds(folder: Path) -> dict[str, Any]:
    return json.loads((folder / LOCK_FILE).read_text())


def remains(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Clock:
    """A file system's clock: sleeping moves it, and does something."""

    def __init__(self, path: Path, *, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.now = path.stat().st_mtime
        self.meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def lock(self, folder: Path) -> RunLock:
        return RunLock(folder, clock=lambda: self.now, sleep=self.sleep)


# ---- holding and releasing


def test_the_lock_names_its_owner_and_goes_with_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run", job="17"):
        owner = holds(tmp_path / "run")
        assert (owner["pid"], owner["host"], owner["job"]) == (os.getpid(), os.uname().nodename, "17")
        assert remains(tmp_path / "run") == [LOCK_FILE]
    assert remains(tmp_path / "run") == []


def test_a_lock_is_released_when_the_training_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of luck"), RunLock(tmp_path):
        raise ValueError("out of luck")
    assert remains(tmp_path) == []


def test_a_live_owner_in_another_process_is_named_with_the_ways_out(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(RunLockedError) as caught:
            RunLock(tmp_path).acquire()
        text = str(caught.value)
        assert f"{tmp_path} is being trained by process {process.pid} on {os.uname().nodename}" in text
        assert f"since {holds(tmp_path)['since']}" in text
        assert "choose another name=..., wait until that one is done, or end it" in text
        assert f"kill {process.pid} on" in text and f"rm {tmp_path / LOCK_FILE}" in text
        assert holds(tmp_path)["pid"] == process.pid
        process.communicate("")
        with RunLock(tmp_path):
            assert holds(tmp_path)["pid"] == os.getpid()


def test_the_same_process_cannot_hold_it_twice(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(RunLockedError, match=f"process {os.getpid()} on"):
        RunLock(tmp_path).acquire()


def test_release_leaves_a_lock_alone_that_another_process_has_taken_over(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    other = elsewhere(tmp_path)
    lock.release()
    assert holds(tmp_path)["token"] == other.token
    lock.release()  # twice is once


def test_without_hard_links_the_lock_is_made_exclusively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError, match="is being trained by process"):
            RunLock(tmp_path).acquire()
        assert remains(tmp_path) == [LOCK_FILE]
    assert remains(tmp_path) == []


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def loses_the_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(target)

    monkeypatch.setattr(os, "link", loses_the_answer)
    with RunLock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()
    assert remains(tmp_path) == []


# ---- owners that are gone


def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path, sleep=pytest.fail):
            assert holds(tmp_path)["pid"] == os.getpid()
            assert remains(tmp_path) == [LOCK_FILE]
    assert f"taken over from process {process.pid} on" in caplog.text
    assert f"process {process.pid} does not exist any more" in caplog.text


def test_a_zombie_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet fetched by its parent
        with RunLock(tmp_path):
            assert holds(tmp_path)["pid"] == os.getpid()


def test_a_process_id_that_was_given_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_behind(tmp_path, process_start="1")
    with RunLock(tmp_path):
        assert f"process {os.getpid()} is another one now" in caplog.text


def test_a_machine_that_was_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_behind(tmp_path, boot="the one before")
    with RunLock(tmp_path):
        assert f"{os.uname().nodename} was restarted since" in caplog.text


def test_process_ids_of_another_container_are_not_looked_up_here(tmp_path: Path) -> None:
    owner = left_behind(tmp_path, machine=f"{os.uname().nodename} pid:[1]", pid=2**22 + 1)
    assert owner_state(owner, current_owner()) == ("unknown", "")


@pytest.mark.parametrize(
    ("owner", "me", "answer", "expected"),
    [
        ({"job": None}, {}, "RUNNING", ("unknown", "")),
        ({"job": "5"}, {"job": "5", "restart": 1}, "RUNNING", ("gone", "SLURM has started job 5 again")),
        ({"job": "5"}, {"job": "5", "restart": 0}, "RUNNING", ("unknown", "")),
        ({"job": "5"}, {}, None, ("gone", "SLURM does not know job 5 any more")),
        ({"job": "5", "user": "another"}, {}, None, ("unknown", "")),
        ({"job": "5"}, {}, "TIMEOUT", ("gone", "job 5 has ended (TIMEOUT)")),
        ({"job": "5"}, {"job": "6"}, "COMPLETING", ("gone", "job 5 has ended (COMPLETING)")),
        ({"job": "5"}, {}, "RUNNING", ("unknown", "")),
        ({"job": "5"}, {}, "PENDING", ("alive", "job 5 waits in the queue (PENDING) and will go on with the run")),
        ({"job": "5"}, {}, RuntimeError("squeue fails"), ("unknown", "")),
        ({"job": "5", "cluster": "a"}, {"cluster": "b"}, None, ("unknown", "")),
    ],
)
def test_an_owner_on_another_machine(
    monkeypatch: pytest.MonkeyPatch,
    owner: dict[str, Any],
    me: dict[str, Any],
    answer: str | RuntimeError | None,
    expected: tuple[str, str],
) -> None:
    def job_state(job: str) -> str | None:
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(slurm, "job_state", job_state)
    other = dataclasses.replace(current_owner(), host="node7", machine="node7", **owner)
    assert owner_state(other, dataclasses.replace(current_owner(), **me)) == expected


def test_a_requeued_job_takes_its_own_lock_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path, job="5", restart=1)
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with RunLock(tmp_path, sleep=pytest.fail):
        assert (holds(tmp_path)["job"], holds(tmp_path)["restart"]) == ("5", 2)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo RUNNING", "RUNNING"),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", None),
        ("echo 'cannot contact controller' >&2; exit 1", "squeue fails: cannot contact controller"),
    ],
)
def test_asking_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: str | None) -> None:
    tool = tmp_path / "squeue"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if expected is not None and "fails" in expected:
        with pytest.raises(RuntimeError, match=expected):
            JOB_STATE("5")
    else:
        assert JOB_STATE("5") == expected
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RuntimeError, match="no squeue on this machine"):
        JOB_STATE("5")


def test_the_name_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "scontrol"
    tool.write_text("#!/bin/sh\nprintf 'CliFilterPlugins = (null)\\nClusterName             = alps\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert CLUSTER_NAME() == "alps"
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "daint")
    assert CLUSTER_NAME() == "daint"
    monkeypatch.delenv("SLURM_CLUSTER_NAME")
    monkeypatch.setenv("PATH", "/nowhere")
    assert CLUSTER_NAME() is None


# ---- signs of life


def test_a_silent_owner_elsewhere_is_waited_for_and_then_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere(tmp_path)
    clock = Clock(tmp_path / LOCK_FILE)
    before = clock.now
    with clock.lock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()
    assert before + 120 < clock.now <= before + 122
    assert "no sign of life for 121 s" in caplog.text


def test_a_sign_of_life_in_the_future_does_not_prolong_the_wait(tmp_path: Path) -> None:
    """The clock was set back by a day since the owner touched its lock."""
    elsewhere(tmp_path)
    clock = Clock(tmp_path / LOCK_FILE)
    clock.now -= 86400
    before = clock.now
    with clock.lock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()
    assert before + 120 < clock.now <= before + 122


def test_one_that_has_been_silent_for_long_is_taken_over_at_once(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    long_ago = time.time() - 1000
    os.utime(tmp_path / LOCK_FILE, (long_ago, long_ago))
    with RunLock(tmp_path, sleep=pytest.fail):
        assert holds(tmp_path)["pid"] == os.getpid()
    assert remains(tmp_path) == []


def test_an_owner_elsewhere_that_gives_a_sign_of_life_is_not_robbed(tmp_path: Path) -> None:
    elsewhere(tmp_path, job="5", cluster="far")

    def touch() -> None:
        os.utime(tmp_path / LOCK_FILE, (clock.now, clock.now))

    clock = Clock(tmp_path / LOCK_FILE, meanwhile=touch)
    with pytest.raises(RunLockedError, match=r"process 12 on node7, SLURM job 5, user .* \(scancel 5\)"):
        clock.lock(tmp_path).acquire()
    assert holds(tmp_path)["host"] == "node7"


def test_an_owner_elsewhere_that_ends_meanwhile_is_followed(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    clock = Clock(tmp_path / LOCK_FILE, meanwhile=lambda: (tmp_path / LOCK_FILE).unlink())
    with clock.lock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()


def test_an_unreadable_lock_is_judged_by_its_silence(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text("{")
    clock = Clock(tmp_path / LOCK_FILE)
    with clock.lock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()
    (tmp_path / LOCK_FILE).write_text("{")
    clock = Clock(tmp_path / LOCK_FILE, meanwhile=lambda: os.utime(tmp_path / LOCK_FILE, (1, 1)))
    with pytest.raises(
        RunLockedError, match=r"is being trained by an unknown process \(its lock file cannot be read\)"
    ) as e:
        clock.lock(tmp_path).acquire()
    assert "kill" not in str(e.value)


def wait_until(answer: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not answer():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lock_is_touched_while_it_is_held(tmp_path: Path) -> None:
    with RunLock(tmp_path, heartbeat_s=0.01):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        wait_until(lambda: (tmp_path / LOCK_FILE).stat().st_mtime > 1)


def test_a_lock_that_was_removed_is_made_again(tmp_path: Path) -> None:
    with RunLock(tmp_path, heartbeat_s=0.01):
        (tmp_path / LOCK_FILE).unlink()
        wait_until((tmp_path / LOCK_FILE).exists)
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path).acquire()
    assert remains(tmp_path) == []


def test_an_owner_whose_lock_was_taken_over_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    lost = threading.Event()

    def on_lost(text: str) -> None:
        told.append(text)
        lost.set()

    lock = RunLock(tmp_path, heartbeat_s=0.01, on_lost=on_lost)
    lock.acquire()
    elsewhere(tmp_path)
    assert lost.wait(60)
    assert "was taken over by process 12 on node7" in told[0] and len(told) == 1
    lock.release()
    assert holds(tmp_path)["host"] == "node7"


def test_by_default_such_an_owner_ends(tmp_path: Path) -> None:
    process = start(
        HOLD.replace("RunLock(Path(sys.argv[1]))", "RunLock(Path(sys.argv[1]), heartbeat_s=0.01)"), tmp_path
    )
    try:
        assert first_line(process) == "held"
        beside = tmp_path / "beside"
        elsewhere(beside)
        os.replace(beside / LOCK_FILE, tmp_path / LOCK_FILE)
        assert process.wait(60) == run_lock.EXIT_REFUSED
    finally:
        process.kill()
        process.communicate()


# ---- races


def test_of_many_that_find_a_dead_owner_one_takes_over(tmp_path: Path) -> None:
    left_behind(tmp_path, pid=2**22 + 1)
    racers = [start(RACE, tmp_path) for _ in range(6)]
    try:
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = [first_line(racer) for racer in racers]
        assert sorted(answers) == ["held", *["refused"] * 5]
        assert holds(tmp_path)["pid"] == racers[answers.index("held")].pid
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()


def test_a_finding_that_is_out_of_date_takes_nothing(tmp_path: Path) -> None:
    """One process finds the owner gone and is held up; meanwhile another takes over, and its lock stays."""
    dead = left_behind(tmp_path, pid=2**22 + 1)
    slow, me = RunLock(tmp_path), current_owner()
    with RunLock(tmp_path):
        holder_token = holds(tmp_path)["token"]
        assert slow._replace(tmp_path / LOCK_FILE, dead, me) is False
        assert holds(tmp_path)["token"] == holder_token
    assert remains(tmp_path) == []


def test_who_dies_while_taking_over_is_replaced(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, pid=2**22 + 1)
    claimant = dataclasses.replace(current_owner(), pid=2**22 + 2)
    (tmp_path / f".{LOCK_FILE}.claim-{dead.token}").write_text(json.dumps(dataclasses.asdict(claimant)))
    with RunLock(tmp_path):
        assert holds(tmp_path)["pid"] == os.getpid()
        assert remains(tmp_path) == [LOCK_FILE]


def test_who_dies_while_releasing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()

    def killed(path: Path) -> str | None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_lock, "_token", killed)  # the next thing that it does after its claim
        lock.release()
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2 and ".claim-" in left[0].name
    for path in left:
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": 2**22 + 1}))
    with RunLock(tmp_path, sleep=pytest.fail):
        assert holds(tmp_path)["pid"] == os.getpid()
        assert remains(tmp_path) == [LOCK_FILE]


def test_while_another_process_is_taking_over_one_waits_for_it(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, pid=2**22 + 1)
    claim = tmp_path / f".{LOCK_FILE}.claim-{dead.token}"
    claim.write_text(json.dumps(dataclasses.asdict(current_owner())))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:  # it has done so
            left_behind(tmp_path)
            claim.unlink()

    with pytest.raises(RunLockedError, match="is being trained by process"):
        RunLock(tmp_path, sleep=sleep).acquire()
    assert len(slept) == 3


def test_a_lock_that_is_never_to_be_had_is_an_error_not_a_loop(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, pid=2**22 + 1)
    (tmp_path / f".{LOCK_FILE}.claim-{dead.token}").write_text(json.dumps(dataclasses.asdict(current_owner())))
    with pytest.raises(RunLockedError, match="changes its owner all the time"):
        RunLock(tmp_path, sleep=lambda seconds: None).acquire()
