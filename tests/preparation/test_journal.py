"""The journal: what is known survives any interruption."""

import dataclasses
import json

import pytest

from mvit_video.preparation.journal import FileState, Journal, Record

STATE = FileState(name="/v/a.mp4", size=10, mtime_ns=5)
RECORD = Record(state=STATE, verify="decode", status="ok", digest="ab", num_frames=7, fps=29.97, seconds=0.25)


def test_records_come_back_as_they_were(tmp_path):
    written = dataclasses.replace(RECORD, written=FileState(name="/w/a.mp4", size=3, mtime_ns=9), recipe="r")
    other = dataclasses.replace(RECORD, state=dataclasses.replace(STATE, name="/v/\udcff.mp4"), reason="né")
    with Journal(tmp_path / "j") as journal:
        for record in (RECORD, other, written):
            journal.add(record)
    with Journal(tmp_path / "j") as journal:
        assert journal.find(STATE) == written  # the newest
        assert journal.find(other.state) == other
    assert written.file.name == "/w/a.mp4"
    assert RECORD.file is STATE


@pytest.mark.parametrize("change", [{"size": 11}, {"mtime_ns": 6}, {"name": "/v/b.mp4"}, {"start": 1}])
def test_a_file_that_changed_is_unknown(tmp_path, change):
    with Journal(tmp_path / "j") as journal:
        journal.add(RECORD)
        assert journal.find(STATE) == RECORD
        assert journal.find(dataclasses.replace(STATE, **change)) is None


def test_a_torn_line_costs_one_record(tmp_path):
    path = tmp_path / "j"
    second = dataclasses.replace(RECORD, state=dataclasses.replace(STATE, name="/v/b.mp4"))
    with Journal(path) as journal:
        journal.add(RECORD)
        journal.add(second)
    path.write_bytes(path.read_bytes()[:-20])
    third = dataclasses.replace(RECORD, state=dataclasses.replace(STATE, name="/v/c.mp4"))
    with Journal(path) as journal:
        assert journal.find(STATE) == RECORD
        assert journal.find(second.state) is None
        journal.add(third)
    with Journal(path) as journal:
        assert journal.find(third.state) == third
        assert journal.find(STATE) == RECORD


def test_records_of_earlier_releases_call_the_status_a_verdict(tmp_path):
    path = tmp_path / "j"
    old = json.loads(dataclasses.replace(RECORD, status="partial").to_json())
    old["verdict"] = old.pop("status")
    path.write_text(json.dumps(old) + "\n")
    with Journal(path) as journal:
        assert journal.find(STATE) == dataclasses.replace(RECORD, status="partial")


def test_lines_of_other_programs_and_versions_are_passed_over(tmp_path):
    path = tmp_path / "j"
    old = json.loads(RECORD.to_json()) | {"version": 0}
    path.write_text("\n".join([json.dumps(old), "[]", "{}", '{"version": 1}', "\x00\x01", ""]))
    with Journal(path) as journal:
        assert journal.find(STATE) is None


def test_decoding_covers_indexing_and_not_the_other_way_round():
    indexed = dataclasses.replace(RECORD, verify="index")
    assert RECORD.covers("decode") and RECORD.covers("index") and indexed.covers("index")
    assert not indexed.covers("decode")
    assert dataclasses.replace(indexed, status="broken").covers("decode")
    assert not dataclasses.replace(indexed, status="timeout").covers("decode")
