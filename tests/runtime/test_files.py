"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from mvit_video.runtime.cores import usable_cores
from mvit_video.runtime.files import replacing, write_text


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
        assert beside == tmp_path / ".a.txt.tmp"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk"), replacing(path) as beside:
        beside.write_text("half")
        raise RuntimeError("disk")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    with pytest.raises(FileNotFoundError), replacing(path):
        pass  # nothing was written
    assert path.read_text() == "old"


def test_each_process_may_write_beside_by_itself(tmp_path: Path) -> None:
    with replacing(tmp_path / "a", per_process=True) as beside:
        assert beside.name == f".a.{os.getpid()}.tmp"
        beside.write_bytes(b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é \udcff")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "é \\udcff"


def test_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 7, 8}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores() == 5
