"""Work in isolated processes: no task can stop the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mvit_video.preparation.isolated_workers import Outcome, run_isolated
from tests.paths import ROOT


def task(text: str) -> str:
    """What a test asks a worker to do."""
    kind, _, argument = text.partition(":")
    if kind == "raise":
        raise KeyError(argument)
    if kind == "die" or (kind == "die_once" and not os.path.exists(argument)):
        Path(argument or os.devnull).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(60)
    if kind == "exit":
        os._exit(3)
    return f"{kind} done"


def run(*tasks: str, workers: int = 2, limit: float = 20.0) -> dict[str, Outcome[str, str]]:
    return {o.task: o for o in run_isolated(task, tasks, workers=workers, time_limit_s=limit)}


def test_every_failure_costs_its_own_task_alone(tmp_path):
    once = f"die_once:{tmp_path / 'died'}"
    outcomes = run("a", "raise:x", "die:", once, "exit:", "b", "c")
    assert {name: o.result for name, o in outcomes.items()} == {
        "a": "a done", "raise:x": None, "die:": None, once: "die_once done", "exit:": None, "b": "b done",
        "c": "c done",
    }  # fmt: skip
    assert (outcomes["raise:x"].failure, outcomes["raise:x"].reason) == ("error", "KeyError: 'x'")
    assert outcomes["die:"].failure == outcomes["exit:"].failure == "killed"
    assert outcomes["die:"].reason == "the process that read it was ended by SIGKILL, 2 times"
    assert outcomes["exit:"].reason == "the process that read it ended with status 3, 2 times"
    assert outcomes["a"].failure == outcomes["a"].reason == ""


def test_a_task_that_hangs_is_stopped_and_the_others_go_on():
    outcomes = run("hang:", "a", "b", workers=1, limit=0.5)
    assert (outcomes["hang:"].failure, outcomes["hang:"].reason) == ("timeout", "took more than 0.5 s and was stopped")
    assert outcomes["hang:"].seconds < 30  # not the whole sleep, and not tried twice
    assert outcomes["a"].result == "a done" and outcomes["b"].result == "b done"


def test_tasks_are_drawn_as_workers_become_free():
    drawn: list[int] = []

    def endless():
        while True:
            drawn.append(len(drawn))
            yield f"t{len(drawn)}"

    outcomes = run_isolated(task, endless(), workers=1, time_limit_s=20)
    assert next(outcomes).result == "t1 done"
    outcomes.close()
    assert len(drawn) <= 2


def test_no_tasks():
    assert run() == {}


@pytest.mark.parametrize(("arguments", "message"), [
    ({"workers": 0, "time_limit_s": 1}, "workers=0: at least one process must work"),
    ({"workers": 1, "time_limit_s": -1}, "time_limit_s=-1: must not be negative"),
])  # fmt: skip
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        next(run_isolated(task, ["a"], **arguments))


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = (
        "import sys\n"
        "from tests.preparation.test_isolated_workers import note_and_hang\n"
        "from mvit_video.preparation.isolated_workers import run_isolated\n"
        "if __name__ == '__main__':\n"
        "    list(run_isolated(note_and_hang, [sys.argv[1]], workers=1, time_limit_s=0))\n"
    )
    note = tmp_path / "pid"
    root = ROOT
    parent = subprocess.Popen([sys.executable, "-c", script, str(note)], cwd=root)
    try:
        pid = int(_await(lambda: note.read_text() if note.exists() else ""))
    finally:
        parent.kill()
        parent.wait()
    _await(lambda: not _runs(pid))


def note_and_hang(path: str) -> None:
    """A task that says in which process it runs, and then hangs."""
    beside = Path(path + ".tmp")
    beside.write_text(str(os.getpid()))
    beside.rename(path)
    time.sleep(900)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def _await(condition):
    """Wait until a condition holds; its value."""
    for _ in range(3000):
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("waited for five minutes in vain")
