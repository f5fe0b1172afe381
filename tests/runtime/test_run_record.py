"""What a run directory tells, from its journal, its metrics and the scheduler."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mvit_video.runtime.journal import append_event
from mvit_video.runtime.processes import machine_identity, process_start
from mvit_video.runtime.run_record import (
    RunSummary,
    Score,
    attempts_made,
    count_restarts,
    run_dirs,
    run_scores,
    run_state,
    summarize_run,
    validation_data,
)
from tests.run_directories import HOST, write_run

HERE, START_TIME = machine_identity()[0], process_start(os.getpid())


def event(kind: str, job: str = "7", **more: Any) -> dict[str, Any]:
    return {"event": kind, "job": job, "time": 0.0, **more}


STARTED = event("start", nodes="node[1-2]")


@pytest.mark.parametrize(
    ("events", "queue", "expected"),
    [
        ([event("submit")], {"7": ("PENDING", "Resources")}, ("waiting", "Resources")),
        ([event("submit"), STARTED], {"7": ("RUNNING", "None")}, ("running", "")),
        (
            [STARTED, event("end", status="saved", cause="asked to stop; saved")],
            {"7": ("PENDING", "BeginTime")},
            ("preempted", "BeginTime"),
        ),
        ([STARTED], {"7": ("CANCELLED", "None")}, ("cancelled", "job 7: cancelled")),
        ([STARTED], {"7": ("TIMEOUT", "TimeLimit")}, ("failed", "job 7: timeout")),
        ([STARTED, event("end", status="failed", cause="rank 1: no")], {"7": ("FAILED", "")}, ("failed", "rank 1: no")),
        ([STARTED, event("end", status="done", cause="finished")], {}, ("done", "")),
        ([STARTED, event("end", status="saved", cause="asked to stop")], {}, ("stopped", "asked to stop")),
        ([STARTED], {}, ("failed", "job 7 has left the queue without a word")),
        ([event("start", "local", nodes=HOST, pid=os.getpid())], {}, ("running", "")),
        (
            [event("start", "local", nodes=HOST, pid=2**22 + 1)],
            {},
            ("failed", f"process {2**22 + 1} is gone without a word (killed?)"),
        ),
        ([event("start", "local", pid=os.getpid(), machine=HERE, process_start=START_TIME)], {}, ("running", "")),
        (  # another process has the id now
            [event("start", "local", nodes=HOST, pid=os.getpid(), machine=HERE, process_start="1")],
            {},
            ("failed", f"process {os.getpid()} is gone without a word (killed?)"),
        ),
        ([], {}, ("failed", "it ended before it began")),
        (
            [STARTED, event("end", status="cancelled", cause="ended from outside")],
            {},
            ("cancelled", "ended from outside"),
        ),
        ([STARTED, event("end", status="refused", cause="node7 trains it")], {}, ("failed", "node7 trains it")),
    ],
)
def test_states(events: list[dict[str, Any]], queue: dict[str, tuple[str, str]], expected: tuple[str, str]) -> None:
    assert run_state(events, queue, silent_s=1e6) == expected


def test_a_run_elsewhere_that_still_logs_is_running() -> None:
    assert run_state([STARTED], {}, silent_s=10.0) == ("running", "")


def test_a_run_in_another_container_of_this_host_is_judged_by_its_log() -> None:
    elsewhere = [event("start", "local", nodes=HOST, pid=2**22 + 1, machine="another one", process_start="1")]
    assert run_state(elsewhere, {}, silent_s=5) == ("running", "")
    assert run_state(elsewhere, {}, silent_s=1e6)[0] == "failed"


def test_a_run_from_its_files(tmp_path: Path) -> None:
    (run_dir,) = run_dirs(write_run(tmp_path))
    assert summarize_run(run_dir, {}) == RunSummary(
        name="s",
        state="running",
        reason="",
        step=30,
        total_steps=100,
        top1=61.5,
        map=None,
        box_ap=None,
        clips_per_s=8.0,
        eta_s=140.0,
        restarts=1,
        job="local",
    )


def test_folders_of_others_are_named_and_hide_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_run(tmp_path)
    (folder / "private").mkdir(mode=0)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "private" and may(path, mode))  # for root
    assert [path.name for path in run_dirs(folder)] == ["s"]
    assert caplog.messages == [f"{folder}: left out, because they may not be looked into: private"]


def test_an_attempt_that_was_refused_does_not_hide_the_one_that_runs() -> None:
    running = event("start", "local", nodes=HOST, pid=os.getpid(), restart=0)
    second = event("start", "local", nodes=HOST, pid=1, restart=0)
    refused = event("end", "local", pid=1, restart=0, status="refused", cause="is being trained")
    assert attempts_made([running, second, refused]) == [running]
    assert attempts_made([second, refused]) == [second, refused]


def test_thousands_of_refused_attempts_are_not_compared_with_each_other() -> None:
    """A job started every minute beside the one that trains; the list of runs took seconds for each such run."""
    compared: list[object] = []

    class Job(str):
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)  # type: ignore[arg-type]

        __hash__ = str.__hash__

    running = {"event": "start", "job": "local", "restart": 0, "pid": 1}
    refused = []
    for pid in range(2, 502):
        about = {"job": Job("local"), "restart": 0, "pid": pid}
        refused += [{"event": "start", **about}, {"event": "end", "status": "refused", "cause": "", **about}]
    assert attempts_made([running, *refused]) == [running]
    assert len(compared) < 10 * len(refused)


def test_an_old_run_shows_its_history(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path) / "s"
    lines = [json.loads(line) for line in (run_dir / "journal.jsonl").read_text().splitlines()]
    old = [{"ended" if key == "status" else key: value for key, value in line.items()} for line in lines]
    (run_dir / "journal.jsonl").unlink()
    (run_dir / "lives.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    assert summarize_run(run_dir, {}).restarts == 1
    append_event(run_dir, "end", job="local", status="done", cause="finished")
    assert summarize_run(run_dir, {}).state == "done"


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path) / "s"
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write('\n1\n{"kind": "train"}\n["eval"]\n{"kind": "eval"}\n')
    assert (summarize_run(run_dir, {}).step, summarize_run(run_dir, {}).top1) == (30, 61.5)


def test_files_of_people_are_no_records(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path) / "s"
    (run_dir / "run.old.json").write_text("{}")
    (run_dir / "run.10.json").write_text('{"data": {"val": {"items": 8}}}')
    (run_dir / "run.9.json").write_text("{}")
    (run_dir / "mine").mkdir()
    (run_dir / "mine" / "results.json").write_text("[1, 2]")
    assert validation_data(run_dir) == {"items": 8}
    assert list(run_scores(run_dir)) == ["video_top1"]


def test_the_best_validation_is_found_however_long_the_file(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path) / "s"
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write("\n" + (json.dumps({"kind": "train", "step": 31, "time": 2000.0}) + "\n") * 8000)
    assert summarize_run(run_dir, {}).top1 == 61.5


def test_scores_of_validations_and_evaluations(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path) / "s"
    for folder, top1 in (("evaluation", 70.5), ("evaluation_shuffled", 20.0)):
        (run_dir / folder).mkdir()
        results = {"video_top1": top1, "checkpoint": "best.pt", "use_ema": True, "confusion": [[1]]}
        (run_dir / folder / "results.json").write_text(json.dumps(results))
    with open(run_dir / "metrics.jsonl", "a") as file:
        file.write("\n")
        for step, loss in ((40, 2.0), (50, 1.5), (60, 1.75), (70, None)):
            file.write(json.dumps({"kind": "eval", "step": step, "time": 1.0, "loss": loss}) + "\n")
    assert run_scores(run_dir) == {
        "video_top1": Score(61.5, 10, "validation"),
        "loss": Score(1.5, 50, "validation"),
        "evaluation/video_top1": Score(70.5, None, "evaluation"),
        "evaluation_shuffled/video_top1": Score(20.0, None, "evaluation_shuffled"),
    }


START, STEPS = event("start", "local"), {"event": "steps", "total": 100}


def end(status: str) -> dict[str, Any]:
    return event("end", "local", status=status, cause="")


@pytest.mark.parametrize(
    ("events", "restarts"),
    [
        ([], 0),
        ([START, STEPS], 0),
        ([START, STEPS, end("saved"), START], 1),  # it is starting just now
        ([START, STEPS, START, STEPS], 1),  # killed without a word
        ([START, STEPS, end("failed"), START, STEPS, end("done")], 1),
        ([START, STEPS, end("done"), START, STEPS, end("done"), START, STEPS, end("done")], 0),
        ([START, STEPS, end("saved"), START, end("failed"), START, STEPS], 1),  # refused for other options between
        ([START, end("failed"), START, STEPS], 0),
        ([START, START, STEPS, end("done"), end("done")], 0),  # launchers of two machines
        ([START, START, STEPS, end("saved"), end("saved"), START, START], 1),
        ([START, START, STEPS, START, STEPS, end("done"), end("done")], 1),  # one of them was lost and came again
        ([START, STEPS, end("done"), START, {"event": "forced"}, STEPS, end("done")], 1),
    ],
)
def test_restarts_are_those_that_went_on(events: list[dict[str, Any]], restarts: int) -> None:
    assert count_restarts(events) == restarts
