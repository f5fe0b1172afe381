"""The table of runs, from journals, metrics and the scheduler."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvit_video import runs
from mvit_video.cluster.supervisor import journal
from mvit_video.runs import judge_state

HOST = os.uname().nodename


def event(kind: str, job: str = "7", **more: Any) -> dict[str, Any]:
    return {"event": kind, "job": job, "time": 0.0, **more}


STARTED = event("start", nodes="node[1-2]")


@pytest.mark.parametrize(
    ("events", "queue", "expected"),
    [
        ([event("submit")], {"7": ("PENDING", "Resources")}, ("waiting", "Resources")),
        ([event("submit"), STARTED], {"7": ("RUNNING", "None")}, ("running", "")),
        (
            [STARTED, event("end", ended="saved", cause="asked to stop; saved")],
            {"7": ("PENDING", "BeginTime")},
            ("preempted", "BeginTime"),
        ),
        ([STARTED], {"7": ("CANCELLED", "None")}, ("cancelled", "job 7: cancelled")),
        ([STARTED], {"7": ("TIMEOUT", "TimeLimit")}, ("failed", "job 7: timeout")),
        ([STARTED, event("end", ended="failed", cause="rank 1: no")], {"7": ("FAILED", "")}, ("failed", "rank 1: no")),
        ([STARTED, event("end", ended="done", cause="finished")], {}, ("done", "")),
        ([STARTED, event("end", ended="saved", cause="asked to stop")], {}, ("stopped", "asked to stop")),
        ([STARTED], {}, ("failed", "job 7 has left the queue without a word")),
        ([event("start", "local", nodes=HOST, pid=os.getpid())], {}, ("running", "")),
        (
            [event("start", "local", nodes=HOST, pid=2**22 + 1)],
            {},
            ("failed", f"process {2**22 + 1} is gone without a word (killed?)"),
        ),
        ([], {}, ("failed", "it ended before it began")),
    ],
)
def test_states(events: list[dict[str, Any]], queue: dict[str, tuple[str, str]], expected: tuple[str, str]) -> None:
    assert judge_state(events, queue, silent_s=1e6) == expected


def test_a_run_elsewhere_that_still_logs_is_running() -> None:
    assert judge_state([STARTED], {}, silent_s=10.0) == ("running", "")


def write_run(folder: Path) -> Path:
    run_dir = folder / "s"
    journal(run_dir, event="start", job="local", nodes=HOST, pid=os.getpid(), restart=0)
    journal(run_dir, event="steps", total=100)
    journal(run_dir, event="end", job="local", ended="saved", cause="asked to stop")
    journal(run_dir, event="start", job="local", nodes=HOST, pid=os.getpid(), restart=0)
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": step, "time": 1000.0 + 2 * step, "clips_per_s": 8.0} for step in range(1, 31)
    ]
    lines.insert(10, {"kind": "eval", "step": 10, "video_top1": 61.5})
    lines.append({"kind": "eval", "step": 30, "video_top1": 60.0})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run_dir / "metrics.jsonl").write_text(text + '{"kind": "tra')  # a line that is being written
    return folder


def test_a_run_from_its_files(tmp_path: Path) -> None:
    (run,) = runs.list_runs(write_run(tmp_path), {})
    assert run == runs.Run(
        name="s",
        state="running",
        reason="",
        step=30,
        total_steps=100,
        top1=61.5,
        clips_per_s=8.0,
        eta_s=140.0,
        restarts=1,
        job="local",
    )


def test_the_command(tmp_path: Path) -> None:
    write_run(tmp_path)
    command = [sys.executable, "-m", "mvit_video.runs", str(tmp_path)]
    environment = {**os.environ, "PATH": str(tmp_path), "COLUMNS": "200"}
    table = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "30/100" in table and "61.50" in table and "2 min" in table
    found = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env=environment).stdout
    assert json.loads(found)["restarts"] == 1


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.main([str(tmp_path / "nowhere")]) == 1
    assert "give the output_dir of the runs" in capsys.readouterr().err
    assert runs.main([str(tmp_path)]) == 0
    assert "no runs in" in capsys.readouterr().out


def test_slurm_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = tmp_path / "squeue"
    tool.write_text("#!/bin/sh\necho 'cannot contact controller' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert runs.main([str(write_run(tmp_path))]) == 0
    shown = capsys.readouterr()
    assert "squeue fails: cannot contact controller; what follows is from the run directories alone" in shown.err
    assert "30/100" in shown.out
