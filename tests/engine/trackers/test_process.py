"""Trackers in processes of their own: what they are told, over restarts too, and that none of them stops a run."""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from mvit_video.engine import tracking
from mvit_video.engine.trackers import child, process
from mvit_video.engine.trackers.interface import RunInfo
from mvit_video.engine.tracking import Tracker, TrackerOptions, read_metrics
from mvit_video.runtime.interruption import Interrupted
from tests.engine.test_tracking import tracker_for
from tests.paths import ROOT

OWN = "tests.engine.trackers.own_trackers"


def told(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


def tracker_with(folder: Path, name: str, *, timeout_s: float = 60.0) -> Tracker:
    chosen = TrackerOptions(names=[name], project="birds", timeout_s=timeout_s, options={"optim": {"lr": 0.1}})
    return tracker_for(folder, trackers=chosen)


def test_a_tracker_is_told_everything_and_goes_on_with_its_run(tmp_path: Path) -> None:
    run = tmp_path / "robin"
    with pytest.raises(Interrupted), tracker_with(run, f"{OWN}.Notes") as tracker:
        tracker.log_step(1, {"loss": 2.0})
        tracker.log_eval(1, {"video_top1": 50.0})
        tracker.log_best(1, "video_top1", 50.0)
        raise Interrupted("asked to stop")
    assert told(run) == [
        ["open", "robin", "birds", {}, {"optim": {"lr": 0.1}}],
        ["log", 1, {"train/loss": 2.0}],
        ["log", 1, {"eval/video_top1": 50.0}],
        ["note", {"best/video_top1": 50.0, "best/step": 1}],
        ["finish", "saved"],
    ]
    assert not (run / "tensorboard").exists()  # trackers are chosen
    with tracker_with(run, f"{OWN}.Notes") as tracker:
        tracker.start(1)
        tracker.log_step(2, {"loss": 1.0})
    again = told(run)[5:]
    assert again[0][3] == {"id": "first", "place": str(run / "notes.jsonl")}
    assert again[1:] == [["log", 2, {"train/loss": 1.0}], ["finish", "done"]]


@pytest.mark.parametrize(
    ("name", "said", "kept"),
    [
        ("Refusing", "Refusing: ConnectionError: the server is away; training goes on", [1, 2, 3]),
        ("Hanging", "has not ended after 1 s and is left behind; up to 2 of 3 records are missing", [1]),
        ("Crashing", "has ended by itself; its output is in", [1]),
        ("NeverEnding", "has not ended after 1 s and is left behind; up to 0 of 3 records", [1, 2, 3]),
        ("refused_at_the_start", "could not be started: RuntimeError: no key.", None),
        ("not_there", "could not be started: AttributeError: module", None),
    ],
)
def test_a_tracker_that_fails_stops_nothing_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, said: str, kept: list[int] | None
) -> None:
    with tracker_with(tmp_path, f"{OWN}.{name}") as tracker:
        tracker.log_step(1, {"loss": 2.0})
        _, *_ = (tracker.log_step(step, {"loss": 1.0}) for step in (2, 3))
        if name in ("Hanging", "NeverEnding"):
            wait_until_taken(tracker, 1 if name == "Hanging" else 3)
            for one in tracker._trackers:
                one.timeout_s = 1.0
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert said in warnings[0]
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    if kept is None:
        assert not (tmp_path / "notes.jsonl").exists()
    else:
        assert [line[1] for line in told(tmp_path) if line[0] == "log"] == kept
    if name == "Crashing":
        assert "a last word" in (tmp_path / "trackers" / f"{OWN}.Crashing.log").read_text()


def wait_until_taken(tracker: Tracker, records: int) -> None:
    import time

    until = time.monotonic() + 60
    while tracker._trackers[0]._taken < records and time.monotonic() < until:
        time.sleep(0.02)


def test_a_tracker_that_hangs_in_the_middle_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(process.TrackerProcess, "_start", lambda self: pytest.fail("no process"))
    monkeypatch.setattr(process.TrackerProcess, "_start", refuse)
    one = process.TrackerProcess("slow", RunInfo(name="a", project="b", run_dir=str(tmp_path), options={}), timeout_s=1)
    one._lost = False
    caplog.clear()
    monkeypatch.setattr(process.time, "monotonic", lambda: now)
    one.log(1, {"loss": 1.0})
    for now in (200.0, 400.0, 500.0):
        one.log(int(now), {"loss": 1.0})
    assert [record.getMessage() for record in caplog.records] == [
        f"slow has not answered for 400 s; training goes on, and what it misses is kept for it. Its output is in "
        f"{tmp_path / 'trackers' / 'slow.log'}"
    ]
    one._take({"taken": 4})
    assert not one._silent


def refuse(self: process.TrackerProcess) -> Any:
    raise OSError("no room")


def test_a_training_that_dies_leaves_a_failed_run(tmp_path: Path) -> None:
    """Nothing more comes through the pipe: the tracker's process ends the run as failed, by itself."""
    info = {"name": "a", "project": "b", "run_dir": str(tmp_path), "options": {}}
    reports: list[Any] = []
    child.serve(f"{OWN}.Notes", [{"open": info}, {"log": 1, "values": {"train/loss": 1.0}}], reports.append)
    assert told(tmp_path)[-1] == ["finish", "failed"]
    assert reports[-1] == {"finished": 0}


def test_the_tracker_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    (tmp_path / "tracker_of_the_page.py").write_text(re.findall(r"```python\n(.*?)```", page, flags=re.S)[0])
    monkeypatch.syspath_prepend(tmp_path)
    info = {"name": "a", "project": "b", "run_dir": str(tmp_path), "options": {}}
    said = [{"log": 1, "values": {"train/loss": 1.0}}, {"note": {"best/step": 1}}, {"finish": "done"}]
    reports: list[Any] = []
    child.serve("tracker_of_the_page.open_run", [{"open": info}, *said], reports.append)
    assert reports[0]["opened"]["id"] == "lines.txt" and reports[-1] == {"finished": 0}
    assert (tmp_path / "lines.txt").read_text() == "1 {'train/loss': 1.0}\n0 {'best/step': 1}\n"


def test_trackers_are_for_the_first_rank(tmp_path: Path) -> None:
    chosen = TrackerOptions(names=[f"{OWN}.Notes"])
    with tracker_for(tmp_path / "run", enabled=False, trackers=chosen) as tracker:
        tracker.start(0)
        tracker.log_step(1, {"loss": 1.0})
        tracker.log_best(1, "loss", 1.0)
    assert not (tmp_path / "run").exists()


def test_tensorboard_that_cannot_be_imported_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with tracker_for(tmp_path) as tracker:
        tracker.log_step(1, {"loss": 1.0})
        tracker.log_step(2, {"loss": 1.0})
    assert caplog.text.count("tensorboard could not be started") == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_a_library_that_is_missing_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    one = process.TrackerProcess.__new__(process.TrackerProcess)
    one.name, one.folder = "wandb", tmp_path
    assert one._advice("ModuleNotFoundError: No module named 'wandb'") == " Install it: pip install mvit_video[wandb]."
    assert os.fspath(tmp_path) in one._advice("UsageError: no key")
    assert tracking.TENSORBOARD not in child.TRACKERS
