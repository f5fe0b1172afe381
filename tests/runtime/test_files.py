"""Files are whole or absent."""

import errno
import os
from pathlib import Path

import pytest

from mvit_video.runtime.cores import usable_cores
from mvit_video.runtime.files import check_writable, replacing, write_text


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


def test_an_error_of_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a'"), replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as `write` raises it


def test_a_folder_that_cannot_be_written_to_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "folder", way_out="go")
    assert not os.listdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"written to .*/file/x: .*/file is no folder; go elsewhere"):
        check_writable(tmp_path / "file" / "x", way_out="go elsewhere")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(ValueError, match=f"{tmp_path} may not be written to; go"):
        check_writable(tmp_path / "a" / "b", way_out="go")
