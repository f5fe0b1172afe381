"""What is said of a loader worker that died or fell silent."""

import pytest

from mvit_video.data.loading import worker_monitor
from mvit_video.data.loading.worker_monitor import FileNote, FileNotes, death_message, stuck_message


def test_the_board_keeps_each_workers_last_file() -> None:
    notes = FileNotes(2)
    assert notes.last(0) is None
    notes.note(0, "/videos/très long.mp4")
    notes.note(1, "b.mp4")
    notes.done(1)
    first, second = notes.last(0), notes.last(1)
    assert first is not None
    assert second is not None
    assert (first.name, first.active) == ("/videos/très long.mp4", True)
    assert 0 <= first.seconds < 60
    assert (second.name, second.active) == ("b.mp4", False)
    notes.note(0, "x" * 3000 + "/end.mp4")
    kept = notes.last(0)
    assert kept is not None
    assert kept.name.endswith("x/end.mp4")
    assert len(kept.name) > 900


def test_files_are_noted_by_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with worker_monitor.reading("a.mp4"):
        pass
    notes = FileNotes(1)
    monkeypatch.setattr(worker_monitor, "_own", None)
    worker_monitor.register_worker(notes, 0)
    with pytest.raises(KeyError), worker_monitor.reading("a.mp4"):
        noted = notes.last(0)
        raise KeyError
    assert noted is not None
    assert noted.active
    left = notes.last(0)
    assert left is not None
    assert not left.active


@pytest.mark.parametrize(
    ("exit_code", "last", "words"),
    [
        (
            -9,
            FileNote("a.mp4", True, 3.2),
            ["killed by SIGKILL, reading a.mp4 for 3 s.", "out of memory", "num_workers"],
        ),
        (-7, FileNote("a.mp4", False, 3.2), ["killed by SIGBUS, after reading a.mp4.", "/dev/shm", "--shm-size"]),
        (-11, FileNote("a.mp4", True, 0.1), ["killed by SIGSEGV", "crash in a library", "read that file alone"]),
        (3, None, ["ended with exit code 3, before it opened a file."]),
    ],
)
def test_a_death_names_cause_file_and_way_out(exit_code: int, last: FileNote | None, words: list[str]) -> None:
    text = death_message(worker=1, workers=4, pid=77, exit_code=exit_code, last=last)
    assert text.startswith("loader worker 1 of 4 (process 77) ")
    assert text.endswith("The same command goes on from the last checkpoint")
    for word in words:
        assert word in text


def test_silence_names_the_files_being_read_now() -> None:
    text = stuck_message(waited_s=300, last=[FileNote("a.mp4", True, 301), FileNote("b.mp4", False, 2), None])
    assert text.startswith("no batch for 300 s (data.worker_timeout_s)")
    assert text.endswith("Being read now:\n  worker 0: reading a.mp4 for 301 s")
    assert stuck_message(waited_s=1, last=[None]).endswith("No worker is reading a file")
