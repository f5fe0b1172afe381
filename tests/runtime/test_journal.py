"""The journal of a run, today's and that of version 0.1."""

import json
from pathlib import Path

from mvit_video.runtime.journal import JOURNAL, LEGACY_JOURNAL, append_event, has_journal, read_events


def test_events_come_back_in_order(tmp_path: Path) -> None:
    run_dir = tmp_path / "größer"
    assert read_events(run_dir) == [] and not has_journal(run_dir)
    append_event(run_dir, "start", job="local", pid=7)
    append_event(run_dir, "end", job="local", status="failed", cause="keine Dateien in größer")
    start, end = read_events(run_dir)
    assert (start["event"], start["pid"], end["status"]) == ("start", 7, "failed")
    assert start["time"] <= end["time"] and has_journal(run_dir)
    assert "keine Dateien in größer" in (run_dir / JOURNAL).read_text("utf-8")


def test_a_torn_line_is_left_out_and_swallows_none(tmp_path: Path) -> None:
    append_event(tmp_path, "start", job="local")
    with open(tmp_path / JOURNAL, "a") as file:
        file.write(json.dumps({"event": "end"})[:5])
    assert [event["event"] for event in read_events(tmp_path)] == ["start"]
    append_event(tmp_path, "steps", total=8)
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "steps"]


def test_lines_without_what_their_event_has_are_left_out(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"event": "start"}\n{"event": "end", "job": "7"}\n3\n{"event": "steps"}\n')
    append_event(tmp_path, "end", job="7", status="failed", cause="no file a\u2028b\u0085c")
    assert [event["cause"] for event in read_events(tmp_path)] == ["no file a\u2028b\u0085c"]


def test_a_legacy_journal_is_read_first_with_todays_names_and_never_written(tmp_path: Path) -> None:
    legacy = tmp_path / LEGACY_JOURNAL
    lines = [
        {"time": 1.0, "event": "start", "job": "7", "restart": 0, "ranks": 4, "nodes": "node[1-2]"},
        {"time": 2.0, "event": "end", "job": "7", "restart": 0, "ended": "ended", "cause": "ended from outside"},
        {"time": 3.0, "event": "end", "job": "7", "restart": 1, "ended": "saved", "cause": "asked to stop; saved"},
    ]
    legacy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = legacy.read_bytes()
    assert has_journal(tmp_path)
    append_event(tmp_path, "start", job="8", restart=0)
    events = read_events(tmp_path)
    assert [event["event"] for event in events] == ["start", "end", "end", "start"]
    assert [event.get("status") for event in events] == [None, "cancelled", "saved", None]
    assert all("ended" not in event for event in events)
    assert legacy.read_bytes() == before
