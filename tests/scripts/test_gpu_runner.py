"""The runner of scripts/bench_gpu.py with steps that go wrong in every way: time, lost processes, files written."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu import (
    report,
    runner,
)
from gpu.context import Context, FatalError, read_records
from gpu.steps import Step, chosen_steps

from mvit_video.runtime.processes import process_start
from tests.paths import ROOT

FAKE = Step(name="fake", title="A step of the tests", module="tests.scripts.gpu_steps", seconds=30)
SECOND = Step(name="second", title="Another", module="tests.scripts.gpu_steps", seconds=30)


@pytest.fixture
def going(monkeypatch: pytest.MonkeyPatch) -> Callable[..., runner.Outcome]:
    """Run the fake step of a kind in a folder."""

    def run(kind: str, folder: Path, **changes: Any) -> runner.Outcome:
        monkeypatch.setenv("GPU_STEP_KIND", kind)
        folder.mkdir(exist_ok=True)
        return runner.run_step(FAKE, folder=folder, where="rehearsal", **{"seconds": 30.0, **changes})

    return run


def rows_of(outcome: runner.Outcome) -> list[dict[str, Any]]:
    return [record["row"] for record in outcome.records if "row" in record]


def test_a_case_that_raises_is_a_line_with_its_error(going: Callable[..., runner.Outcome], tmp_path: Path) -> None:
    outcome = going("raises", tmp_path)
    rows = rows_of(outcome)
    assert outcome.status == "done" and [row["case"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["remark"] == "error: ValueError: three is too many" and rows[3]["twice"] == 6
    assert "three is too many" in (tmp_path / "log.txt").read_text()


def test_a_step_that_overruns_is_ended_and_keeps_what_it_has(
    going: Callable[..., runner.Outcome], tmp_path: Path
) -> None:
    for seconds in (3, 15, 75):  # until one is enough to reach the case that takes for ever
        folder = tmp_path / str(seconds)
        outcome = going("overruns", folder, seconds=float(seconds))
        if "case 2" in outcome.error:
            break
    assert outcome.status == "out of time"
    assert outcome.error == f"ended after {seconds} s, in numbers: case 2"
    assert [row["case"] for row in rows_of(outcome)] == [0, 1]
    assert "in case" in (folder / "log.txt").read_text()  # where the process was


def test_a_step_ends_with_its_runner(tmp_path: Path) -> None:
    """Its processes have sessions of their own, and would keep the card until their time is over."""
    code = (
        "import pathlib, sys; from gpu import runner; from tests.scripts.test_gpu_runner import FAKE\n"
        "runner.run_step(FAKE, folder=pathlib.Path(sys.argv[1]), where='rehearsal', seconds=600.0)"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "scripts")))
    environment = {**os.environ, "GPU_STEP_KIND": "overruns", "PYTHONPATH": paths}
    ran = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 240
    rows: list[dict[str, Any]] = []
    while not rows:
        assert time.monotonic() < deadline and ran.poll() is None
        time.sleep(0.05)
        rows = [record["row"] for record in read_records(tmp_path / "records.jsonl")[0] if "row" in record]
    ran.kill()
    ran.wait()
    while process_start(rows[0]["process"]) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("kind", "status"), [("is killed", "killed"), ("loses the card", "failed")])
def test_a_lost_process_is_followed_by_another_for_the_other_cases(
    kind: str, status: str, going: Callable[..., runner.Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEAST_S", 0.5)
    outcome = going(kind, tmp_path)
    rows = {row["case"]: row for row in rows_of(outcome)}
    assert outcome.status == status and rows[3]["twice"] == 6
    assert rows[3]["process"] != rows[0]["process"] == rows[1]["process"]
    if kind == "is killed":
        assert outcome.error.startswith("signal SIGKILL") and "in numbers: case 2" in outcome.error
    else:
        assert "illegal memory access" in rows[2]["remark"] and "FatalError" in outcome.error


def test_parts_share_the_cases(
    going: Callable[..., runner.Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a rehearsal each has one thread, unless the environment says otherwise."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    outcome = going("works", tmp_path, parts=2)
    assert {row["threads"] for row in rows_of(outcome)} == {"1"}
    assert outcome.status == "done"
    assert sorted(row["case"] for row in rows_of(outcome)) == [0, 1, 2, 3]
    assert not (tmp_path / "claims").exists()


def test_a_part_takes_the_next_case_that_none_has_begun(tmp_path: Path) -> None:
    """One that is busy with a long case takes fewer."""
    parts = [
        Context(step="s", records=tmp_path / "r", rehearse=True, deadline=time.monotonic() + 9, part=part, parts=2)
        for part in range(2)
    ]
    taken = [
        (number, case)
        for case, order in enumerate([(0, 1), (1, 0), (1, 0)])
        for number in order
        if parts[number].case("t", {"case": case}, dict) is not None
    ]
    assert taken == [(0, 0), (1, 1), (1, 2)]
    records, _ = read_records(tmp_path / "r")
    rows = [record for record in records if "row" in record]
    assert len(rows) == 3 and all(record["s"] >= 0 and record["cpu_s"] >= 0 for record in rows)


def test_a_step_that_fails_does_not_stop_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_STEP_KIND", "breaks")
    outcomes = runner.run([FAKE, SECOND], folder=tmp_path, minutes=1, where="rehearsal")
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert outcomes[0].error == "exit code 1: OSError: the step's own trouble"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rehearsal"] and [step["name"] for step in results["steps"]] == ["fake", "second"]
    section = (tmp_path / "section.md").read_text()
    assert section.startswith("## Rehearsal on the CPU") and "| fake | failed |" in section


def test_results_are_there_after_every_step_and_the_time_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def pretend(step: Step, *, seconds: float, **_: Any) -> runner.Outcome:
        if seen:
            seen.append(json.loads((tmp_path / "results.json").read_text())["steps"][0]["status"])
        seen.append(seconds)
        return runner.Outcome(step, "done", 1.0, seconds, records=[{"table": "t", "row": {"a": 1.0}}])

    monkeypatch.setattr(runner, "run_step", pretend)
    runner.run([FAKE, SECOND], folder=tmp_path, minutes=0.25, where="card")
    assert seen[0] == pytest.approx(13, abs=1) and seen[1] == "done"
    outcomes = runner.run([FAKE], folder=tmp_path, minutes=0.1, where="card")
    assert outcomes[0].status == "not run" and "4 s of the 0.1 minutes were left" in outcomes[0].error


def test_cases_are_left_out_when_time_is_short_or_they_were_done(tmp_path: Path) -> None:
    context = Context(step="s", records=tmp_path / "r", rehearse=True, deadline=time.monotonic() + 5)
    context.done = frozenset({"t: n 1"})
    assert context.case("t", {"n": 1}, dict) is None
    assert context.case("t", {"n": 2}, dict, needs_s=60) is None
    assert context.case("t", {"n": 3}, lambda: {"x": 1}) == {"x": 1}
    records, _ = read_records(tmp_path / "r")
    assert [r["row"] for r in records if "row" in r] == [
        {"n": 2, "remark": "left out: needs 60 s, and 5 s are left"},
        {"n": 3, "x": 1},
    ]


def test_an_error_of_the_card_ends_the_process(tmp_path: Path) -> None:
    context = Context(step="s", records=tmp_path / "r", rehearse=True, deadline=time.monotonic() + 5)

    def lost() -> dict[str, object]:
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(FatalError, match="device-side assert"):
        context.case("t", {"n": 1}, lost)


def test_tables_have_every_column_and_figures_that_count() -> None:
    rows = [{"a": 12345.6, "b": True}, {"a": 0.00012, "c": "x|y", "remark": "why"}]
    assert report.table_lines(rows) == [
        "| a | b | c | remark |",
        "| --- | --- | --- | --- |",
        "| 12,346 | yes |  |  |",
        "| 1.2e-04 |  | x/y | why |",
    ]


def test_of_a_long_table_with_verdicts_what_matters_is_shown() -> None:
    rows = [{"case": n, "difference": n / 100, "within the bound": True} for n in range(20)]
    rows += [{"case": 20, "difference": 9.0, "within the bound": False}, {"case": 21, "remark": "error: none"}]
    step = {"title": "Correctness", "status": "done", "error": "", "records": [{"table": "t", "row": r} for r in rows]}
    lines = report.step_lines(step)
    assert "20 of 22 lines are within their bounds; 14 of the others are in results.json alone." in lines
    assert [line.split("|")[1].strip() for line in lines[-9:-1]] == ["20", "21", "19", "18", "17", "16", "15", "14"]
    assert report.worth_showing(rows[:12]) == rows[:12]


def test_the_section_names_card_and_versions() -> None:
    facts = {"card": "NVIDIA H100", "torch": "2.11.0", "versions": ["torch"]}
    step = {"name": "card", "title": "The card", "status": "done", "seconds": 3.0, "error": ""}
    step["records"] = [
        {"fact": facts},
        {"note": "A sentence."},
        {"table": "rates", "row": {"what": "copy", "GB/s": 3000.0}},
    ]
    text = report.section([step], where="card", minutes=8, day="2026-01-02")
    assert text.startswith("## On a GPU: NVIDIA H100\n\n2026-01-02. torch 2.11.0. `python scripts/bench_gpu.py")
    assert "### The card\n\nA sentence.\n\n**rates**\n\n| what | GB/s |\n| --- | --- |\n| copy | 3,000 |" in text


def test_steps_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert [step.name for step in chosen_steps(["profile", "card"])] == ["card", "profile"]
    assert runner.main(["--steps", "speed"]) == 2
    assert "no step is called 'speed'; the steps are card, correctness" in capsys.readouterr().err
